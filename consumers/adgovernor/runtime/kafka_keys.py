"""Persons' keys on Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Unavailable
from adgovernor.publish.kafka import discard_producer, start_producer
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.key_log import KeyMessage
from adgovernor.runtime.ports import RawEvent

_BATCH_BYTES: Final = 900_000
"""One batch for all keys of a block, and for all that an erasure ends, so that no reader sees some of them only."""


class KafkaKeyLog:
    """A `KeyLog` over Kafka, with a producer of its own, made when it is first needed."""

    def __init__(self, shard: str, connection: KafkaConnection, prefix: str, readers: KafkaReaders) -> None:
        self._shard = shard
        self._connection = connection
        self._topic = topics.full_name(prefix, topics.PERSON_KEYS)
        self._partition = topics.partition_of_shard(shard)
        self._readers = readers
        self._producer: AIOKafkaProducer | None = None

    async def put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        """See `KeyLog.put`."""
        offsets: list[int] = []
        try:
            async with asyncio.timeout(deadline_s):
                if self._producer is None:
                    self._producer = await start_producer(
                        self._connection,
                        deadline_s,
                        client_id=f"adgovernor-{self._shard}-keys",
                        max_batch_size=_BATCH_BYTES,
                    )
                left = list(messages)
                while left:
                    left, written = await self._send(self._producer, left)
                    offsets += written
        except (KafkaError, OSError, TimeoutError, Unavailable) as error:
            await self.close()
            raise Unavailable(
                f"{self._topic}[{self._partition}]: keys were not acknowledged: {error or 'no answer in time'!r}"
            ) from error
        if min(offsets, default=0) < 0:
            await self.close()
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
        records, end = await self._readers.read(self._topic, self._partition, offset, max_bytes)
        return [RawEvent(record.offset, record.key, record.value) for record in records], end

    async def close(self) -> None:
        """See `KeyLog.close`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await discard_producer(producer)
