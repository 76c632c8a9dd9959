"""A worker: a member of the consumer group that runs the engines of the shards it is given.

A rebalance hands shards over cleanly: engines finish what is in flight and rest while the group decides, with their
state still in memory; those that stay go on, the others stop. A halted shard says why and the others go on. Any
other end of a task is a bug or a lost server and ends the worker, so that whoever supervises it sees it.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Halted
from adgovernor.core.machine import Machine
from adgovernor.runtime.clock import WallClock
from adgovernor.runtime.collector import Collector
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.kafka_inputs import KafkaInputs, shards_of
from adgovernor.runtime.kafka_keys import KafkaKeyLog, key_producers
from adgovernor.runtime.kafka_log import KafkaLogOptions, KafkaShardLog, producers_of
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.ports import Clock
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.topics_admin import partition_count
from adgovernor.stores.base import Store

_log = structlog.get_logger(__name__)

_COMMIT_EVERY_S: Final = 5.0
_STALL_S: Final = 60.0
"""A shard that does nothing for so long is stuck; every wait of an engine is far shorter."""
_SILENT_S: Final = 10.0
"""How long Kafka may answer no read, or acknowledge no block, before a worker says so."""
_CANCEL_S: Final = 5.0
_HOLD_S: Final = 5.0
"""What the group waits for engines to rest at a rebalance. The chain keeps later ones harmless."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker joins its deployment."""

    prefix: str
    group: str = ""
    """The consumer group; left out: one named after the prefix."""
    session_timeout_ms: int = 10_000
    """How soon the group notices that a worker is gone. Below 6 s the broker must be told to allow it."""
    log: KafkaLogOptions | None = None
    sealing: bool = False
    """Whether user shards' ledgers are sealed; as the rules say."""
    readers: int = 4
    """Connections that read ledgers at takeovers."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker says of itself."""

    alive: bool
    """Every shard makes progress: restarting would not help where this is true."""
    ready: bool
    """The group has decided, every shard owned here is in memory or halted, and Kafka answers."""
    shards: dict[str, str] = field(default_factory=dict)
    """Each shard owned here: ``running``, ``taking over``, or why it halted."""
    detail: str = ""


@dataclass(slots=True)
class _Running:
    engine: ShardEngine
    log: KafkaShardLog
    keys: KafkaKeyLog | None
    task: asyncio.Task[None]
    progress: int = -1
    moved_s: float = field(default_factory=time.monotonic)

    async def close(self) -> None:
        """Lets its connections go."""
        await self.log.close()
        if self.keys is not None:
            await self.keys.close()


