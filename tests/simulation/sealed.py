"""Sealed runs: the same people and faults, with persons' keys on a topic of their own, and people who are forgotten.

The auditor opens what is sealed with every key that there ever was, also with those that were ended: so it judges the
whole history, and what the shards no longer know must not have changed a cent.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson
from tests.simulation.broker import Broker, Network
from tests.simulation.workload import LOAD_S, Workload

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.ledger import ReadBlock, parse_block
from adgovernor.contracts.sealing import (
    decode_key,
    id_of,
    is_sealed,
    key_names,
    subject_of,
    unseal,
)
from adgovernor.runtime.key_log import KeyMessage
from adgovernor.runtime.ports import RawEvent

BUCKETS = ("keys", "key-names", "key-place")
"""What the store keeps beside the fold."""


def seal(workload: Workload, rng: random.Random) -> None:
    """Makes a workload that of a sealed deployment, in which some ask to be forgotten."""
    workload.rules = replace(workload.rules, sealing=True)
    requests = [
        a for a in workload.arrivals if a.topic == topics.AD_REQUESTS and b"request_id" in (a.value or b"")
    ]
    for _ in range(rng.randint(*workload.theme.erasures)):
        at_s = rng.uniform(3, LOAD_S)
        person = rng.choice(workload.people)
        key = next(
            (person[name] for name in ("household_id", "user_id", "device_id") if name in person), "s0"
        )
        event = {
            "type": "erasure",
            "routing_id": key,
            "time_ms": workload.epoch_ms + int(at_s * 1000) - rng.randint(0, 900),
        }
        if workload.theme.parting and rng.random() < workload.theme.parting:
            last = rng.choice(requests)
            request = orjson.loads(last.value or b"")
            at_s, key = last.at_s, (last.key or b"").decode()
            event.update(routing_id=key, time_ms=request["time_ms"] + 1)
        workload.arrivals.append(workload._arrival(at_s, topics.USER_EVENTS, key, event))
    workload.arrivals.sort(key=lambda arrival: arrival.at_s)


class SimKeyLog:
    """A `KeyLog` whose writes may be lost, late or unanswered, and whose reads may fail or fall short."""

    def __init__(self, broker: Broker, shard: str, network: Network) -> None:
        self._broker = broker
        self._partition = topics.partition_of_shard(shard)
        self._net = network
        self._faults = network.faults

    async def put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        """See `KeyLog.put`."""
        broker, faults, net, partition = self._broker, self._faults, self._net, self._partition

        def land() -> list[int]:
            first = broker.end(topics.PERSON_KEYS, partition)
            for name, value in messages:
                broker.produce(topics.PERSON_KEYS, partition, name.encode(), value, ())
            return [first + place for place in range(len(messages))]

        await net.step()
        if broker.away or faults.hit("append_lost"):
            await net.pass_away(deadline_s if faults.rng.random() < 0.5 else 0.02)
            raise Unavailable("keys were not acknowledged")
        if faults.hit("append_late"):
            net.afterwards(0.02, 3 * deadline_s, land)
            await net.pass_away(deadline_s if faults.rng.random() < 0.5 else 0.02)
            raise Unavailable("keys were not acknowledged in time")
        if faults.hit("append_reply_lost"):
            await net.call(land)
            raise Unavailable("the reply to keys was lost")
        return await net.call(land)

    async def read(self, offset: int, max_bytes: int) -> tuple[list[RawEvent], int]:
        """See `KeyLog.read`."""
        broker, faults = self._broker, self._faults

        def read() -> tuple[list[RawEvent], int]:
            if broker.away or faults.hit("read_fails"):
                raise Unavailable("person-keys cannot be read")
            messages = broker.topics.get((topics.PERSON_KEYS, self._partition), [])
            end = len(messages)
            if faults.hit("read_stale"):
                end = faults.rng.randint(min(offset, end), end)
            some = self._kept(messages[offset:end])[: max(1, max_bytes // 128)]
            if some and faults.hit("read_short"):
                some = some[: faults.rng.randint(0, len(some))]
            return some, end

        return await self._net.call(read)

    def _kept(self, events: Iterable[RawEvent]) -> list[RawEvent]:
        """What compaction left of these. Now and then the broker has just compacted all but the last message."""
        gone = self._broker.compacted.setdefault(self._partition, set())
        if self._faults.on and self._faults.rng.random() < 0.5:
            messages = self._broker.topics.get((topics.PERSON_KEYS, self._partition), [])
            dead = {event.key for event in messages if event.value is None}
            gone.update(event.offset for event in messages[:-1] if event.key in dead)
        return [event for event in events if event.offset not in gone]

    async def close(self) -> None:
        """See `KeyLog.close`."""


def opened(broker: Broker, shard: str, value: bytes, without: Container[str] = ()) -> ReadBlock:
    """A block with every record opened, but those that are sealed with some keys."""
    block = parse_block(value)
    place = (topics.PERSON_KEYS, topics.partition_of_shard(shard))
    made = {
        event.key: decode_key(event.offset, event.key, event.value)
        for event in (*broker.lost_events.get(place, ()), *broker.topics.get(place, ()))
        if event.value is not None
    }
    for index, record in enumerate(block.records):
        if is_sealed(record) and key_names(record)[0] not in without:
            key = made[id_of(key_names(record)[0]).encode()]
            block.records[index] = unseal(block.header, index, record, key)
    return block


def opened_records(broker: Broker, shard: str, value: bytes) -> list[dict[str, Any]]:
    """The records of a block as they would stand unsealed."""
    return [orjson.loads(record.line) for record in opened(broker, shard, value).records]


def given_up(block: dict[str, Any]) -> list[str]:
    """The names of keys that a block gives up: the topic lost them, or the ledger lost the erasures that ended them."""
    names: list[str] = (block.get("recovery") or {}).get("keys", [])
    return names


def check_keys(
    broker: Broker, shard: str, values: Iterable[bytes], stored: dict[str, bytes], names_stored: Iterable[str]
) -> list[str]:
    """What is wrong with a shard's keys in the end: everybody who was not erased has exactly theirs in the store, by
    person and by name, and every key that an erasure ended is gone from the topic."""
    owners: dict[str, list[str]] = {}
    ended: set[str] = set()
    for value in values:
        lost = set(given_up(orjson.loads(value)))
        ended |= lost
        owners = {person: [name for name in names if name not in lost] for person, names in owners.items()}
        for plain, sealed in zip(
            opened(broker, shard, value).records, parse_block(value).records, strict=True
        ):
            if not is_sealed(sealed):
                continue
            names = key_names(sealed)
            subject = subject_of(plain.personal.get("routing"), plain.key())
            known = owners.setdefault(subject, [])
            known += [name for name in names[:1] if name not in known]
            if plain.data["result"]["kind"] == "erasure":
                if set(names) != set(known):
                    return [f"{shard}: the erasure of {subject} ends {names}, they have {known}"]
                ended.update(names)
                owners[subject] = []
    found = {
        subject: {f"{offset}-{key_id}" for offset, key_id, _ in orjson.loads(value)}
        for subject, value in stored.items()
    }
    wanted = {subject: set(names) for subject, names in owners.items() if names}
    if found != wanted:
        return [f"{shard}: the store has keys {found}, the ledger names {wanted}"]
    if set(names_stored) != set().union(*wanted.values()):
        return [f"{shard}: the store has names of keys {sorted(names_stored)}, the ledger {wanted}"]
    # A key that compaction has taken does not come back, also where its tombstone is lost afterwards.
    partition = topics.partition_of_shard(shard)
    words = {
        event.key: event.value
        for event in broker.topics.get((topics.PERSON_KEYS, partition), ())
        if event.offset not in broker.compacted.get(partition, ())
    }
    return [
        f"{shard}: key {name} was ended and is still there"
        for name in sorted(ended)
        if words.get(id_of(name).encode()) is not None
    ]
