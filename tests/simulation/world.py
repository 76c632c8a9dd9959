"""One run: workers with real engines and cores over the simulated log, store and clock, and all that befalls them.

While the faults last, workers are killed, stopped, doubled and moved; then all heals, every shard gets one owner, and
everything must come to rest within bounded virtual time. `audit` then judges what is on the log and in the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable
from typing import Any, Final

import structlog
from tests.simulation.broker import Broker, Network, SimLog
from tests.simulation.faults import (
    ClockMoved,
    Faults,
    Upgrade,
    draw_clocks,
    draw_faults,
    draw_key_losses,
    draw_losses,
    draw_upgrade,
    lean,
)
from tests.simulation.loop import Process, Stuck, VirtualLoop
from tests.simulation.minds import Minds
from tests.simulation.operators import PREFIX, RESEND_S, Operators
from tests.simulation.sealed import SimKeyLog, seal
from tests.simulation.store import SimStore, StoreServer
from tests.simulation.themes import BROAD, Theme
from tests.simulation.workers import Clock, Watch, Worker
from tests.simulation.workload import LOAD_S, Arrival, Workload, draw_workload

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.ports import RawEvent
from adgovernor.runtime.settings import EngineSettings

SETTLE_S: Final = 45.0
"""After the faults have stopped, everything is consumed, published and stored within so much virtual time."""
STOP_S: Final = 15.0
"""A graceful stop ends within so much."""
MAX_TURNS: Final = 60_000
"""More turns of the engines' loops than this in one run: something goes round without getting anywhere."""


def faults_of(seed: int, theme: Theme = BROAD) -> Faults:
    """What befalls the world of a seed."""
    faults = draw_faults(random.Random(f"faults {seed}"), LOAD_S)
    lean(random.Random(f"lean {seed}"), faults, theme, LOAD_S)
    draw_losses(random.Random(f"losses {seed}"), faults, LOAD_S, theme)
    draw_clocks(random.Random(f"clocks {seed}"), faults, LOAD_S)
    draw_upgrade(random.Random(f"upgrade {seed}"), faults, LOAD_S)
    return faults


