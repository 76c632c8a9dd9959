"""The way of messages to the broker: one lane a partition, bounded buffers, one producer for all lanes.

A lane has one batch under way; what is handed over meanwhile gathers and is the next batch, so batches grow
with the load and nobody waits while there is none. A batch whose fate is unknown is sent again by a new
producer: messages may so land twice, which their ids make harmless.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from adgovernor.contracts.connections import FIND_TRIES, FIND_TRY_S, KafkaConnection
from adgovernor.contracts.errors import AdGovernorError, BadInput, BadSettings, Unavailable
from adgovernor.publish.kafka import REFUSED, discard_producer, may_not_write, start_producer

log = structlog.get_logger("adgovernor.publish")

Headers = list[tuple[str, bytes]]

_BATCH_BYTES: Final = 256 * 1024
"""Large enough for compression and few requests, small enough that one lost batch is soon sent again."""
_OVERHEAD_BYTES: Final = 256
"""What a waiting message takes beside its key and value: headers and our own bookkeeping, roughly."""
_BACKOFF_S: Final = (0.05, 2.0)
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


@dataclass(frozen=True, slots=True)
class Published:
    """Where an acknowledged message is. ``topic`` is its logical name."""

    topic: str
    partition: int
    offset: int


class Ticket:
    """What a caller waits for: that some messages were acknowledged. ``filling``: more messages will join it,
    until `filled`; else it is for one."""

    __slots__ = ("abandoned", "done", "last", "waiting")

    def __init__(self, *, filling: bool = False) -> None:
        self.waiting = int(filling)
        self.abandoned = False
        self.last: Published | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def acknowledged(self, published: Published | None) -> None:
        """One message less to wait for."""
        self.last = published
        self.waiting -= 1
        if not self.waiting and not self.done.done():
            self.done.set_result(None)

    def filled(self) -> None:
        """No more messages will join."""
        self.acknowledged(None)

    def fail(self, error: BaseException) -> None:
        """No more waiting: this is the answer."""
        self.abandoned = True
        if not self.done.done():
            self.done.set_exception(error)

    async def wait(self, deadline_s: float) -> None:
        """Waits until every message is acknowledged.

        Raises:
            Unavailable: where that takes longer than ``deadline_s``; the messages may land yet.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self.done
        except TimeoutError:
            raise Unavailable(
                f"Kafka did not acknowledge {self.waiting} message(s) within {deadline_s:g} s; they may land "
                "yet, and publishing them again is safe: their ids are recognised"
            ) from None
        finally:
            self.abandoned = True


