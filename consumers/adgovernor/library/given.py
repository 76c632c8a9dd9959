"""What callers give is checked here, once: a wrong value is `BadInput` that names it, whatever would have noticed it
later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from adgovernor.contracts.base import LONGEST_ID
from adgovernor.contracts.errors import BadInput

_ModelT = TypeVar("_ModelT", bound=BaseModel)


def made(kind: type[_ModelT], what: str, **terms: Any) -> _ModelT:
    """A contract's value. Raises `BadInput`, which begins with ``what`` and names the first field that is wrong."""
    try:
        return kind(**terms)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "terms"
        raise BadInput(f"{what}: {place}: {first['msg'].removeprefix('Value error, ')}") from error


def named(what: str, name: str) -> str:
    """A name that can be part of a key and of an event. Raises `BadInput`."""
    if not 1 <= len(name) <= LONGEST_ID or "\x00" in name:
        raise BadInput(
            f"{what} {name[:40]!r}: give a text of 1 to {LONGEST_ID} characters, none of them zero"
        )
    return name


def several(what: str, values: Iterable[str]) -> tuple[str, ...]:
    """Each value once, in order. Raises `BadInput` for one text, whose letters would pass as values."""
    if isinstance(values, str):
        raise BadInput(f"{what} is the text {values!r}; give a list of texts")
    return tuple(dict.fromkeys(values))
