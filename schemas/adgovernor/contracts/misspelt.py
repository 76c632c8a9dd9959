"""Fields that are probably misspelt.

Contracts ignore fields that they do not know, so that a newer publisher can talk to an older reader. A person who
writes ``dialy_budget_micros`` would then get a campaign without a daily budget and no word about it. Whoever reads
what people write asks here; the path of live events does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

from adgovernor.contracts.base import Contract

_ALIKE: Final = 0.8
"""How alike two names are, of 1, where one may be the other misspelt."""


def alike(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that may be meant by ``name``; None where none is near."""
    return next(iter(get_close_matches(name, list(names), 1, _ALIKE)), None)


@lru_cache(maxsize=1_000)
def _near(name: str, names: tuple[str, ...]) -> str | None:
    # The lines of a file mostly have the same fields, and comparing names takes longer than deciding a request.
    return alike(name, names)


def misspelt(event: Contract, given: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What was ``given`` under a name that the event does not know but that is near one of its fields which was left
    out; each said with its path, as far down as there are contracts."""
    fields = type(event).model_fields
    for name, value in given.items():
        if name not in fields:
            meant = _near(name, tuple(field for field in fields if field not in given))
            if meant is not None:
                yield f"{path}{name} is no field; is {meant} meant?"
            continue
        inner = getattr(event, name)
        if isinstance(inner, Contract) and isinstance(value, Mapping):
            yield from misspelt(inner, value, f"{path}{name}.")
        elif isinstance(inner, tuple) and isinstance(value, Sequence) and not isinstance(value, str):
            for place, (one, raw) in enumerate(zip(inner, value, strict=False)):
                if isinstance(one, Contract) and isinstance(raw, Mapping):
                    yield from misspelt(one, raw, f"{path}{name}.{place}.")
