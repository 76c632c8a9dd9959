"""Reading partitions by offset, without a group: what every reader here is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)

from adgovernor.contracts.connections import FIND_TRIES, FIND_TRY_S, KafkaConnection
from adgovernor.contracts.errors import BadSettings, Unavailable

_T = TypeVar("_T")
_DEADLINE_S: Final = 20.0
_STOP_S: Final = 5.0
_STOP_TRY_S: Final = 0.25
_NEVER: Final = "none"
"""What to do without an offset: nothing. Every position here is set by us."""


def no_right_to(group: str) -> BadSettings:
    """What to tell of a broker that refuses a consumer group to this user."""
    return BadSettings(f"group {group} may not be used by this user; give it READ on the group")


async def stop_consumer(consumer: AIOKafkaConsumer, deadline_s: float = _STOP_S) -> bool:
    """Stops a consumer, within a bound; whether it ended by itself.

    The client's fetcher swallows a cancellation that meets it while it takes a new assignment in, and its own
    ``stop()`` then waits for ever; asking again helps. Where a request of it waits to be tried again, its ``stop()``
    ends with a cancellation that nobody asked for, before the connections are closed. Private names of the client are
    used here and nowhere else.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + deadline_s
    stopping = asyncio.create_task(consumer.stop())
    try:
        while clock() < until:
            done, _ = await asyncio.wait({stopping}, timeout=_STOP_TRY_S)
            if done:
                break
            if consumer._fetcher is not None:
                consumer._fetcher._fetch_task.cancel()
    finally:
        stopping.cancel()
    await asyncio.wait({stopping}, timeout=_STOP_TRY_S)
    if stopping.done() and not stopping.cancelled():
        stopping.result()
        return True
    await asyncio.wait({asyncio.create_task(consumer._client.close())}, timeout=_STOP_TRY_S)
    return False


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as it is on a topic."""

    partition: int
    offset: int
    time_ms: int
    """The record's timestamp."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Reader(Protocol):
    """Reads partitions of one topic by offset; `PartitionReader` documents each name."""

    next: dict[int, int]
    beginnings: dict[int, int]

    @property
    def full_name(self) -> str: ...

    async def open(self) -> list[int]: ...

    async def close(self) -> None: ...

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]: ...

    async def read_from(self, offsets: Mapping[int, int]) -> None: ...

    async def read(self, max_messages: int, wait_s: float) -> list[RawMessage]: ...


class ReadableLog(Protocol):
    """A log other than Kafka's, such as one in this process's memory."""

    def reader(self, topic: str) -> Reader:
        """A reader of a topic (logical name)."""
        ...


class PartitionReader:
    """Reads some partitions of one topic from given offsets on.

    Attributes:
        next: the next offset of each partition.
        beginnings: the first offset that each partition had when it was last looked up.
    """

    def __init__(
        self,
        connection: KafkaConnection | str,
        full_name: str,
        *,
        client_id: str,
        group: str | None = None,
    ) -> None:
        self._connection = KafkaConnection.of(connection)
        self.full_name = full_name
        self.next: dict[int, int] = {}
        self.beginnings: dict[int, int] = {}
        self._partitions: list[int] = []
        self._consumer = AIOKafkaConsumer(
            **self._connection.client_options(),
            client_id=client_id,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset=_NEVER,
            # One partition's backlog must fill a batch, or a tail of small fetches costs a round trip each.
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The client, for commits."""
        return self._consumer

    async def open(self) -> list[int]:
        """Connects; the topic's partitions.

        Raises:
            Unavailable: where Kafka cannot be reached.
            BadSettings: where the topic does not exist or may not be read.
        """
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._consumer.start()
                self._partitions = await self._find_partitions()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise self._connection.unusable(error) from error
        except BaseException:
            await self.close()
            raise
        if not self._partitions:
            await self.close()
            raise BadSettings(
                f"topic {self.full_name} does not exist, or this user may not see it; make the topics with "
                "`adgovernor topics create`, mend the prefix, or give this user READ on it"
            )
        return self._partitions

    async def _find_partitions(self) -> list[int]:
        # A broker may not know yet of a topic that was made a moment ago through another.
        for _ in range(FIND_TRIES):
            # The client's own view of the cluster, unlike `topics()`, says the partitions too.
            cluster = await self._consumer._client.fetch_all_metadata()
            partitions = cluster.partitions_for_topic(self.full_name)
            if partitions:
                return sorted(partitions)
            await asyncio.sleep(FIND_TRY_S)
        return []

    def partitions(self) -> list[int]:
        """The topic's partitions, once it is open."""
        return self._partitions

    async def close(self) -> None:
        """Lets connections go."""
        await stop_consumer(self._consumer)

    def _tps(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self.full_name, partition) for partition in partitions]

    async def _asked(self, answer: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await answer
        except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError) as error:
            raise BadSettings(f"topic {self.full_name} may not be read; give this user READ on it") from error
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka did not answer about topic {self.full_name}: {error!r}") from error

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The next offset that each partition will get."""
        found = await self._asked(self._consumer.end_offsets(self._tps(partitions)))
        return {tp.partition: int(offset) for tp, offset in found.items()}

    async def first_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """The first offset that each partition still has."""
        found = await self._asked(self._consumer.beginning_offsets(self._tps(partitions)))
        return {tp.partition: int(offset) for tp, offset in found.items()}

    async def read_from(self, offsets: Mapping[int, int]) -> None:
        """Sets where each partition is read from; one that begins later is read from its beginning."""
        self.beginnings = await self.first_offsets(offsets)
        self.next = {p: max(offset, self.beginnings[p]) for p, offset in offsets.items()}
        self._consumer.assign(self._tps(offsets))
        for partition, offset in self.next.items():
            self._consumer.seek(TopicPartition(self.full_name, partition), offset)

    async def read(self, max_messages: int, wait_s: float) -> list[RawMessage]:
        """The next messages, in order for each partition; none where nothing comes within ``wait_s``.

        Raises:
            Unavailable, BadSettings: as `open`.
        """
        try:
            found = await self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=max_messages)
        except OffsetOutOfRangeError:
            # Retention has overtaken us, or the log was cut: go on where the topic begins. Whoever numbers the
            # messages sees what is missing.
            await self.read_from(self.next)
            return []
        except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError) as error:
            raise BadSettings(f"topic {self.full_name} may not be read; give this user READ on it") from error
        except KafkaError as error:
            raise Unavailable(f"topic {self.full_name} cannot be read: {error!r}") from error
        result: list[RawMessage] = []
        for tp, messages in found.items():
            self.next[tp.partition] = messages[-1].offset + 1
            result.extend(
                RawMessage(tp.partition, m.offset, m.timestamp, m.key, m.value, tuple(m.headers))
                for m in messages
            )
        return result

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
