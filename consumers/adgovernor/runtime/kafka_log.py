"""The log of one shard's owner, on Kafka. `kafka_producers` says how shards share what they write with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Halted, Unavailable, told_by
from adgovernor.publish.kafka import REFUSED, may_not_write
from adgovernor.runtime.chain import cut
from adgovernor.runtime.kafka_inputs import InputLost, KafkaInputs
from adgovernor.runtime.kafka_producers import KafkaProducers
from adgovernor.runtime.kafka_reader import Expired, KafkaReaders
from adgovernor.runtime.ports import AppendUnknown, Fetch, LedgerEntry, Output, RawEvent

_BATCH_BYTES: Final = 500_000
"""Outputs go in batches of this size: several fit in one request, and in a topic's largest message."""
_LOG_APPEND_TIME: Final = 1


@dataclass(frozen=True, slots=True)
class KafkaLogOptions:
    """How a shard's log uses Kafka."""

    prefix: str
    ledger_compression: str | None = "zstd"
    output_compression: str | None = None
    max_output_bytes: int = 2_000_000
    """A larger output is not tried: its topic would refuse it for ever."""


def producers_of(connection: KafkaConnection, options: KafkaLogOptions, client_id: str) -> KafkaProducers:
    """The producers for the shards of one worker."""
    return KafkaProducers(
        connection,
        client_id,
        ledger_compression=options.ledger_compression,
        output_compression=options.output_compression,
        output_batch_bytes=_BATCH_BYTES,
    )


