"""The inputs of all shards that one worker owns: one group consumer, a bounded buffer for each partition.

The group only divides partitions among workers. Where reading goes on is what each engine asks for (the position in
its ledger's tip); group offsets are written for lag tools alone. A partition is paused from its assignment until its
engine asks, and while its buffer is full.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, OffsetOutOfRangeError

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadInput, BadSettings, told_by
from adgovernor.runtime.inbox import shares
from adgovernor.runtime.ports import Fetch, RawEvent
from adgovernor.subscribe.kafka import no_right_to, stop_consumer

_log = structlog.get_logger(__name__)

_POLL_S: Final = 0.2
_POLL_BOUND_S: Final = 5.0
"""`getmany` ignores its own time-out while a rebalance runs."""
_FETCH_WAIT_MS: Final = 100
"""A resumed partition waits for the fetch in flight to the same broker, so that must be short."""
_FRESH_S: Final = 1.0
"""An end that was seen longer ago says nothing about now."""
_START_S: Final = 30.0
_COMMIT_S: Final = 5.0
_STOP_S: Final = 10.0
_RETRY_S: Final = 0.5


class InputLost(BadInput):
    """The next input to read is no longer, or not yet, on its topic."""


class _Buffer:
    """What was read of one partition and not yet asked for."""

    __slots__ = ("asked", "lost", "next", "paused", "records", "since_s")

    def __init__(self) -> None:
        self.records: deque[Any] = deque()
        self.asked = False
        """Whether an engine has said where it reads."""
        self.next = 0
        """The offset that the engine asks for next, if it goes on as before."""
        self.paused = True
        self.since_s = 0.0
        """Since when it is read, without a pause."""
        self.lost = ""


class _Listener(ConsumerRebalanceListener):
    def __init__(self, inputs: KafkaInputs) -> None:
        self._inputs = inputs

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._inputs._revoked()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._inputs._assigned(set(assigned))


class KafkaInputs:
    """The group consumer of one worker.

    Attributes:
        owned: the (logical topic, partition) pairs that the group gave to this worker.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        prefix: str,
        group: str,
        *,
        on_revoked: Callable[[], Awaitable[None]],
        on_assigned: Callable[[], None],
        buffer_events: int = 4_000,
        session_timeout_ms: int = 10_000,
        client_id: str = "adgovernor",
    ) -> None:
        self._prefix = prefix
        self._group = group
        self._connection = connection
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned
        self._limit = buffer_events
        names = (*topics.USER_INPUTS, *topics.TREASURY_INPUTS)
        self._logical = {topics.full_name(prefix, name): name for name in names}
        self._places: dict[tuple[str, int], TopicPartition] = {}
        self._buffers: dict[TopicPartition, _Buffer] = {}
        self._committing: asyncio.Task[None] | None = None
        self._waiting: dict[TopicPartition, set[asyncio.Event]] = {}
        """Who waits for input of a partition."""
        self._consumer = AIOKafkaConsumer(
            **connection.client_options(),
            client_id=client_id,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=max(100, session_timeout_ms // 6),
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_poll_interval_ms=300_000,
        )

    @property
    def owned(self) -> set[tuple[str, int]]:
        """The (logical topic, partition) pairs that this worker reads."""
        return set(self._places)

    @property
    def silent_s(self) -> float:
        """For how long reads of any one partition have not been answered; 0 where nothing is being read. A read is
        answered within a tenth of a second, also where nothing came in."""
        held = self._consumer.assignment()
        now_s = time.time()
        return max(
            (
                now_s - max(buffer.since_s, (self._consumer.last_poll_timestamp(tp) or 0) / 1000)
                for tp, buffer in self._buffers.items()
                if buffer.asked and not buffer.paused and tp in held
            ),
            default=0.0,
        )

    async def start(self) -> None:
        """Connects and joins the group.

        Raises:
            BadSettings: when this user may not join it.
            Unavailable: when Kafka cannot be reached.
        """
        self._consumer.subscribe(topics=list(self._logical), listener=_Listener(self))
        try:
            async with asyncio.timeout(_START_S):
                await self._consumer.start()
        except GroupAuthorizationFailedError as error:
            await self.stop()
            raise no_right_to(self._group) from error
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            raise self._connection.unusable(error) from error

    async def stop(self) -> None:
        """Leaves the group and lets connections go, within a bound."""
        if self._committing is not None:
            self._committing.cancel()
        why = ""
        try:
            if not await stop_consumer(self._consumer, _STOP_S):
                why = "no answer in time, or none that came whole"
        except (KafkaError, OSError) as error:
            why = told_by(error)
        if why:
            _log.warning("leaving the consumer group failed; the group notices by its session", error=why)

    async def run(self) -> None:
        """Reads until cancelled.

        Raises:
            BadSettings: when the group or a topic may not be used.
            Unavailable: when the client cannot go on.
        """
        consumer = self._consumer
        while True:
            try:
                async with asyncio.timeout(_POLL_BOUND_S):
                    found = await consumer.getmany(timeout_ms=int(_POLL_S * 1000), max_records=self._limit)
            except TimeoutError:
                continue
            except OffsetOutOfRangeError as error:
                await self._out_of_range(error.args[0])
                continue
            except KafkaError as error:
                if not error.retriable:
                    raise BadSettings(
                        f"the inputs cannot be read: {error!r}; `adgovernor check` says more"
                    ) from error
                _log.warning("reading inputs failed, trying again", error=repr(error))
                await asyncio.sleep(_RETRY_S)
                continue
            full = []
            for tp, records in found.items():
                buffer = self._buffers.get(tp)
                if buffer is None or not buffer.asked:
                    continue
                buffer.records.extend(records)
                if len(buffer.records) >= self._limit and not buffer.paused:
                    buffer.paused = True
                    full.append(tp)
            if full:
                consumer.pause(*full)
            self._wake(found)

    # --- What shards ask --------------------------------------------------------------------------------------

    async def fetch(
        self, partition: int, positions: Mapping[str, int], max_events: int, max_wait_s: float
    ) -> Fetch:
        """See `ShardLog.fetch`. Without input it waits; it never returns more of a topic than its share.

        Raises:
            InputLost: when a position is not on its topic any more.
        """
        fetch = self._collect(partition, positions, max_events)
        if max_wait_s > 0 and not any(fetch.events.values()):
            until = time.monotonic() + max_wait_s
            event = asyncio.Event()
            places = [
                self._places[name, partition] for name in positions if (name, partition) in self._places
            ]
            for tp in places:
                self._waiting.setdefault(tp, set()).add(event)
            try:
                while not any(fetch.events.values()):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    event.clear()
                    try:
                        async with asyncio.timeout(left):
                            await event.wait()
                    except TimeoutError:
                        pass
                    fetch = self._collect(partition, positions, max_events)
            finally:
                for tp in places:
                    self._waiting[tp].discard(event)
        return fetch

    def _collect(self, partition: int, positions: Mapping[str, int], max_events: int) -> Fetch:
        events: dict[str, list[RawEvent]] = {}
        ends: dict[str, int] = {}
        ready: dict[str, tuple[TopicPartition, _Buffer]] = {}
        for name, position in positions.items():
            tp = self._places.get((name, partition))
            if tp is None:
                continue
            buffer = self._buffers[tp]
            if buffer.lost:
                raise InputLost(buffer.lost)
            if buffer.asked and buffer.next == position:
                ready[name] = (tp, buffer)
            else:
                self._seek(tp, buffer, position)
        share = shares({name: len(buffer.records) for name, (_, buffer) in ready.items()}, max_events)
        for name, (tp, buffer) in ready.items():
            records = buffer.records
            if records:
                if len(records) <= share[name]:
                    taken = list(records)
                    records.clear()
                else:
                    taken = [records.popleft() for _ in range(share[name])]
                buffer.next = taken[-1].offset + 1
                # The client's records have all that a `RawEvent` has; copying them would cost as much as reading.
                events[name] = taken
            if buffer.paused and len(records) <= self._limit // 2:
                buffer.paused, buffer.since_s = False, time.time()
                self._consumer.resume(tp)
            end = self._end(tp, buffer)
            if end is not None:
                ends[name] = end
        return Fetch(events, ends)

    def _end(self, tp: TopicPartition, buffer: _Buffer) -> int | None:
        """Where the partition ended when it was last asked; None where that is too long ago. The client notes it
        with every answer, empty ones too."""
        consumer = self._consumer
        end, seen_ms = consumer.highwater(tp), consumer.last_poll_timestamp(tp)
        if end is None or seen_ms is None or time.time() - seen_ms / 1000 > _FRESH_S:
            return None
        if not buffer.records and end > buffer.next and _consumed_to(consumer, tp) >= end:
            # Only transaction markers, which no reader sees, lie between.
            return buffer.next
        return int(end)

    def _seek(self, tp: TopicPartition, buffer: _Buffer, position: int) -> None:
        buffer.records.clear()
        buffer.asked, buffer.next, buffer.paused, buffer.since_s = True, position, False, time.time()
        self._consumer.seek(tp, position)
        self._consumer.resume(tp)

    async def commit(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Writes group offsets, for lag tools and autoscalers. A failure is only logged: nothing depends on them."""
        if self._committing is not None:
            await asyncio.wait({self._committing}, timeout=_COMMIT_S)
        offsets = {self._places[place]: at for place, at in positions.items() if place in self._places}
        if not offsets or self._committing is not None:
            return
        # The client goes on with a call that is cancelled, and nobody would hear how it ended: it is left to end.
        self._committing = asyncio.create_task(self._consumer.commit(offsets), name="commit")
        self._committing.add_done_callback(self._committed)
        done, _ = await asyncio.wait({self._committing}, timeout=_COMMIT_S)
        for task in done:
            if not task.cancelled() and not isinstance(task.exception(), KafkaError):
                task.result()

    def _committed(self, task: asyncio.Task[None]) -> None:
        self._committing = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, KafkaError):
            _log.info("group offsets for lag tools were not written", error=repr(error))

    # --- What the group says ----------------------------------------------------------------------------------

    async def _revoked(self) -> None:
        await self._on_revoked()

    def _assigned(self, assigned: set[TopicPartition]) -> None:
        consumer = self._consumer
        for tp in assigned:
            # Before anything else may run: without a position the client would look for group offsets.
            consumer.seek(tp, 0)
        if assigned:
            consumer.pause(*assigned)
        self._buffers = {tp: _Buffer() for tp in assigned}
        self._places = {(self._logical[tp.topic], tp.partition): tp for tp in assigned}
        self._wake(self._waiting)
        self._on_assigned()

    async def _out_of_range(self, offsets: Mapping[TopicPartition, int]) -> None:
        for tp, offset in offsets.items():
            buffer = self._buffers.get(tp)
            if buffer is None or not buffer.asked:
                continue
            if offset == 0:
                # A shard that has read nothing yet begins where the topic begins now.
                try:
                    async with asyncio.timeout(_POLL_BOUND_S):
                        await self._consumer.seek_to_beginning(tp)
                except (KafkaError, TimeoutError) as error:
                    _log.warning("the topic's beginning was not found, trying again", error=repr(error))
                    await asyncio.sleep(_RETRY_S)
                continue
            buffer.lost = (
                f"offset {offset} of {tp.topic}[{tp.partition}] is to be read next, but the topic does not have it: "
                "its retention removed unread input, or it was deleted and created again"
            )
            buffer.paused = True
            self._consumer.pause(tp)
            self._wake((tp,))

    def _wake(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            for event in self._waiting.get(tp, ()):
                event.set()


def _consumed_to(consumer: AIOKafkaConsumer, tp: TopicPartition) -> int:
    """The client's own position, which moves over what no reader sees. The public call is a coroutine."""
    state = consumer._subscription.subscription.assignment.state_value(tp)
    return int(state.position) if state is not None and state.has_valid_position else 0


def shards_of(owned: Sequence[tuple[str, int]] | set[tuple[str, int]]) -> set[str]:
    """The shards all of whose inputs are among these (logical topic, partition) pairs."""
    partitions = {partition for _, partition in owned}
    held = set(owned)
    return {
        name(partition)
        for partition in partitions
        for name, inputs in (
            (topics.user_shard, topics.USER_INPUTS),
            (topics.treasury_shard, topics.TREASURY_INPUTS),
        )
        if all((topic, partition) in held for topic in inputs)
    }
