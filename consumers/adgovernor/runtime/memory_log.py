"""A log in this process's memory: for one process that needs no server, for tests and for simulations.

Same promises as Kafka's, less durability: it forgets everything with the process, and keeps everything until then.
It is for one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.routing import partition_of
from adgovernor.runtime.clock import WallClock
from adgovernor.runtime.inbox import shares
from adgovernor.runtime.ports import Clock, Fetch, LedgerEntry, Output, RawEvent


class MemoryBroker:
    """All topics of one deployment, each with the same number of partitions."""

    def __init__(self, partitions: int, clock: Clock | None = None) -> None:
        self.partitions = partitions
        self._clock = clock if clock is not None else WallClock()
        self._messages: dict[tuple[str, int], list[RawEvent]] = {}
        self._times: dict[tuple[str, int], list[int]] = {}
        self._waiting: dict[tuple[str, int], set[asyncio.Event]] = {}

    def produce(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> int:
        """Adds a message; its offset. Without a partition, the key's hash gives it, as Kafka's own partitioner.

        Raises:
            BadInput: for a partition that there is not, or neither a key nor a partition.
        """
        if partition is None:
            if key is None:
                raise BadInput(f"a message for {topic} needs a key or a partition")
            partition = partition_of(key, self.partitions)
        if not 0 <= partition < self.partitions:
            raise BadInput(f"partition {partition} of {topic}: there are {self.partitions}, from 0")
        place = (topic, partition)
        messages = self._messages.setdefault(place, [])
        messages.append(RawEvent(len(messages), key, value, tuple(headers)))
        self._times.setdefault(place, []).append(self._clock.now_ms())
        for event in self._waiting.pop(place, ()):
            event.set()
        return len(messages) - 1

    def end(self, topic: str, partition: int) -> int:
        """The offset that the next message will get."""
        return len(self._messages.get((topic, partition), ()))

    def read(self, topic: str, partition: int, offset: int, count: int) -> list[RawEvent]:
        """Messages from an offset on, at most ``count``."""
        return self._messages.get((topic, partition), [])[offset : offset + count]

    def time_ms(self, topic: str, partition: int, offset: int) -> int:
        """When a message was added."""
        return self._times[topic, partition][offset]

    async def wait(self, places: Sequence[tuple[str, int]], max_wait_s: float) -> None:
        """Waits until one of some (topic, partition) gets a message, at most ``max_wait_s``."""
        event = asyncio.Event()
        for place in places:
            self._waiting.setdefault(place, set()).add(event)
        try:
            async with asyncio.timeout(max_wait_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            for place in places:
                waiting = self._waiting.get(place)
                if waiting is not None:
                    waiting.discard(event)

    def shard_log(self, shard: str) -> MemoryShardLog:
        """The log as one owner of a shard uses it."""
        return MemoryShardLog(self, shard)


class MemoryShardLog:
    """A `ShardLog` over a `MemoryBroker`. Appends and publishes give other tasks a turn, as a network would."""

    def __init__(self, broker: MemoryBroker, shard: str) -> None:
        self._broker = broker
        self._partition = topics.partition_of_shard(shard)
        self._ledger = topics.ledger_topic(shard)

    async def fetch(self, positions: Mapping[str, int], max_events: int, max_wait_s: float) -> Fetch:
        """See `ShardLog.fetch`. Each topic gets its share of ``max_events``, so that none starves another."""
        broker, partition = self._broker, self._partition
        if max_wait_s > 0 and all(broker.end(name, partition) <= at for name, at in positions.items()):
            await broker.wait([(name, partition) for name in positions], max_wait_s)
        else:
            await asyncio.sleep(0)
        share = shares({name: broker.end(name, partition) - at for name, at in positions.items()}, max_events)
        events = {
            name: broker.read(name, partition, at, max(0, share[name])) for name, at in positions.items()
        }
        return Fetch(events, {name: broker.end(name, partition) for name in positions})

    async def append(self, block: bytes, deadline_s: float) -> int:
        """See `ShardLog.append`."""
        offset = self._broker.produce(self._ledger, self._partition, None, block)
        await asyncio.sleep(0)
        return offset

    async def read_ledger(self, offset: int, max_bytes: int) -> tuple[list[LedgerEntry], int]:
        """See `ShardLog.read_ledger`."""
        broker, partition = self._broker, self._partition
        end, size, entries = broker.end(self._ledger, partition), 0, []
        for event in broker.read(self._ledger, partition, offset, end):
            entries.append(
                LedgerEntry(
                    event.offset, broker.time_ms(self._ledger, partition, event.offset), event.value or b""
                )
            )
            size += len(event.value or b"")
            if size >= max_bytes:
                break
        await asyncio.sleep(0)
        return entries, end

    async def publish(self, outputs: Sequence[Output], deadline_s: float) -> None:
        """See `ShardLog.publish`."""
        for output in outputs:
            self._broker.produce(output.topic, output.partition, output.key, output.value, output.headers)
        await asyncio.sleep(0)

    async def tail(self, topic: str, partition: int, count: int) -> list[RawEvent]:
        """See `ShardLog.tail`."""
        end = self._broker.end(topic, partition)
        return self._broker.read(topic, partition, max(0, end - count), count)

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[RawEvent], int]:
        """See `ShardLog.before`."""
        broker, start = self._broker, max(0, offset - count)
        return [
            replace(event, time_ms=broker.time_ms(topic, partition, event.offset))
            for event in broker.read(topic, partition, start, offset - start)
        ], start

    async def close(self) -> None:
        """See `ShardLog.close`."""
