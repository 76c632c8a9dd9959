"""The publisher: typed events in, acknowledged messages on the right partition out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Command
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable
from adgovernor.contracts.events import Click, CompletedView, Impression, UserEvent
from adgovernor.contracts.requests import AdRequest
from adgovernor.contracts.routing import partition_of
from adgovernor.publish.lanes import Headers, Lanes, Published, Ticket

DEADLINE_S: Final = 30.0
"""How long one call may take: longer than the failover of a broker, shorter than anybody's patience."""
BUFFER_BYTES: Final = 32 * 1024 * 1024
MESSAGE_BYTES: Final = 1_000_000
"""Just under the broker's own default for a message."""
SLICE: Final = 500
"""How many messages of a bulk call share one acknowledgement to wait for."""
_SLICES_UNDER_WAY: Final = 64


class Carrier(Protocol):
    """The way of a publisher's messages; `Lanes` documents each method."""

    async def open(self) -> None: ...

    async def partitions(self, full_name: str) -> int: ...

    def put_nowait(
        self,
        topic: str,
        full_name: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        ticket: Ticket,
    ) -> bool: ...

    async def room(self, deadline_s: float) -> None: ...

    async def drain(self, deadline_s: float) -> None: ...

    async def close(self) -> None: ...


class WritableLog(Protocol):
    """A log other than Kafka's, such as one in this process's memory."""

    def carrier(self) -> Carrier:
        """The way of one publisher's messages."""
        ...