class KafkaShardLog:
    """A `ShardLog` over Kafka."""

    def __init__(
        self,
        shard: str,
        connection: KafkaConnection,
        options: KafkaLogOptions,
        inputs: KafkaInputs | None,
        readers: KafkaReaders,
        producers: KafkaProducers | None = None,
    ) -> None:
        """``producers``: shared with the other shards of a worker; left out: this shard's own."""
        self._shard = shard
        self._options = options
        self._inputs = inputs
        self._readers = readers
        self._partition = topics.partition_of_shard(shard)
        self._ledger_topic = self._name(topics.ledger_topic(shard))
        self._producers = producers or producers_of(connection, options, f"adgovernor-{shard}")
        self._names: dict[str, str] = {}

    def _name(self, topic: str) -> str:
        return topics.full_name(self._options.prefix, topic)

    async def fetch(self, positions: Mapping[str, int], max_events: int, max_wait_s: float) -> Fetch:
        """See `ShardLog.fetch`.

        Raises:
            Halted: when the next input is not on its topic any more.
        """
        assert self._inputs is not None, "this log was made to read the ledger, not the inputs"
        try:
            return await self._inputs.fetch(self._partition, positions, max_events, max_wait_s)
        except InputLost as lost:
            raise Halted(
                self._shard,
                "input_lost",
                f"{lost}. What it held is lost; when that is understood, run "
                f"`adgovernor recover {self._shard} --accept-loss --why TEXT`",
            ) from lost

    async def append(self, block: bytes, deadline_s: float) -> int:
        """See `ShardLog.append`.

        Raises:
            BadSettings: when this user may not write to the ledger.
        """
        try:
            async with asyncio.timeout(deadline_s):
                producer = await self._producers.ledgers.get(self._shard, deadline_s)
                batch = producer.create_batch()
                batch.append(key=None, value=block, timestamp=None)
                batch.close()
                future = await producer.send_batch(batch, self._ledger_topic, partition=self._partition)
                future.add_done_callback(_seen)
                offset = int((await future).offset)
        except REFUSED as error:
            raise may_not_write(f"topic {self._ledger_topic}") from error
        except (KafkaError, OSError, TimeoutError, Unavailable) as error:
            await self._producers.ledgers.leave(self._shard, in_doubt=True)
            raise AppendUnknown(f"{self._ledger_topic}[{self._partition}]: {told_by(error)}") from error
        if offset < 0:
            await self._producers.ledgers.leave(self._shard, in_doubt=True)
            raise AppendUnknown(f"{self._ledger_topic}[{self._partition}]: the broker gave no offset")
        return offset

    async def read_ledger(self, offset: int, max_bytes: int) -> tuple[list[LedgerEntry], int]:
        """See `ShardLog.read_ledger`.

        Raises:
            Halted: when that part of the ledger was deleted.
        """
        try:
            records, end = await self._readers.read(self._ledger_topic, self._partition, offset, max_bytes)
        except Expired as gone:
            raise self._cut(gone.first, offset) from gone
        if offset == 0 and records and records[0].offset > 0:
            # Compaction takes messages, and leaves the partition's beginning where it was.
            raise self._cut(records[0].offset, offset)
        return [
            LedgerEntry(
                record.offset,
                record.timestamp if record.timestamp_type == _LOG_APPEND_TIME else -1,
                record.value or b"",
            )
            for record in records
        ], end

    def _cut(self, first: int, wanted: int) -> Halted:
        name = f"{self._ledger_topic}[{self._partition}]"
        return Halted(self._shard, "ledger_cut", cut(name, first, wanted))

    async def publish(self, outputs: Sequence[Output], deadline_s: float) -> None:
        """See `ShardLog.publish`.

        Raises:
            Halted: when an output is too large for any topic.
            BadSettings: when this user may not write to one.
        """
        places: dict[tuple[str, int], list[Output]] = {}
        for output in outputs:
            places.setdefault((output.topic, output.partition), []).append(output)
        try:
            async with asyncio.timeout(deadline_s):
                producer = await self._producers.outputs.get(self._shard, deadline_s)
                futures = []
                for (topic, partition), messages in places.items():
                    name = self._names.get(topic)
                    if name is None:
                        name = self._names[topic] = self._name(topic)
                    for batch in self._batches(producer, messages):
                        future = await producer.send_batch(batch, name, partition=partition)
                        future.add_done_callback(_seen)
                        futures.append(future)
                for future in futures:
                    await future
        except REFUSED as error:
            raise may_not_write(f"an output topic of {self._options.prefix} ({told_by(error)})") from error
        except (KafkaError, OSError, TimeoutError, Unavailable) as error:
            await self._producers.outputs.leave(self._shard, in_doubt=True)
            raise Unavailable(f"outputs of {self._shard} were not acknowledged: {told_by(error)}") from error

    def _batches(self, producer: AIOKafkaProducer, messages: list[Output]) -> list[Any]:
        """Batches in order; a message larger than a batch has one of its own."""
        batches: list[Any] = []
        batch: Any = None
        for message in messages:
            key, value = message.key, message.value
            if value is not None and len(value) > self._options.max_output_bytes:
                raise Halted(
                    self._shard,
                    "output_too_large",
                    f"a message for {message.topic} has {len(value)} bytes, at most {self._options.max_output_bytes} "
                    "are sent: raise max.message.bytes of the topic and the worker's limit, then restart it",
                )
            headers = message.headers
            if not isinstance(headers, list):
                headers = list(headers)
            if batch is None or batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
                batch = producer.create_batch()
                batches.append(batch)
                batch.append(timestamp=None, key=key, value=value, headers=headers)
        for each in batches:
            each.close()
        return batches

    async def tail(self, topic: str, partition: int, count: int) -> list[RawEvent]:
        """See `ShardLog.tail`."""
        records = await self._readers.tail(self._name(topic), partition, count)
        return [RawEvent(r.offset, r.key, r.value, tuple(r.headers)) for r in records]

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[RawEvent], int]:
        """See `ShardLog.before`."""
        records, start = await self._readers.before(self._name(topic), partition, offset, count)
        return [RawEvent(r.offset, r.key, r.value, tuple(r.headers), r.timestamp) for r in records], start

    async def close(self) -> None:
        """See `ShardLog.close`."""
        await self._producers.ledgers.leave(self._shard, in_doubt=False)
        await self._producers.outputs.leave(self._shard, in_doubt=False)


def _seen(future: asyncio.Future[Any]) -> None:
    """Takes note of a failure that nobody waits for any more, so that it is not reported as forgotten."""
    if not future.cancelled():
        future.exception()
