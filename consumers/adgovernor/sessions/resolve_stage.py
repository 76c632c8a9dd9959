"""The ``resolve`` stage: decisions whose winners are tags become playable ads, on the topic ``ads``.

    decisions → resolve each tag within its session → publish → position

A position is kept only once the ads of every decision before it are acknowledged, so a stage that dies does the last
ones again: an event of ``ads`` may be there twice, and readers ignore what they have seen, by decision id and slot
(`subscribe.AdReader` does). A tag that comes to nothing is an event, too, with its errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import structlog

from adgovernor.contracts import topics
from adgovernor.contracts.ads import Ad, AdError
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.decisions import Decision, Winner
from adgovernor.contracts.errors import AdGovernorError, BadInput, BadSettings, Unavailable
from adgovernor.publish import Publisher
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.cookies import CookieJars
from adgovernor.sessions.fetch import Fetcher, FetchLimits
from adgovernor.sessions.governor import SessionChange, change_id
from adgovernor.sessions.playable import ad_errors, playable_ads
from adgovernor.sessions.request_macros import RequestMacros, transaction_of
from adgovernor.sessions.resolver import ChainLimits, ChainResolver, Resolution
from adgovernor.sessions.retry import RetryPolicy, is_retryable
from adgovernor.sessions.stream_governor import session_update
from adgovernor.sessions.tracking import TrackingSender
from adgovernor.sessions.transport import Transport
from adgovernor.stores.clock import wall_clock_ms
from adgovernor.subscribe import Position
from adgovernor.video import VastError

_log = structlog.get_logger("adgovernor.resolve")
_SOURCE: Final = "/adgovernor/resolve"
Outcome = Literal["ad", "no_ad", "stale"]
Retried = Literal["fetch", "publish", "commit", "state"]


class Decisions(Protocol):
    """Where decisions come from: a `subscribe.Subscriber`, or with several stages a `subscribe.SharedSubscriber`."""

    def positions(self) -> dict[int, Position]:
        """Where each partition is, after the last event that was delivered."""
        ...

    def __aiter__(self) -> AsyncIterator[Decision]: ...


class ResolveObserver:
    """Hears what the stage does; here it does nothing with that."""

    def resolved(self, outcome: Outcome, seconds: float, codes: tuple[int, ...]) -> None:
        """A tag was followed, or was too old to be. ``codes``: VAST's, of the errors along its chain."""

    def pending(self, decisions: int) -> None:
        """So many decisions are being worked on."""

    def share(self, partitions: int) -> None:
        """So many partitions are this stage's now."""

    def retried(self, what: Retried) -> None:
        """Something failed and is tried again, or for ``state`` left out."""


@dataclass(frozen=True, slots=True)
class ResolveSettings:
    """Bounds of the stage."""

    concurrent: int = 64
    """Decisions worked on at once, and tags followed at once: more than the transport has connections for would spend
    their time waiting for one."""
    max_sessions: int = 10_000
    """People whose cookies are remembered."""
    commit_interval_s: float = 1.0
    publish_patience_s: float = 120.0
    """How long publishing one ad is tried before the stage ends with an error."""
    handover_s: float = 5.0
    """How long decisions under way may take once their partitions may go to another stage."""
    stop_deadline_s: float = 25.0
    """How long decisions under way may take once the stage is asked to stop."""
    grace_ms: int | None = 60_000
    """A decision so long past its deadline is answered without asking anybody: its page is gone. None: never."""
    fetch: FetchLimits = field(default_factory=FetchLimits)
    chain: ChainLimits = field(default_factory=ChainLimits)
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        if min(self.concurrent, self.max_sessions) < 1 or self.commit_interval_s <= 0:
            raise ValueError("concurrent and max_sessions are at least 1, commit_interval_s is above 0")


@dataclass(slots=True)
class _Work:
    """A decision under way, and the position from which on it is not done."""

    before: Position
    task: asyncio.Task[None] | None = None
    done: bool = False


@dataclass(slots=True)
class _Lane:
    """One partition: the position after the last decision that was read, and what is under way."""

    after: Position
    pending: deque[_Work] = field(default_factory=deque)

    def position(self) -> Position:
        """From where on a decision may be not done."""
        while self.pending and self.pending[0].done:
            self.pending.popleft()
        return self.pending[0].before if self.pending else self.after