@dataclass(slots=True)
class Waiting:
    """A message on its way."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    size: int
    ticket: Ticket


class Link:
    """The one producer of all lanes; replaced when it is broken."""

    def __init__(self, connection: KafkaConnection, deadline_s: float, options: dict[str, Any]) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()

    async def producer(self) -> AIOKafkaProducer:
        """The producer; a new one is started where there is none. Raises `Unavailable`."""
        if self._producer is not None:
            return self._producer
        async with self._lock:
            if self._producer is None:
                self._producer = await start_producer(self._connection, self._deadline_s, **self._options)
            return self._producer

    async def discard(self, broken: AIOKafkaProducer | None = None) -> None:
        """Lets the producer go; where ``broken`` is given, only if it is still that one."""
        async with self._lock:
            producer = self._producer
            if producer is None or (broken is not None and producer is not broken):
                return
            self._producer = None
            await discard_producer(producer)


class Lanes:
    """All lanes of a publisher."""

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        buffer_bytes: int,
        message_bytes: int,
        deadline_s: float,
        compression: str | None,
        client_id: str,
    ) -> None:
        self._link = Link(
            connection,
            deadline_s,
            {
                "compression_type": compression,
                "max_batch_size": _BATCH_BYTES,
                # A batch holds at least one message of any lawful size, and its framing.
                "max_request_size": max(_BATCH_BYTES, message_bytes) + 4096,
                "client_id": client_id,
            },
        )
        self._message_bytes = message_bytes
        self._buffer_bytes = buffer_bytes
        self._deadline_s = deadline_s
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._broken: BaseException | None = None

    async def open(self) -> None:
        """Connects. Raises `Unavailable`."""
        await self._link.producer()

    async def partitions(self, full_name: str) -> int:
        """How many partitions a topic has.

        Raises:
            BadSettings: where it does not exist, or may not be seen.
            Unavailable: where Kafka does not answer.
        """
        if self._broken is not None:
            raise self._broken
        try:
            async with asyncio.timeout(self._deadline_s):
                producer = await self._link.producer()
                # Asked for by its name, a topic that is missing would be waited for, or made by a broker that makes
                # topics by itself.
                for _ in range(FIND_TRIES):
                    cluster = await producer.client.fetch_all_metadata()
                    if cluster.partitions_for_topic(full_name):
                        return len(await producer.partitions_for(full_name))
                    # A broker may not know yet of a topic that was made a moment ago through another.
                    await asyncio.sleep(FIND_TRY_S)
        except REFUSED as error:
            raise may_not_write(f"topic {full_name}") from error
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka did not describe topic {full_name}: {error!r}") from error
        raise BadSettings(
            f"topic {full_name} does not exist, or this user may not see it; make the topics with "
            "`adgovernor topics create`, mend the prefix, or give this user WRITE on it"
        )

    def put_nowait(
        self,
        topic: str,
        full_name: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        ticket: Ticket,
    ) -> bool:
        """Hands a message over; False where the buffers are full (see `room`).

        Raises:
            BadInput: where the message is larger than Kafka takes.
        """
        if self._broken is not None:
            raise self._broken
        size = len(key or b"") + len(value or b"") + _OVERHEAD_BYTES
        if size > self._message_bytes:
            raise BadInput(
                f"a message of {size} bytes for topic {topic} is larger than {self._message_bytes} bytes; make "
                "it smaller, or raise the publisher's message_bytes and the topic's max.message.bytes"
            )
        if self._held_bytes and self._held_bytes + size > self._buffer_bytes:
            self._room.clear()
            return False
        self._held_bytes += size
        ticket.waiting += 1
        lane = self._lanes.get((full_name, partition))
        if lane is None:
            lane = self._lanes[full_name, partition] = _Lane(self, self._link, topic, full_name, partition)
            lane.task.add_done_callback(self._lane_ended)
        lane.queue.append(Waiting(key, value, headers, size, ticket))
        lane.idle.clear()
        lane.wake.set()
        return True

    async def room(self, deadline_s: float) -> None:
        """Waits until the buffers have room again. Raises `Unavailable` when that takes longer."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._room.wait()
        except TimeoutError:
            raise Unavailable(
                f"{self._held_bytes} bytes wait for Kafka and none was taken within {deadline_s:g} s; the message "
                "was not published"
            ) from None
        if self._broken is not None:
            raise self._broken

    def release(self, size: int) -> None:
        """Buffer space is free again."""
        self._held_bytes -= size
        if self._held_bytes <= self._buffer_bytes // 2:
            self._room.set()

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        # Only a bug of ours ends a lane; whoever waits, and whoever comes later, must hear of it.
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._broken = error
        self._room.set()
        for lane in self._lanes.values():
            lane.fail(error)

    async def drain(self, deadline_s: float) -> None:
        """Waits until nothing is on its way. Raises `Unavailable` when that takes longer."""
        try:
            async with asyncio.timeout(deadline_s):
                for lane in list(self._lanes.values()):
                    await lane.idle.wait()
        except TimeoutError:
            raise Unavailable(
                f"{self._held_bytes} bytes were not acknowledged within {deadline_s:g} s of closing"
            ) from None

    async def close(self) -> None:
        """Stops all lanes; whoever still waits, or comes later, is told."""
        if self._broken is None:
            self._broken = BadInput("the publisher is closed; publish inside its own `async with`")
        for lane in self._lanes.values():
            lane.task.cancel()
        await asyncio.gather(*(lane.task for lane in self._lanes.values()), return_exceptions=True)
        for lane in self._lanes.values():
            lane.fail(Unavailable("the publisher was closed before Kafka acknowledged the message"))
        await self._link.discard()

    async def send(self, lane: _Lane, messages: list[Waiting]) -> int:
        """Sends the first of ``messages`` as one batch; how many they were, once they are acknowledged."""
        producer = await self._link.producer()
        batch = producer.create_batch()
        count = 0
        for message in messages:
            if (
                batch.append(timestamp=None, key=message.key, value=message.value, headers=message.headers)
                is None
            ):
                break
            count += 1
        batch.close()
        try:
            async with asyncio.timeout(self._deadline_s):
                future = await producer.send_batch(batch, lane.full_name, partition=lane.partition)
            metadata = await future
        except (KafkaError, TimeoutError):
            await self._link.discard(producer)
            raise
        for place, message in enumerate(messages[:count]):
            message.ticket.acknowledged(
                Published(lane.topic, lane.partition, metadata.offset + place)
                if message.ticket.waiting == 1
                else None
            )
            self.release(message.size)
        return count


