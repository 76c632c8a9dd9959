"""The producers that the shards of one worker share: one kind for ledgers, one for what leaves them.

The client has one request a broker in flight, and puts what all partitions have waiting into the next: shards that
share a producer commit together, and a block costs its bytes rather than a request of its own. An append never waits
behind outputs, because these have a producer of another kind.

After any error a shard must not use its producer again: that partition's sequence numbers may be broken. It leaves, and
the next shard that needs a producer, itself first, begins a new group. The others, whose partitions are sound, stay
where they are. A producer ends with its last user; what that had not sent is never sent.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.publish.kafka import discard_producer, start_producer


class _Group:
    """One producer and the shards that use it."""

    __slots__ = ("_lock", "producer", "users")

    def __init__(self) -> None:
        self.producer: AIOKafkaProducer | None = None
        self.users: set[str] = set()
        self._lock = asyncio.Lock()

    async def get(
        self, connection: KafkaConnection, deadline_s: float, options: dict[str, Any]
    ) -> AIOKafkaProducer:
        if self.producer is None:
            async with self._lock:
                if self.producer is None:
                    self.producer = await start_producer(connection, deadline_s, **options)
        return self.producer


class SharedProducers:
    """Producers of one kind, made when they are needed. ``options`` are the client's."""

    def __init__(self, connection: KafkaConnection, **options: Any) -> None:
        self._connection = connection
        self._options = options
        self._groups: dict[str, _Group] = {}
        self._newest: _Group | None = None

    async def get(self, shard: str, deadline_s: float) -> AIOKafkaProducer:
        """The shard's producer.

        Raises:
            Unavailable: when Kafka cannot be reached.
        """
        group = self._groups.get(shard)
        if group is None:
            if self._newest is None:
                self._newest = _Group()
            group = self._groups[shard] = self._newest
            group.users.add(shard)
        return await group.get(self._connection, deadline_s, self._options)

    async def leave(self, shard: str, *, in_doubt: bool) -> None:
        """The shard uses its producer no more; ``in_doubt``: something that it sent there was not acknowledged."""
        group = self._groups.pop(shard, None)
        if group is None:
            return
        group.users.discard(shard)
        if group is self._newest and (in_doubt or not group.users):
            self._newest = None
        if not group.users and group.producer is not None:
            await discard_producer(group.producer)


class KafkaProducers:
    """What one worker writes with."""

    def __init__(
        self,
        connection: KafkaConnection,
        client_id: str,
        *,
        ledger_compression: str | None,
        output_compression: str | None,
        output_batch_bytes: int,
    ) -> None:
        self.ledgers = SharedProducers(
            connection, client_id=f"{client_id}-ledgers", compression_type=ledger_compression
        )
        self.outputs = SharedProducers(
            connection,
            client_id=f"{client_id}-outputs",
            compression_type=output_compression,
            max_batch_size=output_batch_bytes,
        )
