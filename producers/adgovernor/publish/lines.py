"""Bulk publishing of JSON lines: a bad line is named by its number and reason, the others go on."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.errors import AdGovernorError, BadInput, BadSettings, Unavailable, Undecodable
from adgovernor.contracts.misspelt import misspelt
from adgovernor.publish.publisher import Bulk, Publisher

KEPT_BAD_LINES: Final = 100
"""How many bad lines a summary names; a file of another kind would otherwise fill the memory."""

_MARK: Final = 100
"""After so many messages it is noted which line they came to."""

LOOKED_INTO: Final = 1_000
"""How many lines are looked into for misspelt fields: a file is written one way throughout."""

Reader = Callable[[bytes], Iterable[Any]]
"""Turns one line into events; raises `BadInput` for a line that it cannot read."""
BadLineSeen = Callable[["BadLine"], None]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was not published. Lines count from 1; ``reason`` is a short code."""

    number: int
    reason: str
    message: str


@dataclass(slots=True)
class LinesSummary:
    """What became of the lines."""

    lines: int = 0
    published: int = 0
    """Messages acknowledged."""
    bad: int = 0
    blank: int = 0
    bad_lines: list[BadLine] = field(default_factory=list)
    """The first bad lines, at most `KEPT_BAD_LINES`."""
    done: int = 0
    """The first so many lines need not be published again: what they held is acknowledged, bad or blank."""


class StoppedAt(Unavailable):
    """Publishing stopped because Kafka did not answer.

    Attributes:
        summary: what was done until then; every line after ``summary.published`` good ones must be published
            again, and publishing more of them again is safe.
    """

    def __init__(self, summary: LinesSummary, cause: AdGovernorError) -> None:
        super().__init__(
            f"{cause}; of {summary.lines} lines read, {summary.published} messages are acknowledged; publish the "
            f"file again once Kafka is back, from line {summary.done + 1} on or all of it (what landed already is "
            "recognised by its ids)"
        )
        self.summary = summary


async def publish_lines(
    publisher: Publisher,
    topic: str,
    lines: Iterable[bytes] | AsyncIterable[bytes],
    *,
    reader: Reader | None = None,
    on_bad: BadLineSeen | None = None,
    on_line: Callable[[int], None] | None = None,
    on_misspelt: Callable[[int, str], None] | None = None,
    summary: LinesSummary | None = None,
) -> LinesSummary:
    """Publishes one event a line to an input topic (logical name); the line's own bytes, once they are valid.

    Args:
        reader: for lines of another format: gives the events of a line, which are then encoded.
        on_bad: called with each bad line.
        on_line: called after each line with its size in bytes, for a progress bar.
        on_misspelt: called with the number of a line and what is said of a field in it that is probably misspelt;
            the line is published all the same. Only the first `LOOKED_INTO` lines are looked into.
        summary: a new one, which then says how far this came also where it is cancelled.

    Raises:
        StoppedAt: where Kafka does not answer.
    """
    contract = contract_of(topic)
    summary = LinesSummary() if summary is None else summary
    bulk = Bulk(publisher, topic)
    marks: deque[tuple[int, int]] = deque([(0, 0)])
    """How many messages the first so many lines came to: marks for those under way, and one before."""
    try:
        async for line in _each(lines):
            summary.lines += 1
            text = line.strip()
            try:
                if not text:
                    summary.blank += 1
                elif reader is None:
                    event = contract.parse(text)
                    if on_misspelt is not None and summary.lines <= LOOKED_INTO:
                        for told in misspelt(event, orjson.loads(text)):
                            on_misspelt(summary.lines, told)
                    await bulk.put(*publisher.message(topic, event, text))
                else:
                    for event in reader(text):
                        await bulk.put(*publisher.message(topic, event))
            except BadSettings:
                # Wrong for every line alike.
                raise
            except BadInput as error:
                _note(summary, error, on_bad)
            if on_line is not None:
                on_line(len(line))
            if bulk.handed_over - marks[-1][0] >= _MARK:
                marks.append((bulk.handed_over, summary.lines))
                _reached(summary, bulk, marks)
        await bulk.finish()
    except Unavailable as error:
        _reached(summary, bulk, marks)
        raise StoppedAt(summary, error) from error
    finally:
        marks.append((bulk.handed_over, summary.lines))
        _reached(summary, bulk, marks)
        bulk.abandon()
    return summary


def _reached(summary: LinesSummary, bulk: Bulk, marks: deque[tuple[int, int]]) -> None:
    """Takes what is acknowledged by now into the summary."""
    summary.published = bulk.reached()
    while marks and marks[0][0] <= summary.published:
        summary.done = marks[0][1]
        if len(marks) == 1:
            return
        marks.popleft()


def _note(summary: LinesSummary, error: BadInput, on_bad: BadLineSeen | None) -> None:
    reason = error.reason if isinstance(error, Undecodable) else "invalid"
    bad = BadLine(summary.lines, reason, str(error))
    summary.bad += 1
    if len(summary.bad_lines) < KEPT_BAD_LINES:
        summary.bad_lines.append(bad)
    if on_bad is not None:
        on_bad(bad)


async def _each(lines: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
    else:
        for line in lines:
            yield line
