"""Persons' keys on Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Unavailable, told_by
from adgovernor.publish.kafka import REFUSED, may_not_write
from adgovernor.runtime.kafka_producers import SharedProducers
from adgovernor.runtime.kafka_reader import Expired, KafkaReaders
from adgovernor.runtime.key_log import KeyMessage
from adgovernor.runtime.ports import RawEvent

_BATCH_BYTES: Final = 900_000
"""One batch for all keys of a block, and for all that an erasure ends, so that no reader sees some of them only."""


def key_producers(connection: KafkaConnection, client_id: str) -> SharedProducers:
    """Producers for the keys of all shards of a worker, made when they are needed."""
    return SharedProducers(connection, client_id=f"{client_id}-keys", max_batch_size=_BATCH_BYTES)


class KafkaKeyLog:
    """A `KeyLog` over Kafka."""

    def __init__(self, shard: str, prefix: str, readers: KafkaReaders, producers: SharedProducers) -> None:
        """``producers``: see `key_producers`."""
        self._shard = shard
        self._topic = topics.full_name(prefix, topics.PERSON_KEYS)
        self._partition = topics.partition_of_shard(shard)
        self._readers = readers
        self._producers = producers

    async def put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        """See `KeyLog.put`."""
        offsets: list[int] = []
        try:
            async with asyncio.timeout(deadline_s):
                producer = await self._producers.get(self._shard, deadline_s)
                left = list(messages)
                while left:
                    left, written = await self._send(producer, left)
                    offsets += written
        except REFUSED as error:
            raise may_not_write(f"topic {self._topic}") from error
        except (KafkaError, OSError, TimeoutError, Unavailable) as error:
            await self._producers.leave(self._shard, in_doubt=True)
            raise Unavailable(
                f"{self._topic}[{self._partition}]: keys were not acknowledged: {told_by(error)}"
            ) from error
        if min(offsets, default=0) < 0:
            await self._producers.leave(self._shard, in_doubt=True)
            raise Unavailable(f"{self._topic}[{self._partition}]: the broker gave no offset")
        return offsets

    async def _send(
        self, producer: AIOKafkaProducer, messages: list[KeyMessage]
    ) -> tuple[list[KeyMessage], list[int]]:
        """Sends as many as one batch takes; the rest, and the offsets of those sent."""
        batch = producer.create_batch()
        count = 0
        for name, value in messages:
            if batch.append(key=name.encode(), value=value, timestamp=None) is None:
                break
            count += 1
        batch.close()
        future = await producer.send_batch(batch, self._topic, partition=self._partition)
        first = int((await future).offset)
        return messages[count:], [first + place if first >= 0 else -1 for place in range(count)]

    async def read(self, offset: int, max_bytes: int) -> tuple[list[RawEvent], int]:
        """See `KeyLog.read`."""
        try:
            records, end = await self._readers.read(self._topic, self._partition, offset, max_bytes)
        except Expired as gone:
            # Somebody let the topic expire. As after compaction, whoever looks for a key that was there misses it.
            records, end = await self._readers.read(self._topic, self._partition, gone.first, max_bytes)
        return [RawEvent(record.offset, record.key, record.value) for record in records], end

    async def close(self) -> None:
        """See `KeyLog.close`."""
        await self._producers.leave(self._shard, in_doubt=False)
