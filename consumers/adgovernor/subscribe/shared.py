"""Reading an output topic together: the members of a Kafka group divide its partitions among them.

    joins or leaves → every member stops and hands over → new shares → each goes on

The group's own consumer only keeps the membership and the positions; what is read comes through a `PartitionReader`,
so that numbers and gaps are judged as by any `Subscriber`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, Self, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable
from adgovernor.subscribe.kafka import no_right_to, stop_consumer
from adgovernor.subscribe.position import START, Position
from adgovernor.subscribe.subscriber import GAP_PATIENCE_S, Subscriber, named

log = structlog.get_logger("adgovernor.subscribe")

EventT = TypeVar("EventT")

_BATCH: Final = 2_000
_POLL_S: Final = 0.5
_POLL_BOUND_S: Final = 5.0
"""`getmany` ignores its own time-out while a rebalance runs."""
_START_S: Final = 30.0
_HANDOVER_S: Final = 30.0
"""How long the group waits for members to hand over; whoever takes longer is left out and joins again."""


class Handover(Protocol):
    """Whoever works on what a `SharedSubscriber` delivers."""

    async def revoked(self) -> None:
        """The shares change. Until this returns they do not: finish what is soon done, and commit it."""
        ...

    def assigned(self, starts: Mapping[int, Position], anew: frozenset[int]) -> None:
        """These partitions are read from here on. Work on others, and on those that begin ``anew`` because another
        member had them meanwhile, is somebody else's now."""
        ...


class _Nobody:
    async def revoked(self) -> None: ...

    def assigned(self, starts: Mapping[int, Position], anew: frozenset[int]) -> None: ...


class _Listener(ConsumerRebalanceListener):
    def __init__(self, owner: SharedSubscriber[Any]) -> None:
        self._owner = owner

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._owner._revoked()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._owner._assigned(list(assigned))


