"""The simulated log: topics, ledgers, and the ways in which a network and a broker let their clients down."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tests.simulation.faults import Faults
from tests.simulation.loop import Process, VirtualLoop

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.runtime.ports import AppendUnknown, Fetch, LedgerEntry, Output, RawEvent

T = TypeVar("T")
_HEIGHT = re.compile(rb'"height":\d+,')
Hazard = Callable[[Process], None]


class Broker:
    """All topics and ledgers of a run. What has landed stays, in the order in which it landed."""

    def __init__(self, loop: VirtualLoop, epoch_ms: int, faults: Faults) -> None:
        self.loop = loop
        self.epoch_ms = epoch_ms
        self.faults = faults
        self.away_until_s = -1.0
        self.topics: dict[tuple[str, int], list[RawEvent]] = {}
        self.ledgers: dict[str, list[LedgerEntry]] = {}
        self.landings: list[tuple[str, int]] = []
        """(Shard, offset) of every ledger message, in the order of landing over all shards."""
        self.moments: dict[tuple[str, int], list[int]] = {}
        """(Topic, or shard of a ledger, partition) → for each message, how many had landed anywhere before it."""
        self._landed = 0
        self.lost_entries: dict[str, list[LedgerEntry]] = {}
        """Ledger messages that were acknowledged and lost."""
        self.lost_events: dict[tuple[str, int], list[RawEvent]] = {}
        """The same of topics."""
        self.last_call: dict[tuple[str, int], int] = {}
        """Where topics ended when the workers were told to stop: what came before had to be consumed."""
        self.on_output: Callable[[str, int, RawEvent], None] | None = None
        self.compacted: dict[int, set[int]] = {}
        """Partition of ``person-keys`` → offsets that compaction has taken."""
        self._waiting: dict[tuple[str, int], list[asyncio.Future[None]]] = {}

    def now_ms(self) -> int:
        """The broker's clock, which is the true one."""
        return self.epoch_ms + int(self.loop.time() * 1000)

    @property
    def away(self) -> bool:
        """Whether it answers nobody."""
        return self.loop.time() < self.away_until_s

    def produce(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """A message lands on a topic."""
        messages = self.topics.setdefault((topic, partition), [])
        event = RawEvent(len(messages), key, value, tuple(headers))
        messages.append(event)
        self._moment(topic, partition)
        for waiter in self._waiting.pop((topic, partition), ()):
            if not waiter.done():
                waiter.set_result(None)
        if self.on_output is not None:
            self.on_output(topic, partition, event)

    def append(self, shard: str, value: bytes) -> int:
        """A message lands on a ledger; its offset."""
        entries = self.ledgers.setdefault(shard, [])
        entries.append(LedgerEntry(len(entries), self.now_ms(), value))
        self.landings.append((shard, len(entries) - 1))
        self._moment(shard, 0)
        return len(entries) - 1

    def holds(self, shard: str, entry: LedgerEntry) -> bool:
        """Whether a ledger message is still there."""
        return any(kept is entry for kept in self.ledgers[shard][entry.offset : entry.offset + 1])

    def lose_ledger_tail(self, shard: str, count: int) -> list[LedgerEntry]:
        """The last messages of a ledger are gone, though they were acknowledged; their offsets are given anew."""
        entries = self.ledgers.get(shard, [])
        end = max(0, len(entries) - count)
        self.lost_entries.setdefault(shard, []).extend(entries[end:])
        lost = entries[end:]
        del entries[end:]
        del self.moments.get((shard, 0), [])[end:]
        self.landings = [(name, offset) for name, offset in self.landings if name != shard or offset < end]
        return lost

    def lose_tail(self, topic: str, partition: int, count: int) -> None:
        """The same of a topic's partition."""
        events = self.topics.get((topic, partition), [])
        end = max(0, len(events) - count)
        self.lost_events.setdefault((topic, partition), []).extend(events[end:])
        del events[end:]
        del self.moments.get((topic, partition), [])[end:]
        if topic == topics.PERSON_KEYS:
            # What gets these offsets next is not compacted yet.
            compacted = self.compacted.get(partition, set())
            compacted.difference_update([offset for offset in compacted if offset >= end])

    def _moment(self, name: str, partition: int) -> None:
        self.moments.setdefault((name, partition), []).append(self._landed)
        self._landed += 1

    def end(self, topic: str, partition: int) -> int:
        """The next offset of a topic."""
        return len(self.topics.get((topic, partition), ()))

    def waiter(self, places: Sequence[tuple[str, int]]) -> asyncio.Future[None]:
        """Done when a message lands on one of these."""
        future: asyncio.Future[None] = self.loop.create_future()
        for place in places:
            self._waiting.setdefault(place, []).append(future)
        return future


class Network:
    """One client's calls to a server: each takes time there and back, and its process may end on the way."""

    def __init__(self, loop: VirtualLoop, process: Process, faults: Faults, hazard: Hazard) -> None:
        self.loop = loop
        self.process = process
        self.faults = faults
        self._hazard = hazard

    async def step(self) -> None:
        """A point at which the process may be killed or stopped."""
        if self.loop.over:
            raise asyncio.CancelledError
        self._hazard(self.process)
        if self.process.stopped:
            await asyncio.sleep(0)

    async def call(self, effect: Callable[[], T], *, there_s: float | None = None) -> T:
        """Lets ``effect`` happen at the server; its answer."""
        await self.step()
        answer: asyncio.Future[T] = self.loop.create_future()
        faults = self.faults

        def arrive() -> None:
            try:
                result = effect()
            except (Unavailable, Halted) as error:
                self.loop.later(faults.delay_s(), fail, error)
                return
            self._hazard(self.process)
            self.loop.later(faults.delay_s(), succeed, result)

        def succeed(result: T) -> None:
            if not answer.done():
                answer.set_result(result)

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        self.loop.later(faults.delay_s() if there_s is None else there_s, arrive)
        return await answer

    async def pass_away(self, seconds: float) -> None:
        """Waits without an answer."""
        await asyncio.sleep(seconds)
        await self.step()

    def afterwards(self, low_s: float, high_s: float, effect: Callable[[], object]) -> None:
        """What was given up lands all the same, later."""
        self.loop.later(self.faults.rng.uniform(low_s, high_s), effect)


class SimLog:
    """A `ShardLog` of one owner of one shard."""

    def __init__(self, broker: Broker, shard: str, network: Network) -> None:
        self._last: LedgerEntry | None = None
        """The last message of the producer in use."""
        self._broker = broker
        self._shard = shard
        self._partition = topics.partition_of_shard(shard)
        self._net = network
        self._faults = network.faults

    @property
    def _rng(self) -> random.Random:
        return self._faults.rng

    # --- Inputs -----------------------------------------------------------------------------------------------

    async def fetch(self, positions: Mapping[str, int], max_events: int, max_wait_s: float) -> Fetch:
        """See `ShardLog.fetch`. Now and then short, or without a word on where topics end."""
        broker, faults, partition = self._broker, self._faults, self._partition
        await self._net.step()
        if max_wait_s > 0 and all(broker.end(name, partition) <= at for name, at in positions.items()):
            waiter = broker.waiter([(name, partition) for name in positions])
            await asyncio.wait({waiter}, timeout=max_wait_s)
        if broker.away:
            await self._net.pass_away(max(max_wait_s, 0.05))
            return Fetch({name: [] for name in positions}, {})

        def read() -> Fetch:
            for name, at in positions.items():
                if at > broker.end(name, partition):
                    raise Halted(self._shard, "input_lost", f"{name} ends before {at}")
            blind = broker.away or faults.hit("fetch_blind")
            left = max_events
            events: dict[str, list[RawEvent]] = {}
            for name, at in positions.items():
                count = left
                if faults.hit("fetch_short"):
                    count = min(left, faults.rng.randint(0, 3))
                events[name] = broker.topics.get((name, partition), [])[at : at + count]
                left -= len(events[name])
            return Fetch(events, {} if blind else {name: broker.end(name, partition) for name in positions})

        return await self._net.call(read)

    # --- The ledger -------------------------------------------------------------------------------------------

    async def append(self, block: bytes, deadline_s: float) -> int:
        """See `ShardLog.append`. The block may land late, twice, or never; the reply may be lost."""
        broker, faults, net, shard = self._broker, self._faults, self._net, self._shard

        def land() -> int:
            if faults.hit("append_junk"):
                broker.append(shard, self._junk(block))
            return broker.append(shard, block)

        def land_in_sequence() -> int:
            # A producer's messages are numbered, and a broker that lost one takes none of those after it.
            if self._last is not None and not broker.holds(shard, self._last):
                self._last = None
                raise AppendUnknown("the producer's sequence is broken")
            offset = land()
            self._last = broker.ledgers[shard][offset]
            return offset

        await net.step()
        if broker.away or faults.hit("append_lost"):
            self._last = None
            await net.pass_away(deadline_s if self._rng.random() < 0.5 else 0.02)
            raise AppendUnknown("the append was not acknowledged")
        if faults.hit("append_late"):
            self._last = None
            if self._rng.random() < 0.5:
                net.afterwards(0.02, 0.5, land)
            else:
                net.afterwards(deadline_s, 4 * deadline_s, land)
            await net.pass_away(deadline_s if self._rng.random() < 0.5 else 0.02)
            raise AppendUnknown("the append was not acknowledged in time")
        if faults.hit("append_reply_lost"):
            await net.call(land_in_sequence)
            self._last = None
            await net.pass_away(self._rng.random() * deadline_s)
            raise AppendUnknown("the reply to the append was lost")
        if faults.hit("append_twice"):
            net.afterwards(0.0, 3.0, land)
        return await net.call(land_in_sequence)

    def _junk(self, block: bytes) -> bytes:
        """What else may stand in a ledger partition: old blocks, other shards' blocks, anything."""
        draw = self._rng.random()
        if draw < 0.1:
            return b"junk"
        ledgers = self._broker.ledgers
        shard = self._shard if draw < 0.4 else self._rng.choice(sorted(ledgers) or [self._shard])
        entries = ledgers.get(shard, [])
        if draw > 0.6:
            # The most deceptive one: another shard's block of the same height.
            same = _HEIGHT.search(block)
            entries = [e for e in entries if same and same[0] in e.value[:200]] or entries
        return self._rng.choice(entries).value if entries else b"{}"

    async def read_ledger(self, offset: int, max_bytes: int) -> tuple[list[LedgerEntry], int]:
        """See `ShardLog.read_ledger`. May fail, be short, or show less than there is during a failover."""
        broker, faults = self._broker, self._faults

        def read() -> tuple[list[LedgerEntry], int]:
            if broker.away or faults.hit("read_fails"):
                raise Unavailable("the ledger cannot be read")
            entries = broker.ledgers.get(self._shard, [])
            end = len(entries)
            if faults.hit("read_stale"):
                end = faults.rng.randint(min(offset, end), end)
                return entries[offset:end], end
            count, size = 0, 0
            for entry in entries[offset:]:
                count += 1
                size += len(entry.value)
                if size >= max_bytes:
                    break
            if count and faults.hit("read_short"):
                count = faults.rng.randint(0, count)
            return entries[offset : offset + count], end

        return await self._net.call(read)

    # --- Outputs ----------------------------------------------------------------------------------------------

    async def publish(self, outputs: Sequence[Output], deadline_s: float) -> None:
        """See `ShardLog.publish`. A failure may leave any prefix of each partition behind, the rest for later."""
        broker, faults, net = self._broker, self._faults, self._net
        lanes: dict[tuple[str, int], list[Output]] = {}
        for output in outputs:
            lanes.setdefault((output.topic, output.partition), []).append(output)

        def land(some: Sequence[Output]) -> None:
            for output in some:
                broker.produce(output.topic, output.partition, output.key, output.value, output.headers)

        await net.step()
        if broker.away:
            await net.pass_away(deadline_s)
            raise Unavailable("outputs were not acknowledged")
        late = faults.hit("publish_late")
        if late or faults.hit("publish_fails"):
            for lane in lanes.values():
                reached = self._rng.randint(0, len(lane))
                net.afterwards(0.0, 0.05, lambda some=lane[:reached]: land(some))  # type: ignore[misc]
                if late:
                    net.afterwards(0.06, 5.0, lambda some=lane[reached:]: land(some))  # type: ignore[misc]
            await net.pass_away(deadline_s if self._rng.random() < 0.3 else 0.06)
            raise Unavailable("outputs were not acknowledged")
        if faults.hit("publish_twice"):
            for lane in lanes.values():
                net.afterwards(0.01, 4.0, lambda some=lane: land(some))  # type: ignore[misc]
        slowest = 0.0
        for lane in lanes.values():
            delay = faults.delay_s()
            slowest = max(slowest, delay)
            self._broker.loop.later(delay, land, lane)
        await net.call(lambda: None, there_s=slowest + 0.0001)

    async def tail(self, topic: str, partition: int, count: int) -> list[RawEvent]:
        """See `ShardLog.tail`."""
        broker, faults = self._broker, self._faults

        def read() -> list[RawEvent]:
            if broker.away or faults.hit("tail_fails"):
                raise Unavailable(f"{topic} cannot be read")
            return broker.topics.get((topic, partition), [])[-count:]

        return await self._net.call(read)

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[RawEvent], int]:
        """See `ShardLog.before`."""
        broker, faults = self._broker, self._faults

        def read() -> tuple[list[RawEvent], int]:
            if broker.away or faults.hit("tail_fails"):
                raise Unavailable(f"{topic} cannot be read")
            start = max(0, offset - count)
            return broker.topics.get((topic, partition), [])[start:offset], start

        return await self._net.call(read)

    async def close(self) -> None:
        """See `ShardLog.close`."""
