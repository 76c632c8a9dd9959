"""The whole governor in one process: the same shards, with the log and the store in memory.

For trying things out, for tests of an ad server, and for one that needs no server. The SDKs work on it as they work
on Kafka: it is given in place of Kafka's address. Everything is forgotten with the process, and kept until then.

    async with Embedded() as governor:
        await governor.command(upsert)
        decision = await governor.decide(request)
        await governor.shown(decision)
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from adgovernor import subscribe
from adgovernor.audit.history import MemoryHistory
from adgovernor.audit.report import Report
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import CampaignChange, Command
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.contracts.events import Impression, SessionUpdate
from adgovernor.contracts.requests import AdRequest
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.publish import Published, Publisher
from adgovernor.publish.lanes import Headers, Ticket
from adgovernor.runtime.clock import WallClock
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.key_log import MemoryKeyLog
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.ports import Clock
from adgovernor.runtime.settings import EngineSettings
from adgovernor.stores.base import Store
from adgovernor.stores.memory import MemoryStore
from adgovernor.subscribe import RawMessage

_T = TypeVar("_T")
ANSWER_S: Final = 10.0
"""How long an answer may take; in memory it takes milliseconds."""
_REMEMBERED: Final = 10_000
"""Answers kept for whoever asks again."""
_CANCEL_S: Final = 5.0


class Embedded:
    """All shards of one deployment. For one event loop.

    A shard that ends by an error ends the deployment: the next call says so, and so does leaving the context.

    Attributes:
        prefix: part of every ledger block.
        partitions: how many user shards and how many treasuries there are.
        broker: the log; ``broker.read`` shows what is on a topic.
        store: the materialised state.
        publisher: publishes events of any kind.
    """

    def __init__(
        self,
        *,
        partitions: int = 4,
        prefix: str = "embedded",
        rules: Rules | None = None,
        clock: Clock | None = None,
        store: Store | None = None,
        settings: EngineSettings | None = None,
        observer: Observer | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """``rules`` and ``settings`` are taken for their other values: the deployment's partitions and prefix are
        those given here."""
        self.prefix = prefix
        self.partitions = partitions
        self._clock: Clock = clock if clock is not None else WallClock()
        self.broker = MemoryBroker(partitions, self._clock)
        self.store: Store = store if store is not None else MemoryStore()
        self.publisher = Publisher(self)
        self._rules = Rules.from_dict(
            {**(Rules() if rules is None else rules).as_dict(), "partitions": partitions}
        )
        self._settings = settings or EngineSettings(prefix=prefix, partitions=partitions)
        if (self._settings.prefix, self._settings.partitions) != (prefix, partitions):
            raise BadInput(
                f"the engine's settings are of {self._settings.prefix} with {self._settings.partitions} partitions, "
                f"the deployment is {prefix} with {partitions}: give both the same"
            )
        self._observer = observer
        self._rng = rng
        self._engines: list[ShardEngine] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._readers: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._decisions: _Answers[Decision] = _Answers("request")
        self._changes: _Answers[CampaignChange] = _Answers("command")

    async def __aenter__(self) -> Self:
        for partition in range(self.partitions):
            for shard in (topics.treasury_shard(partition), topics.user_shard(partition)):
                self._start(shard)
        self._readers = [
            asyncio.create_task(self._listen_to_decisions(), name="embedded-decisions"),
            asyncio.create_task(self._listen_to_changes(), name="embedded-changes"),
        ]
        for task in (*self._tasks, *self._readers):
            task.add_done_callback(self._ended)
        await self.publisher.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._readers:
            task.cancel()
        for engine in self._engines:
            engine.stop()
        everything = {*self._tasks, *self._readers}
        _, late = await asyncio.wait(everything, timeout=self._settings.stop_deadline_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_S)
        await self.store.close()
        if error is None:
            self.check()

    def _start(self, shard: str) -> None:
        engine = ShardEngine(
            shard,
            lambda: machine_of(shard, self._rules),
            self.broker.shard_log(shard),
            self.store,
            self._clock,
            self._settings,
            self._observer,
            self._rng,
            MemoryKeyLog(self.broker, shard) if self._sealed(shard) else None,
        )
        self._engines.append(engine)
        self._tasks.append(asyncio.create_task(engine.run(), name=f"shard-{shard}"))

    def _sealed(self, shard: str) -> bool:
        return self._rules.sealing and not topics.is_treasury(shard)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            for answers in (self._decisions, self._changes):
                answers.fail(self._ended_because)

    def check(self) -> None:
        """Raises `RuntimeError` where a shard has ended; its cause is what ended it."""
        if self._failure is not None:
            raise self._ended_because()

    def _ended_because(self) -> RuntimeError:
        error = RuntimeError(f"the deployment has ended: {self._failure!r}")
        error.__cause__ = self._failure
        return error

    # --- Asking -----------------------------------------------------------------------------------------------

    async def command(self, command: Command) -> CampaignChange:
        """Commands a campaign or an account; what became of it. A request published afterwards meets its effect.

        Raises:
            Unavailable: when no answer came in time.
        """
        return await self._changes.after(command.command_id, self.publisher.command(command))

    async def commands(self, commands: Iterable[Command]) -> list[CampaignChange]:
        """Commands one after the other."""
        return [await self.command(command) for command in commands]

    async def decide(self, request: AdRequest) -> Decision:
        """Publishes a request and waits for its decision; of a repeated request, the first decision.

        Raises:
            Unavailable: when no answer came in time.
        """
        known = self._decisions.known(request.request_id)
        publish = self.publisher.ad_request(request)
        if known is None:
            return await self._decisions.after(request.request_id, publish)
        await publish
        return known

    async def shown(self, decision: Decision, *, time_ms: int | None = None) -> int:
        """Publishes an impression of each filled slot, at ``time_ms`` or now; how many."""
        at = self._clock.now_ms() if time_ms is None else time_ms
        return await self.publisher.shown(decision, at)

    async def tell(self, event: Impression | SessionUpdate) -> None:
        """Publishes what happened."""
        self.check()
        if isinstance(event, Impression):
            await self.publisher.impression(event)
        else:
            await self.publisher.user_event(event)

    async def settle(self, timeout_s: float = 30.0) -> None:
        """Waits until everything that was published is decided, published and in the store.

        Raises:
            Unavailable: when that takes longer than ``timeout_s``.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._settled():
                    self.check()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise Unavailable(f"shards were not at rest within {timeout_s:g} s") from None

    def _settled(self) -> bool:
        return all(
            engine.settled
            and all(
                self.broker.end(name, topics.partition_of_shard(engine.shard)) == at
                for name, at in engine.positions.items()
            )
            for engine in self._engines
        )

    async def audit(self) -> Report:
        """Proves everything that happened so far; best after `settle`."""
        return await audit(MemoryHistory(self.broker), self.prefix, self.store)

    async def _listen_to_decisions(self) -> None:
        async with subscribe.decisions(self) as decisions:
            async for decision in decisions:
                self._decisions.come(decision.decision_id, decision)

    async def _listen_to_changes(self) -> None:
        async with subscribe.campaign_changes(self) as changes:
            async for change in changes:
                self._changes.come(change.command_id, change)

    # --- The SDKs' log ----------------------------------------------------------------------------------------

    def carrier(self) -> _MemoryCarrier:
        """See `publish.WritableLog`."""
        return _MemoryCarrier(self)

    def reader(self, topic: str) -> _MemoryReader:
        """See `subscribe.ReadableLog`."""
        return _MemoryReader(self, topic)