class Worker:
    """Runs the shards that the group gives to this process. One for a process."""

    def __init__(
        self,
        connection: KafkaConnection,
        store: Store,
        machine_factory: Callable[[str], Machine],
        settings: WorkerSettings,
        engine_settings: EngineSettings,
        *,
        observer: Observer | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._connection = connection
        self._store = store
        self._machine_factory = machine_factory
        self._settings = settings
        self._engine_settings = engine_settings
        self._observer: Observer = observer if observer is not None else Observer()
        self._clock: Clock = clock if clock is not None else WallClock()
        self._rng = rng
        self._running: dict[str, _Running] = {}
        self._halted: dict[str, str] = {}
        self._assigned = False
        self._changed = asyncio.Event()
        self._stopping = False
        self._readers: KafkaReaders | None = None
        self._inputs: KafkaInputs | None = None
        self._collector: Collector | None = None
        self._log_options = settings.log or KafkaLogOptions(settings.prefix)
        self._producers = producers_of(connection, self._log_options, "adgovernor")
        self._key_producers = key_producers(connection, "adgovernor")

    # --- Asking -----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Asks `run` to end gracefully."""
        self._stopping = True
        self._changed.set()

    def health(self) -> Health:
        """Liveness is progress; readiness is that all owned shards are in memory and Kafka answers."""
        now = time.monotonic()
        stuck = []
        shards = dict(self._halted)
        for shard, running in self._running.items():
            if running.engine.progress != running.progress:
                running.progress, running.moved_s = running.engine.progress, now
            elif now - running.moved_s > _STALL_S:
                stuck.append(shard)
            shards[shard] = "running" if running.engine.ready else "taking over"
        refused = [
            shard for shard, running in self._running.items() if running.engine.unacknowledged_s > _SILENT_S
        ]
        waiting = [shard for shard, running in self._running.items() if not running.engine.ready]
        silent_s = 0.0 if self._inputs is None else self._inputs.silent_s
        detail = ""
        if stuck:
            detail = f"no progress for {_STALL_S:.0f} s: {', '.join(sorted(stuck))}"
        elif not self._assigned:
            detail = "the group has not decided yet"
        elif refused:
            detail = (
                f"Kafka acknowledges nothing: {', '.join(sorted(refused))}; brokers may be away, or behind"
            )
        elif waiting:
            detail = f"taking over: {', '.join(sorted(waiting))}"
        elif silent_s > _SILENT_S:
            detail = f"Kafka has not answered for {silent_s:.0f} s"
        ready = self._assigned and not detail
        if ready and self._halted:
            # A person is wanted, not another worker: the alert on `adgovernor_shard_halted` calls one.
            detail = f"halted: {', '.join(sorted(self._halted))}"
        # Restarting does not help against a Kafka that is away, so it is no matter of life.
        return Health(not stuck, ready, shards, detail)

    # --- Running ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until `stop`.

        Raises:
            BadSettings: when topics are missing or disagree, or may not be used; says what to do.
            Unavailable: when Kafka or the store cannot be reached at the start.
        """
        settings = self._settings
        partitions = await partition_count(self._connection, settings.prefix)
        await self._store.ping()
        self._engine_settings = replace(
            self._engine_settings,
            prefix=settings.prefix,
            partitions=partitions,
            owner=f"{socket.gethostname()}/{os.getpid()}/{self._clock.now_ms()}",
        )
        self._readers = KafkaReaders(self._connection, settings.readers)
        inputs = self._inputs = KafkaInputs(
            self._connection,
            settings.prefix,
            settings.group or topics.full_name(settings.prefix, "adgovernor"),
            on_revoked=self._rest,
            on_assigned=self._decided,
            buffer_events=2 * self._engine_settings.max_events,
            session_timeout_ms=settings.session_timeout_ms,
        )
        background: list[asyncio.Task[None]] = []
        self._collector = Collector()
        try:
            await inputs.start()
            background = [
                asyncio.create_task(inputs.run(), name="inputs"),
                asyncio.create_task(self._commit_positions(), name="group-offsets"),
            ]
            await self._supervise(background)
        finally:
            await self._shut_down(background)

    async def _supervise(self, background: list[asyncio.Task[None]]) -> None:
        """Keeps the running engines equal to what the group decided, until a stop or a failure."""
        while not self._stopping:
            self._changed.clear()
            await self._reconcile()
            changed = asyncio.create_task(self._changed.wait(), name="changed")
            watched = {running.task: shard for shard, running in self._running.items()}
            try:
                await asyncio.wait({changed, *background, *watched}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            for task in background:
                if task.done():
                    task.result()
                    raise AssertionError(f"{task.get_name()} ended without an error")
            for task, shard in watched.items():
                if task.done() and shard in self._running:
                    await self._ended(shard, task)

    async def _ended(self, shard: str, task: asyncio.Task[None]) -> None:
        running = self._running.pop(shard)
        await running.close()
        try:
            task.result()
        except Halted as halted:
            self._halted[shard] = str(halted)

    async def _reconcile(self) -> None:
        """Stops engines of shards that went elsewhere, starts those of new ones."""
        if not self._assigned:
            return
        assert self._inputs is not None
        wanted = shards_of(self._inputs.owned)
        gone = [shard for shard in self._running if shard not in wanted]
        await self._stop_engines(gone, self._engine_settings.stop_deadline_s)
        if gone and self._collector is not None:
            self._collector.sweep()  # The engines rest while the group decides, so nobody waits for it.
        for shard in [shard for shard in self._halted if shard not in wanted]:
            del self._halted[shard]
            self._observer.halt_left(shard)
        for running in self._running.values():
            running.engine.release()
        for shard in sorted(wanted - self._running.keys() - self._halted.keys()):
            self._start_engine(shard)

    def _start_engine(self, shard: str) -> None:
        assert self._readers is not None
        log = KafkaShardLog(
            shard, self._connection, self._log_options, self._inputs, self._readers, self._producers
        )
        keys = None
        if self._settings.sealing and not topics.is_treasury(shard):
            keys = KafkaKeyLog(shard, self._settings.prefix, self._readers, self._key_producers)
        engine = ShardEngine(
            shard,
            lambda: self._machine_factory(shard),
            log,
            self._store,
            self._clock,
            self._engine_settings,
            self._observer,
            self._rng,
            keys,
        )
        self._running[shard] = _Running(
            engine, log, keys, asyncio.create_task(engine.run(), name=f"shard-{shard}")
        )

    async def _stop_engines(self, shards: list[str], deadline_s: float) -> None:
        """Stops engines within one deadline that all share; those that take longer are cut off, which is safe."""
        leaving = {shard: self._running[shard] for shard in shards}
        if not leaving:
            return
        for running in leaving.values():
            running.engine.stop()
        tasks = {running.task for running in leaving.values()}
        _, late = await asyncio.wait(tasks, timeout=deadline_s)
        for task in late:
            _log.warning("a shard did not finish in time and is cut off", shard=task.get_name())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_S)
        errors = []
        for shard, running in leaving.items():
            if running.task.done() and not running.task.cancelled():
                try:
                    await self._ended(shard, running.task)
                except Exception as error:  # noqa: BLE001 - raised below, once every shard has been let go
                    errors.append(error)
            else:
                del self._running[shard]
                await running.close()
        if errors:
            raise errors[0]

    # --- The group --------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Before the group decides anew: engines finish what is in flight and rest."""
        self._assigned = False
        for running in self._running.values():
            running.engine.hold()
        until = time.monotonic() + _HOLD_S
        while time.monotonic() < until:
            if all(running.engine.quiet or running.task.done() for running in self._running.values()):
                return
            await asyncio.sleep(0.02)

    def _decided(self) -> None:
        self._assigned = True
        self._changed.set()

    async def _commit_positions(self) -> None:
        assert self._inputs is not None
        while True:
            await asyncio.sleep(_COMMIT_EVERY_S)
            await self._inputs.commit(_positions(self._running))
            if self._collector is not None:
                self._collector.look()

    async def _shut_down(self, background: list[asyncio.Task[None]]) -> None:
        leaving = dict(self._running)
        for task in background:
            if task.get_name() != "inputs":
                task.cancel()
        try:
            await self._stop_engines(list(self._running), self._engine_settings.stop_deadline_s)
        finally:
            for task in background:
                task.cancel()
            if background:
                await asyncio.wait(background, timeout=_CANCEL_S)
            if self._inputs is not None:
                await self._inputs.commit(_positions(leaving))
                await self._inputs.stop()
            if self._readers is not None:
                await self._readers.close()
            if self._collector is not None:
                self._collector.close()


def _positions(engines: Mapping[str, _Running]) -> dict[tuple[str, int], int]:
    """The next offset to handle of each input of these shards, so far as it is known."""
    return {
        (topic, topics.partition_of_shard(shard)): at
        for shard, running in engines.items()
        for topic, at in running.engine.positions.items()
    }
