"""Typed, exactly-once reading of an output topic."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadInput, Gap, Unavailable, Undecodable
from adgovernor.subscribe.deadletters import DeadLetter, dead_letter_of
from adgovernor.subscribe.kafka import PartitionReader, RawMessage, ReadableLog, Reader, no_right_to
from adgovernor.subscribe.position import START, PartitionNumbers, Position, Verdict, missing_partitions

log = structlog.get_logger("adgovernor.subscribe")

EventT = TypeVar("EventT")

GAP_PATIENCE_S: Final = 30.0
"""Longer than a shard needs to be taken over, which publishes again what was missing."""
_BATCH: Final = 2_000
_POLL_S: Final = 0.5
_COMMIT_S: Final = 15.0
_GROUP_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class _Numbered(Generic[EventT]):
    partition: int
    offset: int
    dn: int
    event: EventT


def named(group: str | None) -> None:
    """Raises `BadInput` for a group without a name, as an unset variable gives: its positions would be nobody's."""
    if group == "":
        raise BadInput("group is empty; name it, or leave it out and keep `positions()` yourself")


class Subscriber(Generic[EventT]):
    """Delivers each event of an output topic once, in order for each partition.

    Workers publish at least once and may crash at any point: messages repeat and come late. The subscriber keeps
    one number a partition and takes only the next one, so none of this is seen::

        async with Subscriber("localhost:9092", "decisions", prefix="prod", start=saved) as decisions:
            async for decision in decisions:
                ...
                saved = decisions.positions()

    To be exactly-once across your own crashes too, store `positions` together with what the events caused (see
    `dump_positions`), and hand them over as ``start``. With ``group``, `commit` keeps them in Kafka instead; an
    event is then delivered again after a crash between its effect and the commit.

    Raises:
        Gap: where events are missing and no longer come.
        Undecodable: where a worker's message is not what its topic promises: a newer release wrote it.
        Unavailable: where Kafka cannot be used.
        BadSettings: where the topic does not exist or may not be read.
        BadInput: where ``topic``, ``group`` or ``start`` is wrong.
    """

    def __init__(
        self,
        connection: KafkaConnection | str | ReadableLog,
        topic: str,
        *,
        prefix: str = "",
        partitions: Iterable[int] | None = None,
        start: Mapping[int, Position] | None = None,
        group: str | None = None,
        otherwise: Mapping[int, Position] | None = None,
        until_end: bool = False,
        gap_patience_s: float = GAP_PATIENCE_S,
        client_id: str = "adgovernor-subscribe",
    ) -> None:
        """
        Args:
            connection: where Kafka is; ``host:port`` or a `KafkaConnection`. Or another log.
            topic: logical name, such as ``decisions`` or ``ad-requests.dlq``.
            prefix: the deployment's topic prefix.
            partitions: which; left out, all.
            start: where to go on; a partition left out starts at its first event. Where the topic is now says
                `adgovernor.app.starts.now`.
            group: a consumer group whose committed positions are the start where ``start`` names none.
            otherwise: the start where neither ``start`` nor the group names one.
            until_end: stop at the end that the topic has when reading begins.
            gap_patience_s: how long a missing event may take.
        """
        named(group)
        if start is not None and not isinstance(start, Mapping):
            raise BadInput(
                f"start is {start!r}; give positions by partition, as `positions()` and `now()` do"
            )
        self.topic = topic
        self._decode = _decoder(topic)
        self._group = group
        self._wanted = None if partitions is None else sorted(set(partitions))
        self._start = dict(start or {})
        self._otherwise = dict(otherwise or {})
        self._until_end = until_end
        self._patience_s = gap_patience_s
        self._client_id = client_id
        self._kafka: tuple[KafkaConnection, PartitionReader] | None = None
        self._reader: Reader
        if isinstance(connection, (str, KafkaConnection)):
            kafka, name = KafkaConnection.of(connection), topics.full_name(prefix, topic)
            self._reader = reader = PartitionReader(kafka, name, client_id=client_id, group=group)
            self._kafka = kafka, reader
        elif group is not None:
            raise BadInput(
                "a group keeps its positions in Kafka; of another log, keep positions() yourself and give them as start"
            )
        else:
            self._reader = connection.reader(topic)
        self._numbers: dict[int, PartitionNumbers] = {}
        self._delivered: dict[int, Position] = {}
        self._ends: dict[int, int] = {}
        self._buffer: deque[_Numbered[EventT]] = deque()
        self.foreign = 0
        """How many messages were no event of a worker's."""

    async def __aenter__(self) -> Self:
        existing = await self._reader.open()
        try:
            chosen = existing if self._wanted is None else self._wanted
            wrong = missing_partitions(dict.fromkeys((*chosen, *self._start), START), existing)
            if wrong:
                raise BadInput(
                    f"topic {self._reader.full_name} has partitions {existing[0]} to {existing[-1]}, not "
                    f"{', '.join(map(str, wrong))}"
                )
            saved = {}
            if self._group and self._kafka:
                saved = await self._committed(self._kafka[0], self._group, chosen)
            await self._begin(
                {p: self._start.get(p) or saved.get(p) or self._otherwise.get(p, START) for p in chosen}
            )
        except BaseException:
            await self._reader.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.close()

    async def _begin(self, starts: Mapping[int, Position]) -> None:
        """Reads these partitions, and no others, from there on."""
        self._ends = await self._reader.ends(starts)
        for partition, position in starts.items():
            if position.offset > self._ends[partition]:
                raise Gap(
                    self.topic,
                    partition,
                    position.dn + 1,
                    None,
                    f"the start given is offset {position.offset}, but the topic ends at "
                    f"{self._ends[partition]}: it was deleted and made again, or lost its tail, or the "
                    "position is another deployment's",
                )
        self._numbers = {p: PartitionNumbers(at) for p, at in starts.items()}
        self._delivered = dict(starts)
        await self._reader.read_from({p: at.offset for p, at in starts.items()})

    def positions(self) -> dict[int, Position]:
        """Where each partition is, after the last event that was delivered."""
        return dict(self._delivered)

    @property
    def repeated(self) -> int:
        """How many messages were repetitions, and so not delivered."""
        return sum(numbers.old for numbers in self._numbers.values())

    async def __aiter__(self) -> AsyncIterator[EventT]:
        while await self._fill():
            while self._buffer:
                item = self._buffer.popleft()
                self._delivered[item.partition] = Position(item.offset + 1, item.dn)
                yield item.event

    async def batches(self) -> AsyncIterator[list[EventT]]:
        """The events, as many at a time as came together; `positions` is after the whole batch."""
        while await self._fill():
            events = [item.event for item in self._buffer]
            for item in self._buffer:
                self._delivered[item.partition] = Position(item.offset + 1, item.dn)
            self._buffer.clear()
            yield events

    async def commit(self, positions: Mapping[int, Position] | None = None) -> None:
        """Keeps `positions` in Kafka, in the group's name; or those given, where later events are not done yet.

        Raises:
            Unavailable: where Kafka does not take them.
        """
        if self._group is None or self._kafka is None:
            raise BadInput("commit needs a group; give one to the subscriber, or store positions() yourself")
        await self._commit(self._kafka[1].consumer, self._delivered if positions is None else positions)

    async def _commit(self, consumer: AIOKafkaConsumer, positions: Mapping[int, Position]) -> None:
        offsets = {
            TopicPartition(self._reader.full_name, p): OffsetAndMetadata(at.offset, f"dn={at.dn}")
            for p, at in positions.items()
        }
        try:
            async with asyncio.timeout(_COMMIT_S):
                await consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(
                f"Kafka did not take the positions of group {self._group}: {error!r}"
            ) from error

    async def _committed(
        self, connection: KafkaConnection, group: str, partitions: Iterable[int]
    ) -> dict[int, Position]:
        admin = AIOKafkaAdminClient(**connection.client_options(), client_id=self._client_id)
        wanted = [TopicPartition(self._reader.full_name, p) for p in partitions]
        try:
            async with asyncio.timeout(_COMMIT_S):
                await admin.start()
                for attempt in range(_GROUP_TRIES):
                    try:
                        found = await admin.list_consumer_group_offsets(group, partitions=wanted)
                        break
                    except KafkaError as error:
                        # The first use of a group makes the broker load its coordinator.
                        if not error.retriable or attempt == _GROUP_TRIES - 1:
                            raise
                        await asyncio.sleep(0.25)
        except GroupAuthorizationFailedError as error:
            raise no_right_to(group) from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unavailable(f"the positions of group {group} cannot be read: {error!r}") from error
        finally:
            await admin.close()
        result: dict[int, Position] = {}
        for tp, kept in found.items():
            if kept.offset < 0:
                continue
            number = str(kept.metadata).removeprefix("dn=")
            if not number.isdecimal():
                raise BadInput(
                    f"group {group} has an offset for {tp.topic}[{tp.partition}] that no subscriber "
                    "committed; use a group of its own"
                )
            result[tp.partition] = Position(int(kept.offset), int(number))
        return result

    async def _fill(self) -> bool:
        """Fills the empty buffer; False where everything up to the end was read."""
        if self._kafka is not None and not self._kafka[1].partitions():
            raise BadInput("a subscriber is read inside its own `async with`")
        clock = asyncio.get_running_loop().time
        while not self._buffer:
            if self._until_end and all(self._reader.next[p] >= end for p, end in self._ends.items()):
                self._check(clock(), 0.0)
                return False
            for message in await self._reader.read(_BATCH, _POLL_S):
                self._judge(message, clock())
            self._check(clock(), self._patience_s)
        return True

    def _check(self, now_s: float, patience_s: float) -> None:
        # What was taken before a gap is delivered first.
        if self._buffer:
            return
        for partition, numbers in self._numbers.items():
            numbers.check(self.topic, partition, now_s, patience_s, self._reader.beginnings[partition])

    def _judge(self, message: RawMessage, now_s: float) -> None:
        if self._until_end and message.offset >= self._ends[message.partition]:
            return
        numbers = self._numbers[message.partition]
        try:
            event, dn = self._decode(message)
        except Undecodable as error:
            if _number_in(message) == numbers.position.dn + 1:
                raise Undecodable(
                    error.reason,
                    f"{self.topic}[{message.partition}] offset {message.offset}: {error}; a newer release wrote it: "
                    "update this one",
                ) from error
            self.foreign += 1
            log.warning(
                "ignored a message that is no event",
                topic=self.topic,
                partition=message.partition,
                offset=message.offset,
                reason=str(error),
            )
            return
        if numbers.see(message.offset, dn, now_s) is Verdict.TAKE:
            self._buffer.append(_Numbered(message.partition, message.offset, dn, event))


def _number_in(message: RawMessage) -> object:
    """The number of a message that is not what it should be; None where it has none."""
    try:
        body = orjson.loads(message.value or b"")
    except orjson.JSONDecodeError:
        return None
    return body.get("dn") if isinstance(body, dict) else None


def _decoder(topic: str) -> Callable[[RawMessage], tuple[Any, int]]:
    if topic in topics.DLQS:
        return _decode_dead_letter
    if topic not in topics.PUBLIC_OUTPUTS:
        raise BadInput(
            f"topic {topic!r} has no numbered events; it must be one of {', '.join(topics.PUBLIC_OUTPUTS)} or a .dlq"
        )
    contract = contract_of(topic)

    def decode(message: RawMessage) -> tuple[Any, int]:
        event = contract.parse(message.value or b"")
        return event, event.dn

    return decode


def _decode_dead_letter(message: RawMessage) -> tuple[DeadLetter, int]:
    letter = dead_letter_of(message)
    return letter, letter.dn
