"""Files of JSON objects, read line by line: what does not fit into memory need not."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO

import orjson

from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.files import foreign_form


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON object of a file, and where it stands."""

    place: str
    data: dict[str, Any]


class Lines:
    """A file of JSON lines, or of one JSON array; it can be gone through again and again.

    Each of its entries is an object, or a text that says what is wrong with it. Only an array, or one object over
    several lines, is held in memory as a whole.
    """

    def __init__(self, file: IO[bytes], path: str, name: str) -> None:
        self._file = file
        self._path = path
        self._name = name

    def __iter__(self) -> Iterator[Line | str]:
        first = self._first_line()
        if first.startswith(b"["):
            try:
                rows = orjson.loads(self._rest())
            except orjson.JSONDecodeError as error:
                raise BadInput(f"{self._path} begins as a JSON array but is not one: {error}") from error
            for number, row in enumerate(rows, 1):
                yield _line(f"{self._name}, entry {number}", row)
        elif (one := self._one_object(first)) is not None:
            yield _line(self._name, one)
        else:
            yield from self._each()

    def _begin(self) -> None:
        """Goes to the first byte of the text: some editors begin a file with a mark that is no part of it."""
        self._file.seek(0)
        if self._file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            self._file.seek(0)

    def _rest(self) -> bytes:
        self._begin()
        return self._file.read()

    def _first_line(self) -> bytes:
        """The first line that is not blank; the next one is read next."""
        self._file.seek(0)
        if (told := foreign_form(self._file.read(16))) is not None:
            raise BadInput(f"{self._path} {told}")
        self._begin()
        return next((text for raw in self._file if (text := raw.strip())), b"")

    def _one_object(self, first: bytes) -> Any:
        """The object of a file that is but one, written over several lines; else None."""
        if first.endswith(b"}") or not any(raw.strip() for raw in self._file):
            return None  # As lines of JSON begin.
        try:
            return orjson.loads(self._rest())
        except orjson.JSONDecodeError:
            return None

    def _each(self) -> Iterator[Line | str]:
        self._begin()
        number = 0
        for raw in self._file:
            # A line may also end as those of old editors do.
            for text in raw.splitlines():
                number += 1
                if text.strip():
                    place = f"{self._name}, line {number}"
                    try:
                        row = orjson.loads(text)
                    except orjson.JSONDecodeError as error:
                        yield f"{place}: not JSON: {error.msg} at column {error.colno}"
                    else:
                        yield _line(place, row)


@contextmanager
def opened(path: Path) -> Iterator[Lines]:
    """The entries of a file; ``-`` is standard input. What comes through a pipe is copied to disk, to be there again.

    Raises:
        BadInput: when the file cannot be read.
    """
    with ExitStack() as held:
        if str(path) == "-":
            if sys.stdin is None:
                raise BadInput("standard input is closed; pipe the entries in, or name a file")
            called = name = "standard input"
            source: BinaryIO = sys.stdin.buffer
        else:
            called, name = str(path), path.name
            try:
                source = held.enter_context(path.open("rb"))
            except OSError as error:
                raise BadInput(
                    f"cannot read {path}: {error.strerror}; name a file of JSON lines or a JSON array"
                ) from error
        if str(path) == "-" or not source.seekable():
            copy = held.enter_context(TemporaryFile())
            copyfileobj(source, copy)
            yield Lines(copy, called, name)
        else:
            yield Lines(source, called, name)


def read_lines(path: Path) -> Iterator[Line | str]:
    """The entries of a file, once; see `opened`."""
    with opened(path) as lines:
        yield from lines


def _line(place: str, row: Any) -> Line | str:
    return Line(place, row) if isinstance(row, dict) else f"{place}: not a JSON object"