class Publisher:
    """Publishes events to a deployment's input topics.

    Each call returns when Kafka has acknowledged the message on every in-sync replica. Calls made at the same
    time share batches, so call it from as many tasks as there are requests::

        async with Publisher("localhost:9092", prefix="prod") as publisher:
            await publisher.ad_request(AdRequest(request_id="r1", time_ms=now_ms, user_id="u1", candidates=ads))

    A call raises `Unavailable` where Kafka does not answer within ``deadline_s``: the message may land yet, and
    publishing it again is safe, because requests, impressions and commands are known by their ids. It raises
    `BadSettings` where the topic does not exist or may not be written.
    """

    def __init__(
        self,
        connection: KafkaConnection | str | WritableLog,
        *,
        prefix: str = "",
        partitions: int | None = None,
        deadline_s: float = DEADLINE_S,
        buffer_bytes: int = BUFFER_BYTES,
        message_bytes: int = MESSAGE_BYTES,
        compression: Literal["zstd"] | None = "zstd",
        source: str = "/adgovernor/publish",
        client_id: str = "adgovernor-publish",
    ) -> None:
        """
        Args:
            connection: where Kafka is; ``host:port`` or a `KafkaConnection`. Or another log.
            prefix: the deployment's topic prefix.
            partitions: how many partitions the deployment has; left out, what Kafka says.
            deadline_s: how long one call may take.
            buffer_bytes: what may wait in memory; beyond it calls wait.
            message_bytes: the largest message.
            compression: of batches.
            source: the CloudEvents source of the events: who publishes.
            client_id: what the brokers' logs and quotas call this client.
        """
        self.prefix = prefix
        self.deadline_s = deadline_s
        self._expected = partitions
        self._source = source
        self._counts: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._queued = 0
        """How many calls wait for a topic's look-up or for room."""
        self._lanes: Carrier
        if isinstance(connection, (str, KafkaConnection)):
            self._lanes = Lanes(
                KafkaConnection.of(connection),
                buffer_bytes=buffer_bytes,
                message_bytes=message_bytes,
                deadline_s=deadline_s,
                compression=compression,
                client_id=client_id,
            )
        else:
            self._lanes = connection.carrier()

    async def __aenter__(self) -> Self:
        try:
            await self._lanes.open()
        except BaseException:
            await self._lanes.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._lanes.drain(self.deadline_s)
        finally:
            await self._lanes.close()

    async def ad_request(self, request: AdRequest) -> Published:
        """Asks for a decision. Its id is the decision's; a request published twice is decided once."""
        return await self.event(topics.AD_REQUESTS, request)

    async def impression(self, impression: Impression) -> Published:
        """Says that a decided ad was shown."""
        return await self.event(topics.IMPRESSIONS, impression)

    async def shown(self, decision: Decision, time_ms: int) -> int:
        """Says of each filled slot that it was shown at ``time_ms``; how many."""
        return await self.impressions(
            Impression(
                decision_id=decision.decision_id,
                slot=slot.slot,
                routing_id=decision.routing_id,
                time_ms=time_ms,
            )
            for slot in decision.slots
            if slot.winner is not None
        )

    async def click(self, click: Click) -> Published:
        """Says that a shown ad was clicked."""
        return await self.event(topics.IMPRESSIONS, click)

    async def completed_view(self, view: CompletedView) -> Published:
        """Says that a shown ad played to its end."""
        return await self.event(topics.IMPRESSIONS, view)

    async def user_event(self, event: UserEvent) -> Published:
        """Says what a person wants."""
        return await self.event(topics.USER_EVENTS, event)

    async def command(self, command: Command) -> Published:
        """Commands a campaign or an account. What became of it is on ``campaign-changes``, by its id."""
        return await self.event(topics.CAMPAIGNS, command)

    async def ad_requests(self, requests: Iterable[AdRequest]) -> int:
        """Publishes many ad requests; how many."""
        return await self.events(topics.AD_REQUESTS, requests)

    async def impressions(self, events: Iterable[Impression | Click | CompletedView]) -> int:
        """Publishes many impressions, clicks and views; how many."""
        return await self.events(topics.IMPRESSIONS, events)

    async def user_events(self, events: Iterable[UserEvent]) -> int:
        """Publishes many user events; how many."""
        return await self.events(topics.USER_EVENTS, events)

    async def commands(self, commands: Iterable[Command]) -> int:
        """Publishes many commands, in order for each account; how many."""
        return await self.events(topics.CAMPAIGNS, commands)

    async def event(self, topic: str, event: Any) -> Published:
        """Publishes one event of an input topic (logical name)."""
        key, value, headers = self.message(topic, event)
        return await self.raw(topic, key, value, headers)

    async def events(self, topic: str, events: Iterable[Any]) -> int:
        """Publishes many events of one input topic; how many. Order is kept for each key."""
        bulk = Bulk(self, topic)
        try:
            for event in events:
                await bulk.put(*self.message(topic, event))
            await bulk.finish()
        finally:
            bulk.abandon()
        return bulk.acknowledged

    def message(self, topic: str, event: Any, value: bytes | None = None) -> tuple[bytes, bytes, Headers]:
        """An event's key, value and CloudEvents headers. ``value``: its bytes, where they exist already."""
        contract = contract_of(topic)
        if contract.event_id is None:
            raise BadInput(
                f"topic {topic} is written by workers only; publish to ad-requests, impressions, "
                "user-events or campaigns"
            )
        try:
            event_id = contract.event_id(event)
        except AttributeError as error:
            raise BadInput(
                f"topic {topic} takes a typed {contract.title} of `adgovernor.contracts`, not "
                f"{type(event).__name__}"
            ) from error
        headers = topics.cloud_headers(topic, self._source, event_id)
        return contract.key(event).encode(), contract.encode(event) if value is None else value, headers

    async def raw(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        partition: int | None = None,
    ) -> Published:
        """Publishes bytes as they are, to the key's partition or the one given. For tools that repeat messages
        and for tests; nothing is validated."""
        ticket = Ticket()
        await self.hand_over(topic, key, value, headers or [], partition, ticket)
        await ticket.wait(self.deadline_s)
        if ticket.last is None:
            raise RuntimeError("a message was acknowledged without a place")
        return ticket.last

    async def hand_over(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
        ticket: Ticket,
    ) -> None:
        """Puts a message on its way; ``ticket`` knows when it is acknowledged. Waits only for its topic to be looked up
        and for buffer room, and whoever comes later waits behind it: messages go in the order of the calls."""

        def put() -> bool:
            place = self._place(topic, key, partition)
            return self._lanes.put_nowait(topic, self._names[topic], place, key, value, headers, ticket)

        if not self._queued and topic in self._counts and put():
            return
        until = asyncio.get_running_loop().time() + self.deadline_s
        self._queued += 1
        try:
            async with self._turn_by(until):
                if topic not in self._counts:
                    await self.partitions(topic)
                while not put():
                    await self._lanes.room(max(0.0, until - asyncio.get_running_loop().time()))
        finally:
            self._queued -= 1

    @asynccontextmanager
    async def _turn_by(self, until: float) -> AsyncIterator[None]:
        """One caller at a time, first come first. Raises `Unavailable` where its turn does not come in time."""
        try:
            async with asyncio.timeout_at(until):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(
                f"{self._queued} calls wait for Kafka, and this one's turn did not come within {self.deadline_s:g} s; "
                "the message was not published"
            ) from None
        try:
            yield
        finally:
            self._turn.release()

    def _place(self, topic: str, key: bytes | None, partition: int | None) -> int:
        count = self._counts[topic]
        if partition is None:
            return partition_of(key or b"", count)
        if not 0 <= partition < count:
            raise BadInput(f"topic {topic} has partitions 0 to {count - 1}, not {partition}")
        return partition

    async def partitions(self, topic: str) -> int:
        """How many partitions the deployment has, as ``topic`` shows.

        Raises:
            BadSettings: where topics disagree, since one person's events would then meet on no shard.
        """
        name = topics.full_name(self.prefix, topic)
        count = await self._lanes.partitions(name)
        expected = self._expected or next(iter(self._counts.values()), count)
        if count != expected:
            raise BadSettings(
                f"topic {name} has {count} partitions, the deployment has {expected}; all topics of a deployment "
                "must have the same number: make them with `adgovernor topics create`"
            )
        self._names[topic] = name
        self._counts[topic] = count
        return count


