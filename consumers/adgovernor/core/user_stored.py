"""How a user shard's state is kept in the store, and comes back from it.

Four buckets are always in memory; people are read when they are needed, and leave memory when they were not for long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heapify

import orjson

from adgovernor.contracts.kept import kept_json
from adgovernor.core.history import Person
from adgovernor.core.lateness import Fates
from adgovernor.core.leases import CampaignShare
from adgovernor.core.machine import UNREADABLE, USERS, BadState, Fields
from adgovernor.core.user_state import UserState


class StoredUserState(UserState):
    """A `UserState` with its stored form."""

    def resident_buckets(self) -> tuple[str, ...]:
        """See `machine.Machine.resident_buckets`."""
        return ("core", "campaigns", "open", "pods")

    def resident_names(self) -> dict[str, list[str]]:
        """See `machine.Machine.resident_names`."""
        return {
            "core": ["state"],
            "campaigns": list(self.shares),
            "open": list(self.open),
            "pods": list(self.open_pods),
        }

    def encode(self, changes: Mapping[str, Iterable[str]]) -> Fields:
        """See `machine.Machine.encode`."""
        fields: Fields = {}
        for bucket, names in changes.items():
            if bucket == USERS:
                persons = self.persons
                fields[bucket] = {name: persons[name].stored() for name in names}
            elif bucket == "open":
                opened = self.open
                fields[bucket] = {name: kept_json(opened[name]) if name in opened else None for name in names}
            elif bucket == "pods":
                fields[bucket] = self.encode_pods(names)
            elif bucket == "campaigns":
                fields[bucket] = {name: self.shares[name].encode() for name in names}
            else:
                fields[bucket] = {"state": self._encode_core()}
        return fields

    def _encode_core(self) -> bytes:
        return self._core_bytes(
            last_report_ms=self.last_report_ms, since_ms=self.since_ms, lateness=self.fates.rows()
        )

    def restore(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """See `machine.Machine.restore`."""
        since_ms = 0
        core = fields.get("core", {}).get("state")
        if core is not None:
            data = self._restore_core(core)
            self.last_report_ms = data["last_report_ms"]
            self.fates = Fates(data["lateness"])
            since_ms = data.get("since_ms", 0)
        self.shares = {
            name: CampaignShare.decode(value) for name, value in fields.get("campaigns", {}).items()
        }
        self._agenda.moved = set(self.shares)
        for name, value in fields.get("open", {}).items():
            entry = orjson.loads(value)
            slot, _, decision_id = name.partition("|")
            self._open(decision_id, name, tuple(entry))
            self._deadlines.append((entry[0], decision_id, int(slot)))
        heapify(self._deadlines)
        self.restore_pods(fields.get("pods", {}))
        self._holds = [
            (until_ms, campaign, day)
            for campaign, share in self.shares.items()
            for until_ms, day in share.holds
        ]
        heapify(self._holds)
        self._looking_back = Counter(share.looks_back for share in self.shares.values())
        self._set_horizon()
        self.since_ms = since_ms

    def load(self, state_key: str, value: bytes | None) -> None:
        """See `machine.Machine.load`."""
        before = self.persons.get(state_key)
        if before is not None and before.ops is None:
            return
        try:
            person = Person.decode(value)
        except UNREADABLE as error:
            raise BadState(f"a person's state cannot be read: {error!r}") from error
        if before is not None and before.ops is not None:
            for op, *args in before.ops:
                op(person, *args)
        self.persons[state_key] = person

    def unloaded(self) -> list[str]:
        """See `machine.Machine.unloaded`."""
        return [name for name, person in self.persons.items() if person.ops is not None]

    def evict(self, keep: int, pinned: set[str]) -> int:
        """See `machine.Machine.evict`."""
        surplus = len(self.persons) - keep
        if surplus <= 0:
            return 0
        dirty = self._changed.get(USERS, ())
        leaving: list[str] = []
        for name, person in self.persons.items():
            if len(leaving) == surplus:
                break
            if name not in pinned and name not in dirty and person.ops is None:
                leaving.append(name)
        for name in leaving:
            del self.persons[name]
        return len(leaving)

    def forget(self) -> None:
        """See `machine.Machine.forget`."""
        self.persons = {}
        self.shares = {}
        self._agenda.moved = set()
        self._looking_back = Counter()
        self.open = {}
        self.open_pods = {}
        self._deadlines = []

    def resident(self) -> int:
        """See `machine.Machine.resident`."""
        return len(self.persons)
