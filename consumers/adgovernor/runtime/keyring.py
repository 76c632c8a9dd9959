"""The keys of one user shard's people, where its ledger is sealed: which there are, who has which, and when one ends.

What holds them together:

- A key is on ``person-keys``, acknowledged by every replica, before the first block that is sealed with it is appended.
- The fold knows who has which keys: a record names its key, and says within whose it is. The store keeps both
  directions beside the state, by the same compare-and-set: at a tip it has every key that blocks up to there name, less
  those that erasures up to there ended. Keys named later lie on the topic from ``position`` on (an owner has folded
  those blocks before it makes a key), so a takeover walks ledger and topic side by side, and neither from the start.
- An erasure's record names every key of the person. Their tombstones are written once the outputs of its block and of
  all before it are acknowledged, and before the height counts as published: after a takeover they are written again
  until they are known to be. So a record whose key is gone has had its outputs, and needs none again.
- Where the store is away, somebody not in memory gets a key beside those that they may have. Only their erasure waits:
  all their keys must be known.
- The topic is as long as the ledger says: an acknowledged write that lands where a key was named already proves that it
  lost its tail, and the shard halts. A recovery fills the lost offsets, so that they are never given to other keys, and
  gives the lost keys up. A key that was given up counts as one that was never there.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections import OrderedDict, deque
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, NoReturn

import orjson
import structlog

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.contracts.events import Erasure
from adgovernor.contracts.ledger import ERASURE, BlockHeader, Draft, ReadBlock, ReadRecord, encode_personal
from adgovernor.contracts.sealing import (
    ID_BYTES,
    KEY_BYTES,
    NO_KEY,
    NewerKey,
    NoKey,
    PersonKey,
    Unreadable,
    decode_key,
    encode_key,
    id_of,
    is_sealed,
    key_names,
    keys_given_up,
    offset_of,
    seal,
    subject_of,
    unseal,
)
from adgovernor.core.machine import Fields, Input, Machine
from adgovernor.runtime.chain import ledger_of, new_spine
from adgovernor.runtime.key_log import KeyLog, KeyMessage
from adgovernor.runtime.ports import READ_TRIES, RawEvent
from adgovernor.runtime.trail import Trail
from adgovernor.runtime.world import StartOver, World
from adgovernor.stores.base import Meta, Tip

_log = structlog.get_logger(__name__)

KEYS: Final = "keys"
"""Bucket: person → their keys, oldest first, as [offset, id, secret]."""
NAMES: Final = "key-names"
"""Bucket: name of a key → [secret, person]."""
PLACE: Final = "key-place"
"""Bucket with the one field ``position``."""
_POSITION: Final = "position"


class Keyring:
    """One stay's keys in memory; dropped with it."""

    def __init__(self, world: World, log: KeyLog) -> None:
        self._world = world
        self._log = log
        self._people: dict[str, list[PersonKey]] = {}
        """Least recently used first; an empty list: it is known that there are none."""
        self._named: dict[str, PersonKey] = {}
        self._position = 0
        """Every key that the fold up to here names lies before this offset."""
        self._walked = 0
        self._ahead: OrderedDict[str, PersonKey] = OrderedDict()
        """Read on the way and not yet named by a block, in the topic's order."""
        self._changed: dict[str, set[str]] = {}
        self._fresh: dict[str, PersonKey] = {}
        self._unsure: set[str] = set()
        """People who got a key while it could not be known whether they had one."""
        self._doomed: deque[tuple[int, list[str]]] = deque()
        self._ending: dict[str, PersonKey] = {}
        """Of erasures whose tombstones are not known to be written."""
        self._missing: set[str] = set()
        """Named by folded records, not to be found, and not yet ended by an erasure."""
        self._landed = 0
        """Behind all that this owner knows to be on the topic."""
        self._without: Container[str] = world.given_up
        """Keys that are not looked for: the fold began with the ledger, and does without them."""
        self.lost = ""
        """How an acknowledged write proved that the topic lost its tail."""

    # --- The store's part -------------------------------------------------------------------------------------

    def restore(self, place: Mapping[str, bytes]) -> None:
        """Goes on from where the store is."""
        self._without = ()
        self._position = self._walked = int(place.get(_POSITION, b"0"))

    def take_changes(self, changes: dict[str, set[str]]) -> None:
        """Adds the fields that changed since the last call to the machine's."""
        changes.update(self._changed)
        self._changed = {}

    def encode(self, machine: Machine, changes: Mapping[str, Iterable[str]]) -> Fields:
        """The present values of these fields, the machine's among them."""
        own: Fields = {}
        for name in changes.get(KEYS, ()):
            keys = self._people.get(name, ())
            rows = [[key.offset, key.id, b64encode(key.secret).decode()] for key in keys]
            own.setdefault(KEYS, {})[name] = orjson.dumps(rows) if rows else None
        for name in changes.get(NAMES, ()):
            key = self._named.get(name)
            row = None if key is None else orjson.dumps([b64encode(key.secret).decode(), key.subject])
            own.setdefault(NAMES, {})[name] = row
        if PLACE in changes:
            own[PLACE] = {_POSITION: b"%d" % self._position}
        rest = {bucket: names for bucket, names in changes.items() if bucket not in (KEYS, NAMES, PLACE)}
        return {**machine.encode(rest), **own}

    def evict(self, keep: int, trail: Trail) -> None:
        """Drops the keys of people not met for the longest time, beyond ``keep`` and an eighth."""
        surplus = len(self._people) - keep
        if surplus <= keep // 8 or trail.confirmed is None:
            return
        pinned = trail.pinned(KEYS) | self._unsure
        names = trail.pinned(NAMES)
        leaving: list[str] = []
        for subject, keys in self._people.items():
            if len(leaving) == surplus:
                break
            if subject not in pinned and names.isdisjoint(key.name for key in keys):
                leaving.append(subject)
        for subject in leaving:
            for key in self._people.pop(subject):
                self._named.pop(key.name, None)

    def forget(self) -> None:
        """Lets go of all keys; not used again. What failed may keep it in cycles, which free nothing by themselves."""
        self._people, self._named, self._ending = {}, {}, {}
        self._ahead.clear()

    def _mark(self, bucket: str, name: str) -> None:
        self._changed.setdefault(bucket, set()).add(name)

    # --- Sealing what is decided ------------------------------------------------------------------------------

    async def look_up(self, chunk: Sequence[Input], trail: Trail) -> None:
        """Reads the keys of those whom a chunk is about and who are not in memory, in one round trip."""
        cold = list(
            dict.fromkeys(s for e in chunk if (s := _subject(e)) is not None and s not in self._people)
        )
        if not cold:
            return
        if not trail.away or trail.confirmed is None:
            try:
                await self._read_people(cold, trail)
                return
            except Unavailable:
                trail.went_away()
        for subject in cold:
            self._people[subject] = []
            self._unsure.add(subject)
        trail.assumed = True

    async def _read_people(self, subjects: Sequence[str], trail: Trail) -> None:
        for subject, value in zip(subjects, await trail.read(subjects, KEYS), strict=True):
            keys = []
            for offset, key_id, secret in orjson.loads(value or b"[]"):
                stored = PersonKey(offset, key_id, b64decode(secret), subject)
                keys.append(self._named.setdefault(stored.name, stored))
            known = {key.name for key in keys}
            # What is in memory only was made without the store, or is of the block being folded: it comes later.
            self._people[subject] = keys + [k for k in self._people.get(subject, ()) if k.name not in known]

    async def catch_up(self, trail: Trail) -> None:
        """The store is back: learns which keys people had before."""
        unsure = sorted(self._unsure)
        await self._read_people(unsure, trail)
        for subject in unsure:
            self._mark(KEYS, subject)
        self._unsure.clear()

    def ready(self, chunk: Sequence[Input]) -> int:
        """How many of a chunk's events may go into one block: an erasure ends its block, because whoever comes back
        gets a new key; and it waits until all keys of the person are known."""
        for place, event in enumerate(chunk):
            if isinstance(event.event, Erasure):
                return place if _subject(event) in self._unsure else place + 1
        return len(chunk)

    async def make(self, chunk: Sequence[Input]) -> None:
        """Makes keys for those who have none, and waits until every replica has them.

        Raises:
            Unavailable: when that is not known within the append's deadline.
        """
        new = list(dict.fromkeys(s for e in chunk if (s := _subject(e)) is not None and not self._people[s]))
        if not new:
            return
        rng = self._world.rng
        made = [(rng.randbytes(ID_BYTES).hex(), rng.randbytes(KEY_BYTES)) for _ in new]
        offsets = await self._put(
            [(key_id, encode_key(secret)) for key_id, secret in made], self._world.settings.append_deadline_s
        )
        for subject, (key_id, secret), offset in zip(new, made, offsets, strict=True):
            key = PersonKey(offset, key_id, secret, subject)
            self._people[subject] = [key]
            self._named[key.name] = self._fresh[key.name] = key

    async def _put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        """Writes all; their offsets. What lands before anything that was there when it was sent proves a loss."""
        there = max(self._position, self._landed)
        offsets = await self._log.put(messages, deadline_s)
        if min(offsets) < there:
            self.lost = f"offset {there - 1} was there, and a new message got offset {min(offsets)}"
        self._landed = max(self._landed, max(offsets) + 1)
        return offsets

    def seal(
        self, header: BlockHeader, lines: list[bytes], drafts: Sequence[Draft], events: Sequence[Input]
    ) -> None:
        """Seals a block's lines in place. A tick's line comes before those of ``events``."""
        first = len(lines) - len(events)
        for index, event in enumerate(events, first):
            subject = _subject(event)
            if subject is None:
                continue
            draft, keys = drafts[index], self._people.pop(subject)
            self._people[subject] = keys
            personal = encode_personal(
                event.routing or None, event.session, event.key, event.value, event.is_json, event.ids
            )
            erasing = draft.result["kind"] == ERASURE
            lines[index] = seal(
                header,
                index,
                lines[index],
                draft,
                personal,
                (event.topic, event.offset),
                keys if erasing else keys[:1],
            )
            if self._fresh and (key := self._fresh.pop(keys[0].name, None)) is not None:
                self._take(subject, key)
            if erasing:
                self._end(header.height, subject, [key.name for key in keys])
        for name, key in self._fresh.items():
            # Made for events that did not fit into the block. A later key may be named before this one would be, and
            # keys are looked for in the order in which they are named. That they had none stays known: the store may
            # still have those that an erasure ended.
            self._named.pop(name)
            self._people[key.subject or ""] = []
        self._fresh.clear()

    def _take(self, subject: str, key: PersonKey) -> None:
        """A block names a key for the first time."""
        self._mark(KEYS, subject)
        self._mark(NAMES, key.name)
        self._reach(key.offset)

    def _reach(self, offset: int) -> None:
        if offset >= self._position:
            self._position = offset + 1
            self._walked = max(self._walked, self._position)
            self._mark(PLACE, _POSITION)

    def _end(self, height: int, subject: str | None, names: list[str]) -> None:
        """An erasure ends these keys."""
        for name in names:
            key = self._named.pop(name, None)
            if key is not None:
                self._ending[name] = key
            self._missing.discard(name)
            self._mark(NAMES, name)
        if subject is not None:
            self._people[subject] = []
            self._mark(KEYS, subject)
        self._doomed.append((height, names))

    # --- Folding what was sealed ------------------------------------------------------------------------------

    async def _give_up(self, names: Sequence[str], trail: Trail) -> list[ReadRecord]:
        """A person accepted that these keys are gone. Where a key is still here, because it has outlived its tombstone
        or the store is an old copy, records that forget whose it was: to whoever folds without it they are unknown."""
        await self._find(names, trail)
        gone = [key for name in names if (key := self._named.get(name)) is not None]
        owners = list(dict.fromkeys(key.subject for key in gone if key.subject is not None))
        await self._read_people([subject for subject in owners if subject not in self._people], trail)
        for subject in owners:
            self._people[subject] = [key for key in self._people[subject] if key.name not in names]
            self._mark(KEYS, subject)
        for name in names:
            # What was read of their people may have brought it in again.
            self._named.pop(name, None)
            self._missing.discard(name)
            self._mark(NAMES, name)
        if any(self._people[subject] for subject in owners):
            await self._begin_without(names, trail)
        forgetting = {"result": {}, "deltas": [["erase"]]}
        return [
            ReadRecord({**forgetting, "personal": {"routing": subject}}, b"") for subject in owners if subject
        ]

    async def _begin_without(self, names: Sequence[str], trail: Trail) -> NoReturn:
        """Somebody has another key besides: what that one sealed is still theirs, and is not to be told from the rest
        any more. So the fold begins anew and does without the others from the start."""
        world, tip = self._world, trail.confirmed
        world.given_up.update(names)
        if tip is not None and tip.height > 0:
            base = Meta(Tip(ledger_of(tip), 0, ""), new_spine(world.shard).encode())
            await world.store.reset(world.shard, tip, base)
        raise StartOver("keys", "a key was given up whose owner has others")

    async def fold(self, block: ReadBlock, trail: Trail) -> None:
        """Opens a block's records in place, as far as their keys are there, and takes note of who has which."""
        if block.header.recovery is not None:
            block.records += await self._give_up(keys_given_up(block.header), trail)
        sealed = [
            (i, record, key_names(record)) for i, record in enumerate(block.records) if is_sealed(record)
        ]
        if not sealed:
            return
        await self._find([name for _, _, names in sealed for name in names], trail)
        for index, record, names in sealed:
            key = self._named.get(names[0])
            if key is None:
                self._missing.add(names[0])
                continue
            opened = block.records[index] = self._open(block.header, index, record, key)
            key.subject = subject_of(opened.personal.get("routing"), opened.key())
        found = [key.subject for _, _, names in sealed if (key := self._named.get(names[0])) is not None]
        cold = [s for s in dict.fromkeys(found) if s is not None and s not in self._people]
        if cold:
            await self._read_people(cold, trail)
        for index, record, names in sealed:
            self._note(block, index, record, names)
        while self._ahead and next(iter(self._ahead.values())).offset < self._position:
            self._ahead.popitem(last=False)

    def _note(self, block: ReadBlock, index: int, record: ReadRecord, names: list[str]) -> None:
        known = [key for name in names if (key := self._named.get(name)) is not None]
        subject = next((key.subject for key in known if key.subject is not None), None)
        if subject is not None and self._named.get(names[0]) is not None:
            keys = self._people.setdefault(subject, [])
            if known[0] not in keys:
                keys.append(known[0])
                self._take(subject, known[0])
        self._reach(offset_of(names[0]))
        if record.data["result"]["kind"] == ERASURE:
            if is_sealed(block.records[index]) and subject is not None:
                # The key that it is sealed with is gone, another of theirs is not: whom to forget is still known.
                block.records[index] = ReadRecord(
                    {**record.data, "personal": {"routing": subject}}, record.line
                )
            self._end(block.header.height, subject, names)

    async def _find(self, names: Sequence[str], trail: Trail) -> None:
        """Brings these keys into memory, those that are still there."""
        without = self._without
        wanted = [name for name in dict.fromkeys(names) if name not in self._named and name not in without]
        new = [name for name in wanted if offset_of(name) >= self._position]
        old = [name for name in wanted if offset_of(name) < self._position]
        if new:
            await self._walk(max(map(offset_of, new)))
            for name in new:
                key = self._ahead.get(name)
                if key is not None:
                    self._named[name] = key
        if old:
            for name, value in zip(old, await trail.read(old, NAMES), strict=True):
                if value is not None:
                    secret, subject = orjson.loads(value)
                    self._named[name] = PersonKey(offset_of(name), id_of(name), b64decode(secret), subject)

    async def _walk(self, offset: int) -> None:
        """Reads the topic on until an offset is behind."""
        while self._walked <= offset:
            for event in await self._read_on(self._walked, offset, self._world.settings.read_bytes):
                if event.value is not None:
                    self._meet(event, event.value)
                self._walked = event.offset + 1

    def _meet(self, event: RawEvent, value: bytes) -> None:
        """Takes a key that no block has named yet. What is no key was written by something else and is nobody's."""
        try:
            key = decode_key(event.offset, event.key, value)
        except NewerKey as error:
            raise self._world.halt("ledger_format", f"person-keys offset {event.offset}: {error}") from error
        except NoKey as error:
            _log.warning("no key", shard=self._world.shard, offset=event.offset, error=str(error))
            return
        self._ahead[key.name] = key

    async def _read_on(self, start: int, named: int, max_bytes: int) -> list[RawEvent]:
        """What the topic has from an offset on, at least one message: a key was acknowledged at ``named`` before the
        ledger named it, and where compaction took that, its tombstone or a later message is there."""
        for tries in range(READ_TRIES):
            if tries:
                await asyncio.sleep(self._world.pause_s(tries))
            events, end = await self._log.read(start, max_bytes)
            if events:
                return events
        # The end seen may be too low, so only an acknowledged write proves that the topic is shorter than it was.
        (offset,) = await self._log.put([(NO_KEY, None)], self._world.settings.append_deadline_s)
        if offset <= named:
            raise self._halt(
                f"the ledger names a key at offset {named}, and a new message got offset {offset}"
            )
        raise Unavailable(
            f"person-keys of {self._world.shard} shows nothing at offset {start}, its end is {end}, and the ledger "
            f"names a key at {named}; is a replica missing?"
        )

    def _open(self, header: BlockHeader, index: int, record: ReadRecord, key: PersonKey) -> ReadRecord:
        try:
            return unseal(header, index, record, key)
        except Unreadable as error:
            raise self._world.halt("sealed_part", str(error)) from error

    @property
    def incomplete(self) -> bool:
        """Whether folded records are sealed with keys that are gone, and no erasure was met that ended them."""
        return bool(self._missing)

    def check(self) -> None:
        """Raises `Halted` where folded records are sealed with keys that are gone though nobody was erased, or where
        the topic lost its tail. To be asked by who is known to own the shard: others may not know what was accepted."""
        if self._missing:
            raise self._halt(
                f"{len(self._missing)} keys that the ledger names are not there, and no erasure ended them "
                f"({min(self._missing)})"
            )
        if self.lost:
            raise self._halt(self.lost)

    def _halt(self, what: str) -> Halted:
        return self._world.halt(
            "person_keys_lost",
            f"person-keys: {what}: the topic or the ledger lost messages, or the topic is another deployment's. Look "
            "at its broker's replicas and settings (cleanup.policy must be compact); without the keys, the history of "
            f"these people is lost. To go on without it: adgovernor recover {self._world.shard} --accept-loss --why "
            "TEXT",
        )

    # --- What was sealed, read again --------------------------------------------------------------------------

    async def read(self, block: ReadBlock, trail: Trail) -> list[str]:
        """Opens a folded block's records in place for its outputs; the keys that its erasures end."""
        ends: list[str] = []
        for index, record in enumerate(block.records):
            if not is_sealed(record):
                continue
            names = key_names(record)
            if record.data["result"]["kind"] == ERASURE:
                ends += names
            elif record.data.get("out"):
                key = await self._find_again(names[0], trail)
                if key is not None:
                    block.records[index] = self._open(block.header, index, record, key)
        return ends

    async def _find_again(self, name: str, trail: Trail) -> PersonKey | None:
        key = self._named.get(name) or self._ending.get(name)
        if key is not None:
            return key
        try:
            (value,) = await trail.read([name], NAMES)
        except Unavailable:
            # The topic has it as well.
            value = None
        if value is not None:
            secret, subject = orjson.loads(value)
            return PersonKey(offset_of(name), id_of(name), b64decode(secret), subject)
        # Ended by an erasure that the store has taken note of: if the topic still shows it, it is good.
        event = (await self._read_on(offset_of(name), offset_of(name), 1))[0]
        if (event.offset, event.key) != (offset_of(name), id_of(name).encode()) or event.value is None:
            return None
        return decode_key(event.offset, event.key, event.value)

    # --- Ending keys ------------------------------------------------------------------------------------------

    async def destroy(self, names: Sequence[str]) -> None:
        """Writes the tombstones of keys.

        Raises:
            Unavailable: when that is not known by the deadline.
        """
        if names:
            await self._put([(id_of(name), None) for name in names], self._world.settings.publish_deadline_s)
            for name in names:
                self._ending.pop(name, None)

    async def destroy_up_to(self, height: int) -> None:
        """Writes the tombstones of all erasures up to a block whose outputs are acknowledged."""
        while self._doomed and self._doomed[0][0] <= height:
            await self.destroy(self._doomed[0][1])
            self._doomed.popleft()

    def acknowledged(self, height: int) -> None:
        """Erasures up to here are known to be done, by whoever owned the shard then."""
        while self._doomed and self._doomed[0][0] <= height:
            for name in self._doomed.popleft()[1]:
                self._ending.pop(name, None)


def _subject(event: Input) -> str | None:
    """Whose key an input's record is sealed with; None where it is not sealed: other shards' messages."""
    if event.topic in topics.SIDE_TOPICS:
        return None
    return subject_of(event.routing, event.key)