class _Answers(Generic[_T]):
    """Who waits for which answer, and the last answers."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._waiting: dict[str, list[asyncio.Future[_T]]] = {}
        self._known: OrderedDict[str, _T] = OrderedDict()

    async def after(self, name: str, publish: Coroutine[Any, Any, object]) -> _T:
        """Publishes what is answered under a name; the answer, within `ANSWER_S`."""
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(name, [])
        waiting.append(answer)
        try:
            await publish
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise Unavailable(
                f"no answer to {self._what} {name} within {ANSWER_S:g} s; was the same id published long ago?"
            ) from None
        finally:
            waiting.remove(answer)
            if not waiting:
                self._waiting.pop(name, None)

    def known(self, name: str) -> _T | None:
        """An answer that came before."""
        return self._known.get(name)

    def come(self, name: str, value: _T) -> None:
        """An answer has come."""
        self._known[name] = value
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        for answer in self._waiting.get(name, ()):
            if not answer.done():
                answer.set_result(value)

    def fail(self, error: Callable[[], Exception]) -> None:
        """No answer will come any more."""
        for answers in self._waiting.values():
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error())


class _MemoryCarrier:
    """A publisher's way into memory; see `publish.Carrier`."""

    def __init__(self, governor: Embedded) -> None:
        self._governor = governor

    async def open(self) -> None:
        """Nothing to connect to."""

    async def partitions(self, full_name: str) -> int:
        """The deployment's."""
        return self._governor.partitions

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
        """Adds the message at once; there is always room."""
        self._governor.check()
        if topic not in topics.ALL_TOPICS:
            raise BadInput(f"there is no topic {topic}; known are {', '.join(topics.ALL_TOPICS)}")
        offset = self._governor.broker.produce(topic, partition, key, value, headers)
        ticket.waiting += 1
        # Acknowledged at the loop's next turn, as if by another process: the shards get theirs, too.
        asyncio.get_running_loop().call_soon(ticket.acknowledged, Published(topic, partition, offset))
        return True

    async def room(self, deadline_s: float) -> None:
        """There is."""

    async def drain(self, deadline_s: float) -> None:
        """Nothing is ever on its way."""

    async def close(self) -> None:
        """Nothing to let go."""


class _MemoryReader:
    """A subscriber's reader of one topic in memory; see `subscribe.Reader`."""

    def __init__(self, governor: Embedded, topic: str) -> None:
        self._governor = governor
        self.full_name = topic
        self.next: dict[int, int] = {}
        self.beginnings: dict[int, int] = {}

    async def open(self) -> list[int]:
        """The partitions."""
        return list(range(self._governor.partitions))

    async def close(self) -> None:
        """Nothing to let go."""

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """The next offset that each partition will get."""
        return {p: self._governor.broker.end(self.full_name, p) for p in partitions}

    async def read_from(self, offsets: Mapping[int, int]) -> None:
        """Sets where each partition is read from."""
        self.next, self.beginnings = dict(offsets), dict.fromkeys(offsets, 0)

    async def read(self, max_messages: int, wait_s: float) -> list[RawMessage]:
        """The next messages; none where nothing comes in time."""
        broker, topic = self._governor.broker, self.full_name
        self._governor.check()
        if all(broker.end(topic, p) <= at for p, at in self.next.items()):
            await broker.wait([(topic, p) for p in self.next], wait_s)
            self._governor.check()
        else:
            await asyncio.sleep(0)
        found: list[RawMessage] = []
        for partition, at in self.next.items():
            events = broker.read(topic, partition, at, max(1, max_messages // len(self.next)))
            for event in events:
                time_ms = broker.time_ms(topic, partition, event.offset)
                found.append(
                    RawMessage(partition, event.offset, time_ms, event.key, event.value, event.headers)
                )
            self.next[partition] = at + len(events)
        return found