class _Lane:
    """The messages of one partition, in order."""

    def __init__(self, lanes: Lanes, link: Link, topic: str, full_name: str, partition: int) -> None:
        self.topic = topic
        self.full_name = full_name
        self.partition = partition
        self.queue: deque[Waiting] = deque()
        self.wake = asyncio.Event()
        self.idle = asyncio.Event()
        self._lanes = lanes
        self._link = link
        self._flying: list[Waiting] = []
        self._most = 2_000
        self.task = asyncio.create_task(self._run(), name=f"publish {full_name}[{partition}]")

    def fail(self, error: BaseException) -> None:
        """Tells whoever waits."""
        for message in (*self._flying, *self.queue):
            message.ticket.fail(error)

    async def _run(self) -> None:
        failures = 0
        while True:
            self._fill()
            if not self._flying:
                self.idle.set()
                self.wake.clear()
                await self.wake.wait()
                continue
            try:
                count = await self._lanes.send(self, self._flying)
            except (KafkaError, Unavailable, BadSettings, TimeoutError) as error:
                failures += 1
                if not self._dealt_with(error):
                    await asyncio.sleep(self._pause(failures))
                continue
            failures = 0
            del self._flying[:count]

    def _fill(self) -> None:
        # A message that nobody waits for any more is not sent: its caller was told that it is unknown.
        for message in self._flying:
            if message.ticket.abandoned:
                self._lanes.release(message.size)
        self._flying = [message for message in self._flying if not message.ticket.abandoned]
        while self.queue and len(self._flying) < self._most:
            message = self.queue.popleft()
            if message.ticket.abandoned:
                self._lanes.release(message.size)
            else:
                self._flying.append(message)

    def _dealt_with(self, error: Exception) -> bool:
        """Whether the error is answered: the messages were told of it, or go in smaller batches. Else they are sent
        again as they are."""
        answer: AdGovernorError
        if isinstance(error, _TOO_LARGE):
            if len(self._flying) > 1:
                # The batch was too large for the topic, which says nothing of its messages.
                self._most = max(1, min(self._most, len(self._flying)) // 2)
                self.queue.extendleft(reversed(self._flying[self._most :]))
                del self._flying[self._most :]
                return True
            answer = BadInput(
                f"topic {self.full_name} refuses a message of {self._flying[0].size} bytes; make it smaller or "
                "raise the topic's max.message.bytes"
            )
        elif isinstance(error, REFUSED):
            answer = may_not_write(f"topic {self.full_name}")
        elif isinstance(error, InvalidTimestampError):
            answer = BadSettings(
                f"topic {self.full_name} refuses our clock's time; set this machine's clock right"
            )
        elif isinstance(error, BadSettings):
            answer = error
        else:
            log.warning(
                "publishing again with a new producer",
                topic=self.full_name,
                partition=self.partition,
                error=repr(error),
            )
            return False
        for message in self._flying:
            message.ticket.fail(answer)
        return True

    @staticmethod
    def _pause(failures: int) -> float:
        least, most = _BACKOFF_S
        return random.uniform(0.5, 1.0) * min(most, least * 2.0 ** min(failures, 10))  # noqa: S311
