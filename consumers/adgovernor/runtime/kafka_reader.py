"""Reading single partitions by offset: ledgers, and the last messages of output topics. Belongs to no group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.protocol.metadata import MetadataRequest

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings, Unavailable, told_by
from adgovernor.publish.kafka import REFUSED
from adgovernor.subscribe.kafka import stop_consumer

_READ_S: Final = 20.0
_POLL_MS: Final = 1_000


class Expired(Unavailable):
    """What is to be read was deleted: the partition begins behind it.

    Attributes:
        first: the offset at which the partition begins now.
    """

    def __init__(self, first: int) -> None:
        super().__init__(f"the partition begins at offset {first}")
        self.first = first


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
        self._asks: list[tuple[TopicPartition, int, asyncio.Future[list[Any]]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int) -> tuple[list[Any], int]:
        """Records from an offset on, about ``max_bytes`` of them, and the partition's end as it was before. ``topic``
        is the name on the broker.

        Raises:
            Unavailable: when the partition cannot be read.
            BadSettings: when this user may not read it.
            Expired: when it begins behind the offset.
        """
        tp = TopicPartition(topic, partition)
        async with self._client(f"{topic}[{partition}]") as client:
            _turn_to(client, [tp])
            end = (await client.end_offsets([tp]))[tp]
            if offset >= end:
                return [], end
            client.seek(tp, offset)
            client.resume(tp)
            records: list[Any] = []
            size = 0
            while size < max_bytes and (not records or records[-1].offset + 1 < end):
                try:
                    found = await client.getmany(tp, timeout_ms=_POLL_MS)
                except OffsetOutOfRangeError:
                    first = (await client.beginning_offsets([tp]))[tp]
                    if first <= offset:
                        raise
                    raise Expired(first) from None
                if not found:
                    break
                for record in found[tp]:
                    records.append(record)
                    size += len(record.value or b"")
            client.pause(tp)
            return records, end

    async def first(self, topic: str, partition: int) -> int:
        """The offset at which a partition begins: above 0 where retention has taken what was before.

        Raises:
            Unavailable: when the partition cannot be read.
            BadSettings: when this user may not read it.
        """
        tp = TopicPartition(topic, partition)
        async with self._client(f"{topic}[{partition}]") as client:
            _turn_to(client, [tp])
            return int((await client.beginning_offsets([tp]))[tp])

    async def partitions(self, names: Sequence[str]) -> dict[str, int]:
        """How many partitions each of these topics has; those that are not there are left out. Asks about these alone,
        and makes none.

        Raises:
            Unavailable: when no broker answers.
        """
        async with self._client("the topics") as consumer:
            client = consumer._client
            request = MetadataRequest(list(names), allow_auto_topic_creation=False)
            found = ClusterMetadata()
            found.update_metadata(await client.send(client.get_random_node(), request))
            return {name: len(there) for name in names if (there := found.partitions_for_topic(name))}

    async def tail(self, topic: str, partition: int, count: int) -> list[Any]:
        """The last records of a partition, at most ``count``, oldest first. What is asked for at the same time is
        read together: a takeover looks at the tails of some twenty partitions.

        Raises:
            Unavailable: when the partition cannot be read.
            BadSettings: when this user may not read it.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._asks.append((TopicPartition(topic, partition), count, future))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer(), name="tails")
        return await future

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[Any], int]:
        """The records at most ``count`` offsets before ``offset``, oldest first, and the offset at which they begin:
        ``offset`` itself at the partition's beginning.

        Raises:
            Unavailable: when the partition cannot be read.
            BadSettings: when this user may not read it.
        """
        tp = TopicPartition(topic, partition)
        async with self._client(f"{topic}[{partition}]") as client:
            _turn_to(client, [tp])
            first = (await client.beginning_offsets([tp]))[tp]
            start = min(offset, max(first, offset - count))
            client.seek(tp, start)
            client.resume(tp)
            records: list[Any] = []
            while await client.position(tp) < offset:
                found = await client.getmany(tp, timeout_ms=_POLL_MS, max_records=offset - start)
                if not found:
                    raise TimeoutError(f"nothing came at offset {await client.position(tp)}")
                records += (record for record in found[tp] if record.offset < offset)
            client.pause(tp)
            return records, start

    async def _answer(self) -> None:
        while self._asks:
            await asyncio.sleep(0)
            asks, self._asks = self._asks, []
            counts: dict[TopicPartition, int] = {}
            for tp, count, _ in asks:
                counts[tp] = max(count, counts.get(tp, 0))
            try:
                found = await self._tails(counts)
            except Exception as error:  # noqa: BLE001 - it is raised to everybody who asked
                for _, _, future in asks:
                    if not future.done():
                        future.set_exception(error)
                continue
            for tp, count, future in asks:
                if not future.done():
                    future.set_result(found[tp][-count:])

    async def _tails(self, counts: dict[TopicPartition, int]) -> dict[TopicPartition, list[Any]]:
        found: dict[TopicPartition, list[Any]] = {tp: [] for tp in counts}
        async with self._client("output and side topics") as client:
            _turn_to(client, counts)
            ends = await client.end_offsets(list(counts))
            firsts = await client.beginning_offsets([tp for tp in counts if ends[tp] > 0])
            left = {tp for tp, first in firsts.items() if ends[tp] > first}
            for tp in left:
                client.seek(tp, max(firsts[tp], ends[tp] - counts[tp]))
                client.resume(tp)
            while left:
                batch = await client.getmany(*left, timeout_ms=_POLL_MS)
                if not batch:
                    raise TimeoutError(f"nothing came from {next(iter(left))}")
                for tp, records in batch.items():
                    found[tp] += records
                    if records[-1].offset + 1 >= ends[tp] or await client.position(tp) >= ends[tp]:
                        left.discard(tp)
                        client.pause(tp)
        return found

    async def close(self) -> None:
        """Lets connections go."""
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.wait({self._answering})
        async with self._returned:
            clients, self._free = self._free, []
            self._made -= len(clients)
        # Together: a broker that hangs holds up each of them for as long.
        await asyncio.gather(*map(_stop, clients))

    @asynccontextmanager
    async def _client(self, what: str) -> AsyncIterator[AIOKafkaConsumer]:
        client: AIOKafkaConsumer | None = None
        sound = False
        try:
            async with asyncio.timeout(_READ_S):
                client = await self._take()
                yield client
                sound = True
        except REFUSED as error:
            raise BadSettings(
                f"{what} may not be read ({told_by(error)}); give this user READ on it"
            ) from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unavailable(f"{what} cannot be read: {told_by(error)}") from error
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
            retry_backoff_ms=20,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await self._give_back(None)
            await _stop(client)
            raise self._connection.unusable(error) from error
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


def _turn_to(client: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> None:
    """Makes these the client's partitions, at rest. Before anything is asked about them, so that the client learns of
    all their topics in one request."""
    wanted = set(tps)
    if client.assignment() != wanted:
        client.assign(list(wanted))
        for tp in wanted:
            client.seek(tp, 0)
            client.pause(tp)


async def _stop(client: AIOKafkaConsumer) -> None:
    # A reader that does not stop in time holds nothing but its sockets.
    with suppress(KafkaError, OSError):
        await stop_consumer(client)
