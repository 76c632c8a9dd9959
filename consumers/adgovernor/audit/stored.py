"""Compares what a store has of a shard with the fold of its ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import orjson

from adgovernor.audit.followed import Followed
from adgovernor.audit.report import Report
from adgovernor.contracts import topics
from adgovernor.core.history import Person
from adgovernor.core.machine import UNREADABLE, USERS
from adgovernor.core.machines import machine_of
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard
from adgovernor.stores.base import Store

_Bucket = dict[str, bytes]
_T = TypeVar("_T")


@dataclass(slots=True)
class StoreState:
    """All that a store holds of a shard, at one tip."""

    height: int
    chain: str
    values: dict[str, _Bucket]

    @classmethod
    async def read(cls, store: Store, machine: UserShard | Treasury) -> StoreState | None:
        """What the store has now; None where that is nothing."""
        buckets = machine.resident_buckets()
        if not topics.is_treasury(machine.shard):
            buckets = (*buckets, USERS)
        meta, values = await store.read_buckets(machine.shard, buckets)
        return None if meta is None else cls(meta.tip.height, meta.tip.chain, values)


def compare_store(one: Followed, found: StoreState, report: Report) -> None:
    """Compares the store with the fold, at the moment when the fold is at the store's height."""
    place, spine = f"store of {one.shard} at height {found.height}", one.spine
    if found.height > spine.height:
        report.fault("store", place, f"the ledger ends at height {spine.height}: the store is ahead of it")
        return
    if found.chain != spine.chain:
        report.fault("store", place, "the store's tip is not this ledger's block of that height")
        return
    values = found.values
    ours = resident_form(one.machine)
    if not values["core"]:
        # A shard that has only been claimed has nothing to store; it is then as new.
        values["core"] = resident_form(machine_of(one.shard, one.machine.configured))["core"]
    again = _Again(one, values)
    for bucket, fields in ours.items():
        theirs = values.get(bucket, {})
        report.count("store fields", len(theirs))
        for name in sorted(fields.keys() | theirs.keys()):
            if fields.get(name) != theirs.get(name):
                again.judge(bucket, name, theirs.get(name), fields.get(name), report, place)
    if isinstance(one.machine, UserShard):
        theirs = dict(values[USERS])
        report.count("store fields", len(theirs))
        for name, value in _people(one, one.machine):
            if (stored := theirs.pop(name, None)) != value:
                again.judge(USERS, name, stored, value, report, place)
        for name, stored in theirs.items():
            again.judge(USERS, name, stored, None, report, place)


def resident_form(machine: UserShard | Treasury) -> dict[str, _Bucket]:
    """The stored form of all that is always in memory."""
    return {
        bucket: {name: value for name, value in fields.items() if value is not None}
        for bucket, fields in machine.encode(machine.resident_names()).items()
    }


def _people(one: Followed, machine: UserShard) -> Iterator[tuple[str, bytes | None]]:
    yield from ((name, person.encode()) for name, person in machine.persons.items())
    yield from one.people.rest(machine)


class _Again:
    """The store's values as this release would write them: an older one may have written a value before it had some
    field, which is then read as its default. That is no difference; all else is."""

    def __init__(self, one: Followed, values: Mapping[str, _Bucket]) -> None:
        self._one = one
        self._values = values

    @cached_property
    def _resident(self) -> dict[str, _Bucket]:
        machine = machine_of(self._one.shard, self._one.machine.configured)

        def written() -> dict[str, _Bucket]:
            machine.restore(self._values)
            return resident_form(machine)

        return _read(written) or {}

    def judge(
        self, bucket: str, name: str, stored: bytes | None, ours: bytes | None, report: Report, place: str
    ) -> None:
        """Says what differs, where anything does."""
        if stored is not None and ours is not None:
            if bucket == USERS:
                written = _read(lambda: Person.decode(stored).encode())
            else:
                written = self._resident.get(bucket, {}).get(name)
            if written == ours and _is_part(orjson.loads(stored), orjson.loads(ours)):
                return
        report.fault(
            "store",
            f"{place}, {bucket} {name}",
            f"the store has {_short(stored)}, the ledger gives {_short(ours)}",
        )


def _read(read: Callable[[], _T]) -> _T | None:
    """What is read; None where a store's value cannot be read at all, which is a difference."""
    try:
        return read()
    except UNREADABLE:
        return None


def _is_part(stored: Any, ours: Any) -> bool:
    """Whether all that was stored is there: what reading ignores would otherwise not be noticed."""
    if isinstance(stored, dict) and isinstance(ours, dict):
        return all(name in ours and _is_part(value, ours[name]) for name, value in stored.items())
    if isinstance(stored, list) and isinstance(ours, list):
        return len(stored) <= len(ours) and all(map(_is_part, stored, ours))
    return bool(stored == ours)


def _short(value: bytes | None) -> str:
    return "nothing" if value is None else value[:300].decode("utf-8", "replace")