class SimWorld:
    """The run of one seed. After `run`, `problems` says what went wrong while it ran."""

    def __init__(self, seed: int, *, sealed: bool = False, theme: Theme = BROAD) -> None:
        self.seed = seed
        self.sealed = sealed or theme.sealed
        self.rng = random.Random(f"world {seed}")
        self.loop = VirtualLoop()
        self.workload: Workload = draw_workload(
            random.Random(f"workload {seed}"), Minds(random.Random(f"minds {seed}"), theme), theme
        )
        if self.sealed:
            seal(self.workload, random.Random(f"sealed {seed}"))
        self.faults = faults_of(seed, theme)
        if self.sealed:
            draw_key_losses(random.Random(f"key losses {seed}"), self.faults, LOAD_S)
        self.partitions = self.workload.partitions
        self.broker = Broker(self.loop, self.workload.epoch_ms, self.faults)
        self.broker.on_output = self._on_output
        self.server = StoreServer(self.loop, self.faults)
        self.problems: list[str] = []
        self.workers: list[Worker] = []
        self.graves: list[Worker] = []
        self.owners: dict[int, Worker] = {}
        """Partition → the worker that ought to own its two shards."""
        self.kills = 0
        self._watches: dict[ShardEngine, Watch] = {}
        self._looked_at: list[asyncio.Task[None]] = []
        self.people = Operators(self)
        self._births = 0
        self._upgraded = False
        """Whether new workers have the settings of the run's upgrade."""
        self._last_arrival_s = 0.0
        rng = self.rng
        self.settings: dict[str, Any] = {
            "max_events": rng.choice((3, 10, 50)),
            "bite_events": 4,
            "max_bytes": rng.choice((4_000, 1_500_000)),
            "read_bytes": rng.choice((5_000, 8_000_000)),
            "append_deadline_s": 0.5,
            "resend_limit": rng.choice((0, 1, 3)),
            "publish_deadline_s": 0.8,
            "unpublished_blocks": rng.choice((1, 4)),
            "store_deadline_s": 0.5,
            "store_check_s": 2.0,
            "trail_blocks": rng.choice((1, 3, 20)),
            "dirty_limit": rng.choice((3, 50)),
            "rebuild_fields": rng.choice((2, 10, 5_000)),
            "keep_states": rng.choice((1, 3, 50)),
            "idle_wait_s": 0.5,
            "stop_deadline_s": 5.0,
            "witness_messages": 10,
            "skew_ms": 2_000,
        }
        self.settings.update({name: rng.choice(values) for name, values in theme.settings.items()})

    # --- The run ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Runs everything; what went wrong is in `problems`."""
        loop = self.loop
        logging_as_it_was = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        asyncio.set_event_loop(loop)
        try:
            try:
                loop.run_until_complete(self._live())
            except Stuck as stuck:
                self.problems.append(f"stuck: {stuck}")
            self._bury()
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            structlog.configure(**logging_as_it_was)

    async def _live(self) -> None:
        for arrival in self.workload.arrivals:
            self._expect(arrival)
        for number in range(self.rng.choice((1, 2, 2, 3))):
            self._hire(number * 0.3)
        self._spread()
        for at_s, event in self.faults.events:
            self.loop.later(at_s, self._befall, event)
        for at_s, kind in self.faults.losses:
            self.loop.later(at_s, self._lose, kind)
        for moved in self.faults.clocks:
            self.loop.later(moved.at_s, self._move_clock, moved)
        if self.faults.upgrade is not None:
            self._roll_out(self.faults.upgrade)
        self._copy_soon()
        healed_s = LOAD_S + 2.0
        await self._until(lambda: False, healed_s)
        if self.problems:
            return
        self._heal()
        if not await self._until(self._settled, healed_s + SETTLE_S):
            if not self.problems:
                self.problems.append(f"liveness: {self._unsettled()}")
            return
        # Reservations expire, debts and tombstones run out, late client events come, idle shards tick.
        quiet_s = max(self.loop.time(), self._last_arrival_s) + self.workload.rules.dedupe_ms / 1000 + 8.0
        await self._until(lambda: False, quiet_s)
        if not await self._until(self._settled, quiet_s + SETTLE_S):
            if not self.problems:
                self.problems.append(f"liveness in the end: {self._unsettled()}")
            return
        await self._dismiss()

    async def _until(self, done: Callable[[], bool], deadline_s: float) -> bool:
        """Lets the world go on, looking every half second; whether ``done`` came true."""
        while self.loop.time() < deadline_s:
            if done():
                return True
            await asyncio.sleep(min(0.5, deadline_s - self.loop.time()))
            self._look_after()
            if self.problems:
                return False
        return done()

    def _bury(self) -> None:
        """Ends every task, so that nothing is left pending."""
        self.loop.over = True
        tasks: list[asyncio.Task[None]] = []
        for process in (self.people.process, *(worker.process for worker in (*self.workers, *self.graves))):
            process.bury()
            tasks += process.tasks
        left = [task for task in tasks if not task.done()]
        for _ in range(20):
            if not left:
                return
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(left, timeout=5))
            left = [task for task in left if not task.done()]

    # --- Input from outside -----------------------------------------------------------------------------------

    def _expect(self, arrival: Arrival) -> None:
        delay_s = max(0.0, arrival.at_s - self.loop.time())
        self.loop.later(
            delay_s, self.broker.produce, arrival.topic, arrival.partition, arrival.key, arrival.value
        )
        self._last_arrival_s = max(self._last_arrival_s, arrival.at_s)

    def _on_output(self, topic: str, partition: int, event: RawEvent) -> None:
        for arrival in self.workload.react(topic, partition, event, self.loop.time()):
            self._expect(arrival)

    # --- Workers ----------------------------------------------------------------------------------------------

    def _hire(self, delay_s: float = 0.0) -> Worker:
        self._births += 1
        name = f"w{self._births}"
        worker = Worker(name, Process(name, self.loop), self.rng.randint(-300, 300), upgraded=self._upgraded)
        self.workers.append(worker)
        return worker

    def _spread(self) -> None:
        """Gives every partition an owner among the workers that are alive."""
        for partition in range(self.partitions):
            self._give(partition, self.rng.choice(self.workers))

    def _give(self, partition: int, worker: Worker) -> None:
        self.owners[partition] = worker
        for shard in (topics.user_shard(partition), topics.treasury_shard(partition)):
            self.start(worker, shard)

    def start(self, worker: Worker, shard: str) -> None:
        if shard in worker.engines or worker.process.dead or self.loop.over or shard in self.people.mending:
            return
        network = Network(self.loop, worker.process, self.faults, self._hazard)
        watch = Watch(self.loop)
        engine = ShardEngine(
            shard,
            lambda: machine_of(shard, self.rules_of(worker)),
            SimLog(self.broker, shard, network),
            SimStore(self.server, network),
            Clock(self.broker, worker),
            self.engine_settings(worker),
            watch,
            rng=random.Random(self.rng.getrandbits(64)),
            keys=SimKeyLog(self.broker, shard, network) if self.sealed and shard.startswith("u") else None,
        )
        self._watches[engine] = watch
        worker.engines[shard] = (engine, worker.process.spawn(engine.run()))

    def rules_of(self, worker: Worker | None) -> Rules:
        """What a worker is told to decide by."""
        rules, upgrade = self.workload.rules, self.faults.upgrade
        if upgrade is None or worker is None or not worker.upgraded:
            return rules
        return Rules.from_dict({**rules.as_dict(), **upgrade.rules})

    def engine_settings(self, worker: Worker | None) -> EngineSettings:
        """The settings of a worker, or of a person's maintenance."""
        changed = self.settings
        if worker is not None and worker.upgraded and self.faults.upgrade is not None:
            changed = {**changed, **self.faults.upgrade.settings}
        owner = "operator" if worker is None else worker.name
        return EngineSettings(prefix=PREFIX, partitions=self.partitions, owner=owner, **changed)

    def _hazard(self, process: Process) -> None:
        """A step of input or output: the worker may be killed or stopped here."""
        if process.stopped or self.loop.over:
            return
        if self.faults.hit("kill"):
            self._kill(next(worker for worker in self.workers if worker.process is process))
        elif self.faults.hit("stop"):
            self._suspend(next(worker for worker in self.workers if worker.process is process))

    def _kill(self, worker: Worker) -> None:
        self.kills += 1
        worker.process.kill()
        self.workers.remove(worker)
        self.graves.append(worker)
        self.loop.later(self.rng.uniform(0.2, 2.0), self._replace, worker)

    def _replace(self, gone: Worker) -> None:
        """A dead worker is started again, or its partitions go to the others."""
        heir = self.rng.choice(self.workers) if self.workers and self.rng.random() < 0.4 else self._hire()
        for partition, owner in self.owners.items():
            if owner is gone:
                self._give(partition, heir)

    def _suspend(self, worker: Worker) -> None:
        """The worker is stopped for a while. When that lasts, another takes its partitions, and it does not know."""
        worker.process.stop()
        pause_s = self.rng.uniform(0.05, 5.0)
        self.loop.later(pause_s, self._wake, worker)
        if self.rng.random() < 0.7:
            self.loop.later(pause_s * self.rng.random(), self._take_from, worker)

    def _wake(self, worker: Worker) -> None:
        worker.process.resume()
        # It hears only later that it has lost its partitions.
        self.loop.later(self.rng.uniform(0.1, 2.0), self._tell_owned, worker)

    def hang_at_work(self, shard: str) -> None:
        """Somebody starts one more owner of a shard, which hangs once it knows the ledger, and goes on when a
        person has accepted what that lost."""
        worker = self._hire()
        self.start(worker, shard)
        self._watches[worker.engines[shard][0]].hangs = worker.process
        self.loop.later(self.rng.uniform(2.0, 4.0), self._wake, worker)

    def _take_from(self, worker: Worker) -> None:
        others = [other for other in self.workers if other is not worker and not other.process.stopped]
        for partition, owner in self.owners.items():
            if owner is worker:
                self._give(partition, self.rng.choice(others) if others else self._hire())

    def _tell_owned(self, worker: Worker) -> None:
        """The worker gives up what it does not own any more."""
        if worker.process.dead or worker.process.stopped:
            return
        for shard in sorted(worker.engines):
            if self.owners[topics.partition_of_shard(shard)] is not worker:
                self._revoke(worker, shard)

    def _revoke(self, worker: Worker, shard: str) -> None:
        engine, task = worker.engines.pop(shard)
        engine.stop()
        worker.stopping.append((engine, task))
        if self.faults.on and self.rng.random() < 0.3:
            self.loop.later(self.rng.uniform(0.0, 0.3), task.cancel)

    # --- What happens to the whole ----------------------------------------------------------------------------

    def _befall(self, event: str) -> None:
        if not self.faults.on:
            return
        rng, now_s = self.rng, self.loop.time()
        if event == "store_away":
            self.server.away_until_s = now_s + rng.choice((0.2, 1.5, 4.0))
            # Every third time it is full: it can be read, and takes nothing.
            self.server.full = int(now_s * 1000) % 3 == 0
        elif event == "store_tail_loss":
            self.server.lose_tail()
        elif event == "store_wipe":
            self.server.wipe()
        elif event == "store_old_copy":
            self.server.restore_old_copy()
        elif event == "store_bucket_lost":
            self.server.lose_bucket()
        elif event == "log_away":
            self.broker.away_until_s = now_s + rng.choice((0.2, 1.0, 3.0))
        elif len(self.workers) > 0:
            partition = rng.randrange(self.partitions)
            before = self.owners[partition]
            others = [worker for worker in self.workers if worker is not before]
            after = rng.choice(others) if others else self._hire()
            self._give(partition, after)
            if not before.process.dead:
                # A clean hand-over tells the old owner at once; with two owners it takes a while.
                delay_s = 0.0 if event == "move" else rng.uniform(0.2, 4.0)
                self.loop.later(delay_s, self._tell_owned, before)

    def _roll_out(self, upgrade: Upgrade) -> None:
        """Workers are replaced one by one by such with other settings; the old ones hear of it a little later."""
        changes = [(upgrade.at_s, True)]
        if upgrade.taken_back:
            changes.append((upgrade.at_s + upgrade.for_s + 2.0, False))
        for at_s, upgraded in changes:
            self.loop.later(at_s, setattr, self, "_upgraded", upgraded)
            for turn in range(3):
                self.loop.later(at_s + upgrade.for_s * (turn + 1) / 3, self._exchange, upgraded)

    def _exchange(self, upgraded: bool) -> None:
        """Puts a new worker in the place of one that has the other settings."""
        before = next((worker for worker in self.workers if worker.upgraded != upgraded), None)
        if before is None or not self.faults.on:
            return
        after = self._hire()
        for partition, owner in self.owners.items():
            if owner is before:
                self._give(partition, after)
        self.loop.later(self.rng.choice((0.0, 1.0)), self._tell_owned, before)

    def _move_clock(self, moved: ClockMoved) -> None:
        """Somebody moves a worker's clock, and later back."""
        if self.faults.on and self.workers:
            worker = self.workers[moved.number % len(self.workers)]
            worker.moved_ms = moved.by_ms
            self.loop.later(moved.for_s, setattr, worker, "moved_ms", 0)

    def _set_right(self, worker: Worker) -> None:
        """A person is told that a worker's clock is wrong: sets it, and starts the worker again."""
        worker.moved_ms = 0
        if worker in self.workers:
            self._kill(worker)

    def _lose(self, kind: str) -> None:
        """The log loses what it had acknowledged last."""
        if not self.faults.on:
            return
        rng, partition = self.rng, self.rng.randrange(self.partitions)
        shard = rng.choice((topics.user_shard, topics.treasury_shard))(partition)
        if self.faults.zombies:
            self._forget_owner(partition)
        if kind in ("ledger", "disk"):
            lost = self.broker.lose_ledger_tail(shard, rng.choice((1, 2, 5, 20)))
            if any(b'"recovery":{' in entry.value for entry in lost):
                self.people.mended_s.pop(shard, None)  # That a loss was accepted is lost as well.
        if kind == "disk":
            self.broker.lose_tail(
                topics.side_topic(shard), rng.randrange(self.partitions), rng.choice((1, 2, 5, 20))
            )
        elif kind == "side":
            self.broker.lose_tail(topics.side_topic(shard), partition, rng.randint(1, 5))
        elif kind == "keys":
            shard = topics.user_shard(partition)
            self.broker.lose_tail(topics.PERSON_KEYS, partition, rng.choice((1, 2, 5, 20)))
            # Where no key is made any more, nobody notices; but the broker's own alarms tell somebody.
            self.loop.later(RESEND_S - self.loop.time(), self.people.summon, shard, "person_keys_lost")
        elif kind == "inputs":
            self.broker.lose_tail(rng.choice(topics.PUBLIC_INPUTS), partition, rng.randint(1, 8))
        if kind in ("side", "disk"):
            # A gap stays until the sources send what is missing again: somebody sees the alarm and has them do so.
            for source in (topics.treasury_shard, topics.user_shard):
                for number in range(self.partitions):
                    self.loop.later(RESEND_S - self.loop.time(), self.people.resend, source(number))

    def _forget_owner(self, partition: int) -> None:
        """The owner hangs; another takes its place, and nobody thinks of the first until it goes on."""
        before = self.owners[partition]
        if before.process.stopped:
            return
        others = [worker for worker in self.workers if worker is not before and not worker.process.stopped]
        self._give(partition, self.rng.choice(others) if others else self._hire())
        before.process.stop()
        self.loop.later(self.rng.uniform(1.0, 7.0), self._wake, before)

    def _copy_soon(self) -> None:
        if self.faults.on:
            self.server.keep_copy()
            self.loop.later(self.rng.uniform(0.3, 1.5), self._copy_soon)

    def _heal(self) -> None:
        """No fault strikes any more, and every shard has one owner."""
        self.faults.on = False
        self.server.away_until_s = self.broker.away_until_s = -1.0
        for worker in self.workers:
            worker.process.resume()
            worker.moved_ms = 0
        if not self.workers:
            self._hire()
        for partition, owner in sorted(self.owners.items()):
            if owner.process.dead:
                self._give(partition, self.rng.choice(self.workers))
        for worker in self.workers:
            self._tell_owned(worker)
        if self.faults.losses:
            # A shard without input does not notice what its ledger lost until it is taken over.
            for worker in list(self.workers):
                self._kill(worker)

    # --- Looking on -------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Notices engines that ended although nobody asked them to."""
        turns = 0
        for task in self.people.errands:
            if task.done() and not task.cancelled() and (failed := task.exception()) is not None:
                self.problems.append(f"crash: what a person ran: {failed!r}")
        for worker in (*self.workers, *self.graves):
            for engine, task in (*worker.engines.values(), *worker.stopping):
                turns += engine.progress
                if not task.done() or task.cancelled() or worker.process.dead:
                    continue
                error = task.exception()
                if isinstance(error, Halted) and error.reason == "clock" and self.faults.clocks:
                    self.loop.later(0.5, self._set_right, worker)
                elif isinstance(error, Halted) and self.faults.losses:
                    if task not in self._looked_at:
                        self._looked_at.append(task)
                        if error.reason == "side_message_mismatch" and (
                            self._watches[engine].took_over_s < self.people.mended_s.get(engine.shard, -1.0)
                        ):
                            self.problems.append(f"a halt by who does not know what was accepted: {error}")
                        self.people.summon(engine.shard, error.reason)
                elif isinstance(error, Halted):
                    self.problems.append(f"halt: {error}")
                elif error is not None:
                    self.problems.append(f"crash: {worker.name} {engine.shard}: {error!r}")
                elif (engine, task) not in worker.stopping:
                    self.problems.append(f"end: {worker.name} {engine.shard} returned without being asked")
        if turns > MAX_TURNS:
            self.problems.append(f"livelock: {turns} turns")

    def _settled(self) -> bool:
        return all(
            shard in owner.engines and owner.engines[shard][0].settled
            for partition, owner in self.owners.items()
            for shard in (topics.user_shard(partition), topics.treasury_shard(partition))
        )

    def _unsettled(self) -> str:
        words = []
        for partition, owner in sorted(self.owners.items()):
            for shard in (topics.user_shard(partition), topics.treasury_shard(partition)):
                engine = owner.engines[shard][0] if shard in owner.engines else None
                if engine is None or not engine.settled:
                    positions = {} if engine is None else engine.positions
                    ends = {name: self.broker.end(name, partition) for name in topics.input_topics(shard)}
                    words.append(f"{owner.name} {shard} at {positions} of {ends}")
        return "not settled: " + "; ".join(words)

    async def _dismiss(self) -> None:
        """Stops every engine; each returns in time."""
        self.broker.last_call = {place: len(events) for place, events in self.broker.topics.items()}
        waiting: list[asyncio.Task[None]] = []
        for worker in self.workers:
            for shard in sorted(worker.engines):
                engine, task = worker.engines[shard]
                engine.stop()
                worker.stopping.append((engine, task))
                waiting.append(task)
            worker.engines = {}
            waiting += [task for _, task in worker.stopping if task not in waiting]
        _, pending = await asyncio.wait(waiting, timeout=STOP_S)
        if pending:
            self.problems.append(f"stop: {len(pending)} engines did not stop within {STOP_S} s")
        self._look_after()

    def fingerprint(self) -> str:
        """The same for every run of one seed: a hash of everything that landed."""
        digest = hashlib.sha256()
        for shard, offset in self.broker.landings:
            digest.update(b"%b %d " % (shard.encode(), offset))
            digest.update(self.broker.ledgers[shard][offset].value)
        for place in sorted(self.broker.topics):
            for event in self.broker.topics[place]:
                digest.update(b"%r %r %r" % (place, event.key, event.value))
        return digest.hexdigest()[:16]
