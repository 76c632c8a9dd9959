"""The demonstration's story: what is done to a deployment, what is seen of it, and what it must add up to.

Everything is seen through the public SDKs, as a customer would: requests and commands go in through the publisher,
decisions and events come out of subscribers. The totals of the story are counted here, from what was published and
what came back; the ledger's own are the audit's.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from adgovernor.app.demo_plan import CURRENCY, HANDLED, TINY, Plan
from adgovernor.app.demo_show import Show
from adgovernor.app.demo_workers import Workers
from adgovernor.app.stored import StoredState
from adgovernor.audit.report import Report
from adgovernor.audit.whatif import EVENT_NAMES
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Command
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import Unavailable
from adgovernor.publish import Bulk, Publisher
from adgovernor.publish.loadgen import SOURCE, Message, ad_requests, follow_ups, publish_messages
from adgovernor.runtime.chain import Walk, spine_of
from adgovernor.runtime.ports import LedgerEntry
from adgovernor.stores.base import Store
from adgovernor.stores.clock import wall_clock_ms
from adgovernor.subscribe import DeadLetter, Reader, Subscriber

_CAMPAIGN_TOPICS: Final = (
    topics.CAMPAIGN_CHANGES,
    topics.BUDGET_THRESHOLDS,
    topics.BUDGET_EXHAUSTED,
    topics.CAMPAIGN_PAUSED,
    topics.CAMPAIGN_RESUMED,
)
_POISON: Final = topics.dlq(topics.AD_REQUESTS)
_MERGE_S: Final = 0.3
"""How long a campaign event waits for those that happened before it and are on other topics: they are shown in the
ledger's order."""
_ANSWER_S: Final = 60.0
"""Longer than a shard needs to be taken over."""
_REBALANCE_S: Final = 1.0
_PATIENCE: Final = 4
"""How many times its planned length the stream may last until the story is told."""
_LOOK_S: Final = 0.5
_AFTER_END_S: Final = 5.0


class Stage(Protocol):
    """A deployment at work, and how it is reached."""

    prefix: str
    partitions: int
    publisher: Publisher
    store: Store
    workers: Workers | None
    """None: there are none to kill."""

    def subscriber(self, topic: str) -> Subscriber[Any]:
        """Reads an output topic from its first event on."""
        ...

    def reader(self, topic: str) -> Reader:
        """Reads any topic by offset."""
        ...


@dataclass(slots=True)
class _Seen:
    """What the story counts of one campaign."""

    won: int = 0
    won_micros: int = 0
    shown: int = 0
    shown_micros: int = 0


@dataclass(slots=True)
class Counted:
    """What was published and what came back."""

    requests: set[str] = field(default_factory=set)
    """Ids of the requests published, each once."""
    poison: int = 0
    decisions: set[str] = field(default_factory=set)
    delivered: int = 0
    """Decisions, each as often as it came."""
    dead_letters: int = 0
    campaigns: dict[str, _Seen] = field(default_factory=dict)

    def of(self, campaign_id: str) -> _Seen:
        """The campaign's counts."""
        return self.campaigns.setdefault(campaign_id, _Seen())

    def totals(self, report: Report) -> dict[str, Any]:
        """The ledger's totals by campaign with our own counts beside them, and every difference between the two."""
        differences = [
            f"{what}: {ours} counted, {ledger} in the ledger"
            for what, ours, ledger in (
                ("requests decided", len(self.requests), len(self.decisions)),
                ("decisions", self.delivered, report.counted.get(f"outputs on {topics.DECISIONS}", 0)),
                ("poison", self.poison, report.counted.get(f"outputs on {_POISON}", 0)),
                ("dead letters", self.dead_letters, report.counted.get(f"outputs on {_POISON}", 0)),
            )
            if ours != ledger
        ]
        campaigns: dict[str, Any] = {}
        for name, row in sorted(report.campaigns.items()):
            seen = self.of(name)
            if seen.shown_micros != row["spent_micros"]:
                differences.append(
                    f"{name} spent: {seen.shown_micros} counted, {row['spent_micros']} in the ledger"
                )
            # What was won and not shown is reserved, or expired where the story lasted longer than a reservation.
            if row["reserved_micros"] > seen.won_micros - seen.shown_micros:
                differences.append(
                    f"{name} reserved: {seen.won_micros - seen.shown_micros} counted, {row['reserved_micros']} "
                    "in the ledger"
                )
            parts = ("unleased", "in_flight", "lease", "reserved", "spent")
            if sum(row[f"{part}_micros"] for part in parts) != row["topped_up_micros"]:
                differences.append(f"{name}: the parts do not add up to {row['topped_up_micros']}")
            campaigns[name] = {**row, "decisions": seen.won, "impressions": seen.shown}
        if not campaigns:
            differences.append("the ledger knows no campaign")
        return {
            "campaigns": campaigns,
            "currency": CURRENCY,
            "requests": len(self.requests),
            "decisions": len(self.decisions),
            "dead_letters": self.dead_letters,
            "agree": not differences,
            "differences": differences,
        }


