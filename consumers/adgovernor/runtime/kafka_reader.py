"""Reading single partitions by offset: ledgers, and the last messages of output topics. Belongs to no group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Unavailable

_READ_S: Final = 20.0
_POLL_MS: Final = 1_000
_STOP_S: Final = 5.0


class KafkaReaders:
    """A few clients that read one partition at a time, shared by all shards of a process."""

    def __init__(
        self, connection: KafkaConnection, size: int = 4, client_id: str = "adgovernor-reader"
    ) -> None:
        self._connection = connection
        self._client_id = client_id
        self._size = size
        self._made = 0
        self._free: list[AIOKafkaConsumer] = []
        self._returned = asyncio.Condition()

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> tuple[list[Any], int]:
        """Records from an offset on, about ``max_bytes`` of them, and the partition's end as it was before. ``topic``
        is the name on the broker.

        Raises:
            Unavailable: when the partition cannot be read.
        """
        tp = TopicPartition(topic, partition)
        async with self._client(tp) as client:
            end = (await client.end_offsets([tp]))[tp]
            if offset >= end:
                return [], end
            _point(client, tp, offset)
            records: list[Any] = []
            size = 0
            while size < max_bytes and (not records or records[-1].offset + 1 < end):
                found = await client.getmany(tp, timeout_ms=_POLL_MS)
                if not found:
                    break
                for record in found[tp]:
                    records.append(record)
                    size += len(record.value or b"")
            client.pause(tp)
            return records, end

    async def tail(self, topic: str, partition: int, count: int) -> list[Any]:
        """The last records of a partition, at most ``count``, oldest first.

        Raises:
            Unavailable: when the partition cannot be read.
        """
        tp = TopicPartition(topic, partition)
        async with self._client(tp) as client:
            end = (await client.end_offsets([tp]))[tp]
            if end == 0:
                return []
            _point(client, tp, max(0, end - count))
            records: list[Any] = []
            while not records or records[-1].offset + 1 < end:
                try:
                    found = await client.getmany(tp, timeout_ms=_POLL_MS)
                except OffsetOutOfRangeError:
                    first = (await client.beginning_offsets([tp]))[tp]
                    if first >= end:
                        break
                    client.seek(tp, first)
                    continue
                if not found:
                    break
                records += found[tp]
            client.pause(tp)
            return records[-count:]

    async def close(self) -> None:
        """Lets connections go."""
        async with self._returned:
            clients, self._free = self._free, []
            self._made -= len(clients)
        for client in clients:
            await _stop(client)

    @asynccontextmanager
    async def _client(self, tp: TopicPartition) -> AsyncIterator[AIOKafkaConsumer]:
        client: AIOKafkaConsumer | None = None
        sound = False
        try:
            async with asyncio.timeout(_READ_S):
                client = await self._take()
                yield client
                sound = True
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"{tp.topic}[{tp.partition}] cannot be read: {error or 'no answer in time'!r}"
            ) from error
        finally:
            if client is not None and sound:
                await self._give_back(client)
            elif client is not None:
                await self._give_back(None)
                await _stop(client)

    async def _take(self) -> AIOKafkaConsumer:
        async with self._returned:
            while not self._free and self._made >= self._size:
                await self._returned.wait()
            if self._free:
                return self._free.pop()
            self._made += 1
        client = AIOKafkaConsumer(
            **self._connection.client_options(),
            client_id=self._client_id,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        try:
            await client.start()
        except BaseException:
            await self._give_back(None)
            await _stop(client)
            raise
        return client

    async def _give_back(self, client: AIOKafkaConsumer | None) -> None:
        """Returns a client to the others; None: it is gone, and another may take its place."""
        async with self._returned:
            if client is None:
                self._made -= 1
            else:
                self._free.append(client)
            self._returned.notify()


def _point(client: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> None:
    if client.assignment() != {tp}:
        client.assign([tp])
    client.seek(tp, offset)
    client.resume(tp)


async def _stop(client: AIOKafkaConsumer) -> None:
    try:
        async with asyncio.timeout(_STOP_S):
            await client.stop()
    except (KafkaError, OSError, TimeoutError):
        # A reader that does not stop in time holds nothing but its sockets.
        return