class SharedSubscriber(Subscriber[EventT]):
    """A `Subscriber` whose partitions a group gives it: as many members as there are partitions divide the work.

    A member that joins or leaves changes the shares. Partitions go on where the group's positions say, so what was
    delivered and not committed is delivered again to whoever has the partition next::

        async with SharedSubscriber("localhost:9092", "decisions", group="my-group") as decisions:
            async for decision in decisions:
                ...
                await decisions.commit()

    Attributes:
        handover: hears when shares change; set it before reading.

    Raises what `Subscriber` raises.
    """

    def __init__(
        self,
        connection: KafkaConnection | str,
        topic: str,
        *,
        group: str,
        prefix: str = "",
        otherwise: Mapping[int, Position] | None = None,
        session_timeout_ms: int = 10_000,
        gap_patience_s: float = GAP_PATIENCE_S,
        client_id: str = "adgovernor-subscribe",
    ) -> None:
        """
        Args:
            group: the members' common name; its positions are kept in Kafka.
            otherwise: the start of a partition for which the group has no position; left out, its first event.
            session_timeout_ms: after how long without a sign of life a member's partitions go to others.
        """
        named(group)
        super().__init__(
            connection,
            topic,
            prefix=prefix,
            otherwise=otherwise,
            gap_patience_s=gap_patience_s,
            client_id=client_id,
        )
        self.handover: Handover = _Nobody()
        self._kept_by, self._members = KafkaConnection.of(connection), group
        self._session_timeout_ms = session_timeout_ms
        self._consumer: AIOKafkaConsumer | None = None
        self._staying: asyncio.Task[None] | None = None
        self._share: frozenset[int] | None = None
        """What the group gave; None while it deals anew."""
        self._shares = 0
        """How often shares have changed."""
        self._applied = 0
        self._dealt = asyncio.Event()
        self._broken: Exception | None = None
        """What went wrong while shares were handed over."""

    async def __aenter__(self) -> Self:
        await self._reader.open()
        self._consumer = AIOKafkaConsumer(
            **self._kept_by.client_options(),
            client_id=self._client_id,
            group_id=self._members,
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=max(100, self._session_timeout_ms // 6),
            rebalance_timeout_ms=int(_HANDOVER_S * 1000),
        )
        self._consumer.subscribe([self._reader.full_name], listener=_Listener(self))
        try:
            async with asyncio.timeout(_START_S):
                await self._consumer.start()
        except BaseException as error:
            await self._close()
            if isinstance(error, GroupAuthorizationFailedError):
                raise no_right_to(self._members) from error
            if isinstance(error, KafkaError | OSError | TimeoutError):
                raise Unavailable(f"group {self._members} cannot be joined: {error!r}") from error
            raise
        self._staying = asyncio.create_task(self._stay(), name=f"member of {self._members}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.wait({self._staying})
        if self._consumer is not None:
            # Leaving says so to the group, which then need not wait for the session to end.
            await stop_consumer(self._consumer)
        await self._reader.close()

    async def commit(self, positions: Mapping[int, Position] | None = None) -> None:
        """As `Subscriber.commit`; partitions that are not this member's now are left out."""
        wanted = self._delivered if positions is None else positions
        held = {tp.partition for tp in self._member.assignment()}
        mine = {partition: at for partition, at in wanted.items() if partition in held}
        if mine:
            await self._commit(self._member, mine)

    @property
    def _member(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BadInput("a shared subscriber is used inside its own 'async with'")
        return self._consumer

    async def _stay(self) -> None:
        """Shows the group that this member lives, and fails as its consumer does."""
        while True:
            try:
                async with asyncio.timeout(_POLL_BOUND_S):
                    await self._member.getmany(timeout_ms=int(_POLL_S * 1000))
            except TimeoutError:
                continue
            except KafkaError as error:
                if not error.retriable:
                    raise BadSettings(
                        f"group {self._members} cannot be used: {error!r}; give this user READ on it"
                    ) from error
                log.warning("group membership failed, trying again", group=self._members, error=repr(error))
                await asyncio.sleep(_POLL_S)

    # --- What the group says ----------------------------------------------------------------------------------

    async def _revoked(self) -> None:
        self._share = None
        # What was read and not delivered is read again by whoever has it next.
        self._buffer.clear()
        try:
            await self.handover.revoked()
        except Exception as error:
            # The client would only log it.
            self._broken = error
            self._dealt.set()
            raise

    def _assigned(self, assigned: list[TopicPartition]) -> None:
        for tp in assigned:
            # Without a position the client would look for one of its own.
            self._member.seek(tp, 0)
        if assigned:
            self._member.pause(*assigned)
        self._share = frozenset(tp.partition for tp in assigned)
        self._shares += 1
        self._dealt.set()

    # --- Reading ----------------------------------------------------------------------------------------------

    async def _settle(self) -> int:
        """Waits until this member has partitions, and reads those that it was dealt; the number of the deal."""
        while True:
            share, number = self._share, self._shares
            if share and number == self._applied:
                return number
            if share is None or number == self._applied:
                await self._until_dealt()
                continue
            saved = await self._committed(self._kept_by, self._members, share) if share else {}
            if number != self._shares or self._share is None:
                continue
            starts, anew = {}, set()
            for partition in share:
                kept = saved.get(partition) or self._otherwise.get(partition, START)
                mine = self._delivered.get(partition)
                if mine is None or mine.dn < kept.dn:
                    anew.add(partition)
                starts[partition] = kept if mine is None or mine.dn < kept.dn else mine
            if starts:
                await self._begin(starts)
            else:
                self._numbers, self._delivered = {}, {}
            self._applied = number
            self.handover.assigned(starts, frozenset(anew))
            log.info("partitions dealt", group=self._members, partitions=sorted(share))

    async def _until_dealt(self) -> None:
        self._dealt.clear()
        dealing = asyncio.create_task(self._dealt.wait())
        try:
            await asyncio.wait({dealing, self._membership()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dealing.cancel()
        self._membership()

    def _membership(self) -> asyncio.Task[None]:
        """The task that keeps the membership; raises what has ended it."""
        if self._broken is not None:
            raise self._broken
        if self._staying is None or self._staying.cancelled():
            raise BadInput("a shared subscriber is read inside its own 'async with'")
        if self._staying.done():
            self._staying.result()
        return self._staying

    async def _fill(self) -> bool:
        clock = asyncio.get_running_loop().time
        while not self._buffer:
            number = await self._settle()
            self._membership()
            messages = await self._reader.read(_BATCH, _POLL_S)
            if number != self._shares or self._share is None:
                continue
            for message in messages:
                self._judge(message, clock())
            self._check(clock(), self._patience_s)
        return True