class Story:
    """Told once."""

    def __init__(self, stage: Stage, plan: Plan, show: Show, *, kill: bool = True) -> None:
        self._stage = stage
        self._plan = plan
        self._show = show
        self._kill = kill
        self.counted = Counted()
        self._told = False
        self._streamed = False
        self._traffic = plan.traffic(0)
        self._later: list[tuple[int, int, Message]] = []
        self._order = itertools.count()
        self._unshown: dict[str, tuple[str, int]] = {}
        """Impressions that were not published yet: event id → campaign, price."""
        self._no_more_decisions = False
        self._held: list[tuple[float, str, int, int, str, dict[str, Any]]] = []
        self._happened: set[tuple[str, ...]] = set()
        self._owners: dict[str, int] = {}
        """Shard → process id of the worker that wrote its last block."""
        self._owners_told: dict[str, int] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def tell(self) -> None:
        """Tells the story; afterwards everything that was published is in the ledger and in the store.

        Raises:
            WorkerFailed, Unavailable, Gap: when something went wrong.
        """
        stage = self._stage
        failure: BaseException | None = None
        background: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                background += [
                    group.create_task(self._listen(topic), name=f"listen {topic}")
                    for topic in (topics.DECISIONS, _POISON, *_CAMPAIGN_TOPICS)
                ]
                background.append(group.create_task(self._look_at_budgets(), name="budgets"))
                if stage.workers is not None:
                    background.append(group.create_task(stage.workers.watch(), name="workers"))
                    background += [
                        group.create_task(self._look_at_owners(ledger), name=f"owners {ledger}")
                        for ledger in topics.LEDGERS
                    ]
                await self._begin()
                following = group.create_task(self._follow_up(), name="follow-ups")
                acts = group.create_task(self._act(), name="acts")
                await self._stream()
                await acts
                await self._drain(following)
                for task in background:
                    task.cancel()
        except BaseExceptionGroup as errors:
            failure = _first(errors)
        if failure is not None:
            # Raised out here it keeps its own cause, and not the whole group as its context.
            raise failure

    # --- What is done -----------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Applies the campaigns and waits until every shard knows them."""
        commands = self._plan.commands(wall_clock_ms())
        await asyncio.gather(*(self._command(command) for command in commands))
        state = StoredState(self._stage.store, self._stage.partitions)

        async def known_everywhere() -> bool:
            found = await state.campaigns()
            return all(len(known.shares) == self._stage.partitions for known in found)

        await _polled(known_everywhere, 0.05, "every shard to know the campaigns")

    async def _command(self, command: Command) -> None:
        await self._stage.publisher.command(command)
        await self._until(
            lambda: (topics.CAMPAIGN_CHANGES, command.command_id) in self._happened,
            f"an answer to command {command.command_id}",
        )

    async def _stream(self) -> None:
        """Publishes ad requests in real time."""
        rate = self._plan.rate
        self._traffic = self._plan.traffic(wall_clock_ms())
        await publish_messages(self._stage.publisher, self._messages(), per_s=rate)
        self._streamed = True
        self._notice()

    def _messages(self) -> Iterator[Message]:
        plan, number = self._plan, 0
        for message in ad_requests(self._traffic, plan.offers()):
            if message.kind == "late" and number < plan.requests // 4:
                # Nothing is late for a shard that has seen no other event yet.
                continue
            if number >= plan.requests and (plan.exact or self._told or number >= _PATIENCE * plan.requests):
                return
            number += 1
            if message.kind == "poison":
                self.counted.poison += 1
            else:
                self.counted.requests.add(message.event_id)
            yield message

    async def _act(self) -> None:
        """What people do meanwhile, one thing after the other."""
        if await self._comes(topics.CAMPAIGN_PAUSED, TINY, "1"):
            await asyncio.sleep(1.5)
            self._show.note(f"somebody tops {TINY} up")
            await self._command(self._plan.top_up(wall_clock_ms()))
            await self._until(
                lambda: (topics.CAMPAIGN_RESUMED, TINY, "2") in self._happened, f"{TINY} to resume"
            )
        else:
            self._show.note(f"the stream ended before {TINY} was exhausted; it needs more requests")
        await asyncio.sleep(1.0)
        self._show.note(f"somebody pauses {HANDLED} by hand")
        await self._command(self._plan.by_hand("pause", wall_clock_ms()))
        await asyncio.sleep(2.0)
        self._show.note(f"somebody resumes {HANDLED}")
        await self._command(self._plan.by_hand("resume", wall_clock_ms()))
        if self._kill and self._stage.workers is not None:
            await asyncio.sleep(1.0)
            await self._kill_one(self._stage.workers)
        self._told = True

    async def _comes(self, *what: str) -> bool:
        """Whether something happens as long as there is a stream, and shortly after."""
        longest_s = _PATIENCE * self._plan.requests / self._plan.rate + _ANSWER_S
        await self._until(
            lambda: what in self._happened or self._streamed, "the end of the stream", longest_s
        )
        try:
            await self._until(lambda: what in self._happened, " ".join(what), _AFTER_END_S)
        except Unavailable:
            return False
        return True

    async def _kill_one(self, workers: Workers) -> None:
        number = workers.alive[-1]
        pid = workers.pid(number)
        lost = sorted(shard for shard, owner in self._owners.items() if owner == pid)
        self._show.note(f"worker {number} (process {pid}) is killed with SIGKILL; it owned {', '.join(lost)}")
        began = time.monotonic()
        await workers.kill(number)
        await self._until(lambda: pid not in self._owners.values(), "another worker to take over")
        took = time.monotonic() - began
        self._owners_told = dict(self._owners)
        heirs = sorted({workers.number_of(self._owners[shard]) or 0 for shard in lost})
        told = ", ".join(f"worker {heir}" for heir in heirs)
        self._show.note(
            f"{told} has taken over {', '.join(lost)} {took:.1f} s later, from the ledger and Redis"
        )

    # --- What follows decisions -------------------------------------------------------------------------------

    async def _follow_up(self) -> None:
        """Publishes impressions, clicks and views when their time has come."""
        bulk = Bulk(self._stage.publisher, topics.IMPRESSIONS)
        try:
            while not (self._no_more_decisions and not self._later):
                now_ms = wall_clock_ms()
                while self._later and self._later[0][0] <= now_ms:
                    message = heapq.heappop(self._later)[2]
                    headers = topics.cloud_headers(message.topic, SOURCE, message.event_id)
                    await bulk.put(message.key, message.value, headers)
                    won = self._unshown.pop(message.event_id, None)
                    if won is not None:
                        seen = self.counted.of(won[0])
                        seen.shown += 1
                        seen.shown_micros += won[1]
                await asyncio.sleep(0.05)
            await bulk.finish()
        finally:
            bulk.abandon()

    def _decided(self, decision: Decision) -> None:
        self.counted.decisions.add(decision.decision_id)
        self.counted.delivered += 1
        for slot in decision.slots:
            if slot.winner is not None:
                seen = self.counted.of(slot.winner.campaign_id)
                seen.won += 1
                seen.won_micros += slot.winner.price_micros
        winners = {slot.slot: slot.winner for slot in decision.slots if slot.winner is not None}
        for message in follow_ups(self._traffic, decision):
            heapq.heappush(self._later, (message.time_ms, next(self._order), message))
            if message.kind == "impression":
                winner = winners[int(message.event_id.split("/")[-2])]
                self._unshown[message.event_id] = winner.campaign_id, winner.price_micros

    async def _drain(self, following: asyncio.Task[None]) -> None:
        """Waits until every request is decided, every ad shown and every input in the store."""
        await self._until(
            lambda: self.counted.requests <= self.counted.decisions, "a decision for every request"
        )
        # What people would do only when the story is over (to see an ad to its end) is left out.
        self._later = [entry for entry in self._later if entry[2].kind in ("impression", "repeated")]
        heapq.heapify(self._later)
        self._no_more_decisions = True
        await following
        await self._handled()
        await self._until(
            lambda: self.counted.dead_letters >= self.counted.poison and not self._held,
            "a dead letter for every poisoned message",
        )

    async def _handled(self) -> None:
        """Waits until the store says that every input of every shard is handled."""
        stage = self._stage
        readers = {name: stage.reader(name) for name in {*topics.USER_INPUTS, *topics.TREASURY_INPUTS}}
        shards = [
            make(p) for p in range(stage.partitions) for make in (topics.user_shard, topics.treasury_shard)
        ]
        try:
            for reader in readers.values():
                await reader.open()
            await _polled(
                lambda: self._all_handled(readers, shards), 0.2, "every shard to handle all its inputs"
            )
        finally:
            for reader in readers.values():
                await reader.close()

    async def _all_handled(self, readers: dict[str, Reader], shards: list[str]) -> bool:
        ends = {name: await reader.ends(range(self._stage.partitions)) for name, reader in readers.items()}
        for shard in shards:
            meta = await self._stage.store.read_meta(shard)
            positions = {} if meta is None else spine_of(meta).positions
            at = topics.partition_of_shard(shard)
            if any(positions.get(name, 0) < ends[name][at] for name in topics.input_topics(shard)):
                return False
        return True

    # --- What is seen -----------------------------------------------------------------------------------------

    async def _listen(self, topic: str) -> None:
        async with self._stage.subscriber(topic) as events:
            async for event in events:
                if topic == topics.DECISIONS:
                    self._show.event(EVENT_NAMES[topic], event.model_dump(mode="json", exclude_none=True))
                    self._decided(event)
                    self._notice()
                elif isinstance(event, DeadLetter):
                    self.counted.dead_letters += 1
                    self._show.event("dead-letter", _letter(event))
                    self._notice()
                else:
                    self._hold(topic, event.model_dump(mode="json", exclude_none=True))

    def _hold(self, topic: str, body: dict[str, Any]) -> None:
        place = body["shard"], body["height"], body["index"]
        self._held.append((time.monotonic(), *place, topic, body))
        asyncio.get_running_loop().call_later(_MERGE_S, self._let_go)

    def _let_go(self) -> None:
        """Shows the campaign events that have waited long enough, and all that happened before them."""
        ripe = time.monotonic() - _MERGE_S
        upto: dict[str, tuple[int, int]] = {}
        for came, shard, height, index, _, _ in self._held:
            if came <= ripe:
                upto[shard] = max(upto.get(shard, (0, 0)), (height, index))
        ready = [entry for entry in self._held if (entry[2], entry[3]) <= upto.get(entry[1], (-1, -1))]
        self._held = [entry for entry in self._held if entry not in ready]
        for _, _, _, _, topic, body in sorted(ready, key=lambda entry: entry[1:5]):
            self._show.event(topic, body)
            if topic == topics.CAMPAIGN_CHANGES:
                self._happened.add((topic, body["command_id"]))
            else:
                self._happened.add((topic, body["campaign_id"], str(body["episode"])))
        self._notice()

    async def _look_at_budgets(self) -> None:
        state = StoredState(self._stage.store, self._stage.partitions)
        while True:
            self._show.budgets([known.row() for known in await state.campaigns()])
            await asyncio.sleep(_LOOK_S)

    async def _look_at_owners(self, ledger: str) -> None:
        """Reads a ledger as it grows: a block that counts says who owns its shard."""
        stage, workers = self._stage, self._stage.workers
        assert workers is not None
        shard_of = topics.user_shard if ledger == topics.LEDGER else topics.treasury_shard
        reader = stage.reader(ledger)
        try:
            partitions = await reader.open()
            walks = {p: Walk(stage.prefix, shard_of(p)) for p in partitions}
            await reader.read_from(dict.fromkeys(partitions, 0))
            while True:
                for message in await reader.read(1_000, 0.5):
                    entry = LedgerEntry(message.offset, message.time_ms, message.value or b"")
                    block = walks[message.partition].step(entry)
                    if block is not None:
                        self._owns(block.header.shard, int(block.header.owner.split("/")[-2]))
        finally:
            await reader.close()

    def _owns(self, shard: str, pid: int) -> None:
        if self._owners.get(shard) == pid:
            return
        self._owners[shard] = pid
        # A rebalance moves several shards; it is told once they have all arrived.
        asyncio.get_running_loop().call_later(_REBALANCE_S, self._tell_owners)
        self._notice()

    def _tell_owners(self) -> None:
        workers = self._stage.workers
        assert workers is not None
        owners = set(self._owners.values())
        alive = {workers.pid(number): number for number in workers.alive}
        if self._owners == self._owners_told or not owners <= alive.keys():
            return
        if len(self._owners) == 2 * self._stage.partitions:
            self._owners_told = dict(self._owners)
            for pid, number in alive.items():
                own = sorted(name for name, owner in self._owners.items() if owner == pid)
                self._show.note(f"worker {number} (process {pid}) owns {', '.join(own) or 'nothing'}")

    # --- Waiting ----------------------------------------------------------------------------------------------

    def _notice(self) -> None:
        """Something was seen: whoever waits for it goes on."""
        for met, future in self._waiting:
            if not future.done() and met():
                future.set_result(None)

    async def _until(self, met: Callable[[], bool], what: str, timeout_s: float = _ANSWER_S) -> None:
        if met():
            return
        entry = met, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await entry[1]
        except TimeoutError:
            raise Unavailable(f"waited {timeout_s:g} s in vain for {what}") from None
        finally:
            self._waiting.remove(entry)


async def _polled(met: Callable[[], Awaitable[bool]], every_s: float, what: str) -> None:
    """Asks the store until it says so; it tells nobody by itself."""
    until = time.monotonic() + _ANSWER_S
    while not await met():
        if time.monotonic() > until:
            raise Unavailable(f"waited {_ANSWER_S:g} s in vain for {what}")
        await asyncio.sleep(every_s)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that made the others' tasks end."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "message": letter.message,
        "shard": letter.shard,
        "height": letter.height,
        "index": letter.index,
    }