class Bulk:
    """Many messages for one topic, waited for by the slice. Memory is bounded by the publisher's buffers."""

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._topic = topic
        self._open: tuple[Ticket, int] = (Ticket(filling=True), 0)
        self._under_way: list[tuple[Ticket, int]] = []
        self.acknowledged = 0
        """How many messages, counted from the first, are acknowledged."""
        self.handed_over = 0

    async def put(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
        topic: str | None = None,
    ) -> None:
        """Hands one message over. ``topic``: another than the bulk's own."""
        ticket, count = self._open
        await self._publisher.hand_over(topic or self._topic, key, value, headers, partition, ticket)
        self._open = ticket, count + 1
        self.handed_over += 1
        if count + 1 >= SLICE:
            self._turn()
            if len(self._under_way) > _SLICES_UNDER_WAY:
                await self._settle_oldest()
            else:
                # The lanes' tasks get their turn, or the buffers fill while nothing is sent.
                await asyncio.sleep(0)

    def _turn(self) -> None:
        self._open[0].filled()
        self._under_way.append(self._open)
        self._open = Ticket(filling=True), 0

    async def _settle_oldest(self) -> None:
        ticket, count = self._under_way[0]
        await ticket.wait(self._publisher.deadline_s)
        del self._under_way[0]
        self.acknowledged += count

    def reached(self) -> int:
        """How many messages, counted from the first, are acknowledged by now, without waiting; only whole
        slices count, and the last one where nothing of it is left."""
        reached = self.acknowledged
        for ticket, count in self._under_way:
            done = ticket.done
            if not done.done() or done.cancelled() or done.exception() is not None:
                return reached
            reached += count
        ticket, count = self._open
        # Nothing is waited for but that it is filled.
        return reached + count if ticket.waiting == 1 and not ticket.done.done() else reached

    async def finish(self) -> None:
        """Waits until all are acknowledged."""
        if self._open[1]:
            self._turn()
        while self._under_way:
            await self._settle_oldest()

    def abandon(self) -> None:
        """Waits for nothing any more; what was not sent is dropped."""
        for ticket, _ in (*self._under_way, self._open):
            ticket.abandoned = True
            ticket.done.cancel()