class ResolveStage:
    """Reads ``decisions``, publishes ``ads`` through ``publisher``. Both are open, and the caller's to close.

    ``commit`` keeps positions (a subscriber's own, with a group). Where stages share the work, the stage is the
    subscriber's `handover`. What a session asked for is told to its shard, as an event.
    """

    def __init__(
        self,
        decisions: Decisions,
        publisher: Publisher,
        transport: Transport,
        *,
        commit: Callable[[Mapping[int, Position]], Awaitable[None]] | None = None,
        settings: ResolveSettings | None = None,
        observer: ResolveObserver | None = None,
        clock_ms: Callable[[], int] = wall_clock_ms,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._decisions = decisions
        self._publisher = publisher
        self._transport = transport
        self._commit = commit
        self._settings = settings or ResolveSettings()
        self._observer = observer or ResolveObserver()
        self._clock_ms = clock_ms
        self._rng = rng or random.SystemRandom()
        self._sleep = sleep
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._finished = asyncio.Event()
        self._lanes: dict[int, _Lane] = {}
        self._under_way = 0
        self._kept: Mapping[int, Position] = {}
        self._gate = asyncio.Semaphore(self._settings.concurrent)
        self._chains = asyncio.Semaphore(self._settings.concurrent)
        self._jars = CookieJars(self._settings.max_sessions)
        self._contract = contract_of(topics.ADS)

    def stop(self) -> None:
        """Ends `run`: nothing more is read, what is under way is finished."""
        self._stopping.set()

    def positions(self) -> Mapping[int, Position]:
        """From where on a decision may be not done, by partition: what to start from after a crash."""
        return {partition: lane.position() for partition, lane in self._lanes.items()}

    async def revoked(self) -> None:
        """See `subscribe.Handover`: what is done in time is done by this stage, the rest by the next one."""
        try:
            await self._until_idle(self._settings.handover_s)
        except TimeoutError:
            _log.info("decisions are left to another stage", decisions=self._under_way)
        await self._keep_once()

    def assigned(self, starts: Mapping[int, Position], anew: frozenset[int]) -> None:
        """See `subscribe.Handover`."""
        for partition in [found for found in self._lanes if found not in starts or found in anew]:
            for work in self._lanes.pop(partition).pending:
                if work.task is not None:
                    work.task.cancel()
        for partition, start in starts.items():
            self._lanes.setdefault(partition, _Lane(start))
        # A partition that nobody had is known from here on, whether or not a decision comes.
        self._kept = {}
        self._observer.pending(self._under_way)
        self._observer.share(len(self._lanes))

    async def _until_idle(self, patience_s: float) -> None:
        async with asyncio.timeout(patience_s):
            while self._under_way:
                self._idle.clear()
                await self._idle.wait()

    async def run(self) -> None:
        """Works until `stop`, or until the decisions end.

        Raises:
            Unavailable: where ads cannot be published for too long, decisions not be read, or those under way not be
                finished in time.
            Gap: where decisions are missing.
        """
        self._lanes |= {partition: _Lane(start) for partition, start in self._decisions.positions().items()}
        fetcher = Fetcher(self._transport, self._settings.fetch)
        try:
            async with (
                TrackingSender(fetcher, dict, retry=self._settings.retry, rng=self._rng) as sender,
                asyncio.TaskGroup() as group,
            ):
                reading = group.create_task(self._read(group, sender), name="resolve-read")
                group.create_task(self._keep(), name="resolve-keep")
                group.create_task(self._end(reading), name="resolve-end")
        except BaseExceptionGroup as errors:
            # Not `except*`: before 3.11.4 that makes a group of whatever is raised in it.
            ours, others = errors.split(AdGovernorError)
            if ours is None or others is not None:
                raise
            # One reason is enough: the others follow from the same server.
            raise _first(ours) from errors

    async def _read(self, group: asyncio.TaskGroup, sender: TrackingSender) -> None:
        try:
            async for decision in self._decisions:
                partition = topics.partition_of_shard(decision.shard)
                lane, after = self._lanes[partition], self._decisions.positions()[partition]
                if any(slot.winner is not None and slot.winner.tag_url for slot in decision.slots):
                    await self._gate.acquire()
                    if self._lanes.get(partition) is not lane:
                        # While it waited here, the partition became another stage's.
                        self._gate.release()
                        continue
                    work = _Work(lane.after)
                    lane.pending.append(work)
                    self._under_way += 1
                    self._observer.pending(self._under_way)
                    work.task = group.create_task(self._work(decision, work, sender))
                    # Also of a task that is cancelled before it begins.
                    work.task.add_done_callback(self._ended)
                lane.after = after
        finally:
            self._stopping.set()

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._under_way -= 1
        self._gate.release()
        self._idle.set()
        self._observer.pending(self._under_way)

    async def _end(self, reading: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        reading.cancel()
        await asyncio.wait({reading})
        try:
            await self._until_idle(self._settings.stop_deadline_s)
        except TimeoutError:
            raise Unavailable(
                f"{self._under_way} decisions were not done "
                f"{self._settings.stop_deadline_s:g} s after the stage was asked to stop; they are done again"
            ) from None
        self._finished.set()

    async def _keep(self) -> None:
        """Keeps positions from time to time, and at the end."""
        while not self._finished.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.commit_interval_s):
                    await self._finished.wait()
            await self._keep_once()

    async def _keep_once(self) -> None:
        positions = self.positions()
        if self._commit is None or not positions or positions == self._kept:
            return
        try:
            await self._commit(positions)
        except Unavailable as error:
            # What is not kept is done again after a crash, and tried again after a while.
            self._observer.retried("commit")
            _log.warning("positions not kept", reason=str(error))
            return
        self._kept = positions

    # ------------------------------------------------------------------ one decision

    async def _work(self, decision: Decision, work: _Work, sender: TrackingSender) -> None:
        slots = [(slot.slot, slot.winner) for slot in decision.slots if slot.winner is not None]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._slot(decision, number, winner, sender))
                for number, winner in slots
                if winner.tag_url
            ]
        for task in tasks:
            await self._publish(task.result())
        await self._count(decision, [task.result() for task in tasks])
        work.done = True
        # What is done and stands first is forgotten.
        self.positions()

    async def _slot(self, decision: Decision, slot: int, winner: Winner, sender: TrackingSender) -> Ad:
        assert winner.tag_url is not None
        began_s = time.monotonic()
        grace_ms = self._settings.grace_ms
        ad = Ad(
            decision_id=decision.decision_id,
            slot=slot,
            routing_id=decision.routing_id,
            time_ms=decision.time_ms,
            deadline_ms=winner.deadline_ms,
            campaign_id=winner.campaign_id,
            creative_id=winner.creative_id,
            tag_url=winner.tag_url,
            session_id=decision.routing_id,
            resolved_ms=self._clock_ms(),
        )
        if grace_ms is not None and winner.deadline_ms + grace_ms < self._clock_ms():
            late = AdError(
                code=int(VastError.UNDEFINED), message="not asked for: the decision's time is over"
            )
            self._observer.resolved("stale", 0.0, (late.code,))
            return ad.model_copy(update={"errors": (late,)})
        async with self._chains:
            resolution = await self._resolve(decision, slot, winner.tag_url, sender)
        ads, errors = playable_ads(resolution), ad_errors(resolution)
        self._observer.resolved(
            "ad" if ads else "no_ad", time.monotonic() - began_s, tuple(error.code for error in errors)
        )
        return ad.model_copy(
            update={
                "ads": ads,
                "errors": errors,
                "requested": resolution.requested,
                "resolved_ms": self._clock_ms(),
            }
        )

    async def _resolve(
        self, decision: Decision, slot: int, tag_url: str, sender: TrackingSender
    ) -> Resolution:
        person = decision.routing_id
        context = SessionContext.create(
            session_id=person, request_id=decision.decision_id, user_id=person, rng=self._rng
        )
        macros = RequestMacros(
            context, rng=self._rng, transaction_id=transaction_of(decision.decision_id, slot)
        )
        fetcher = Fetcher(self._transport, self._settings.fetch, self._jars.of(person))
        resolver = ChainResolver(fetcher, self._settings.chain)
        for attempt in range(1, self._settings.retry.attempts + 1):
            resolution = await resolver.resolve(tag_url, macros)
            cause = resolution.cause
            if cause is None or not is_retryable(cause) or attempt == self._settings.retry.attempts:
                break
            self._observer.retried("fetch")
            await self._sleep(self._settings.retry.delay_s(attempt, self._rng))
        for index, error in enumerate(resolution.errors):
            sender.fire(
                error.uris,
                (decision.decision_id, slot, "error", index),
                code=error.code,
                message=error.message,
                macros=macros,
                fetcher=fetcher,
            )
        return resolution

    async def _publish(self, ad: Ad) -> None:
        try:
            await self._deliver(ad)
        except BadSettings:
            raise
        except BadInput as error:
            # The size is the upstream's doing: it costs this slot its ads, and nobody else anything.
            _log.warning("ads left out", decision=ad.decision_id, slot=ad.slot, reason=str(error))
            left_out = AdError(code=int(VastError.UNDEFINED), message=f"the ads were left out: {error}")
            await self._deliver(ad.model_copy(update={"ads": (), "requested": (), "errors": (left_out,)}))

    async def _deliver(self, ad: Ad) -> None:
        key, value = self._contract.key(ad).encode(), self._contract.encode(ad)
        headers = topics.cloud_headers(topics.ADS, _SOURCE, f"{ad.decision_id}/{ad.slot}")
        deadline_s = time.monotonic() + self._settings.publish_patience_s
        failures = 0
        while True:
            try:
                await self._publisher.raw(topics.ADS, key, value, headers)
            except Unavailable:
                failures += 1
                if time.monotonic() >= deadline_s:
                    raise
                self._observer.retried("publish")
                await self._sleep(self._settings.retry.delay_s(failures, self._rng))
            else:
                return

    async def _count(self, decision: Decision, ads: list[Ad]) -> None:
        """Tells the shard what the session did, once for the decision."""
        change = SessionChange(
            change_id("resolve", decision.decision_id),
            requests=sum(len(ad.requested) for ad in ads),
            pod_positions=tuple(ad.slot for ad in ads if ad.ads),
        )
        if not change.requests:
            return
        event = session_update(decision.routing_id, change, self._clock_ms())
        try:
            await self._publisher.user_event(event)
        except Unavailable as error:
            # The ads are out; a count that is missing must not hold the others back.
            self._observer.retried("state")
            _log.warning("session not told of", reason=str(error))


def _first(errors: BaseExceptionGroup[AdGovernorError]) -> AdGovernorError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
