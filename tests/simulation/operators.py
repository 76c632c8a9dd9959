"""The people who run a simulated deployment: they look at shards that halted, and accept what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from tests.simulation.broker import Network, SimLog
from tests.simulation.faults import Faults
from tests.simulation.loop import Process
from tests.simulation.sealed import SimKeyLog
from tests.simulation.store import SimStore
from tests.simulation.workers import Clock
from tests.simulation.workload import LOAD_S

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.core.machines import machine_of
from adgovernor.runtime.chain import Walk
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.recover import NothingLost, recover, resend
from adgovernor.runtime.world import StartOver, World

if TYPE_CHECKING:
    from tests.simulation.world import SimWorld

PREFIX: Final = "sim"
RESEND_S: Final = LOAD_S + 8.0
"""When somebody sends again what side topics lost."""


class Operators:
    """Attributes:
    halts: shard → how often a person has looked at it and accepted a loss.
    mending: shards that a person is looking at.
    mended_s: shard → when a loss was last accepted, as far as its ledger still says so.
    errands: what people were asked to do.
    """

    def __init__(self, sim: SimWorld) -> None:
        self._sim = sim
        self.process = Process("operator", sim.loop)
        self.halts: dict[str, int] = {}
        self.mending: set[str] = set()
        self.mended_s: dict[str, float] = {}
        self.errands: list[asyncio.Task[None]] = []

    def summon(self, shard: str, reason: str) -> None:
        """A person looks at a halted shard: all its owners that answer are stopped, and what is lost is accepted."""
        if shard in self.mending:
            return
        self.halts[shard] = self.halts.get(shard, 0) + 1
        for worker in self._sim.workers:
            if shard in worker.engines and not worker.process.stopped:
                engine, task = worker.engines.pop(shard)
                task.cancel()
                worker.stopping.append((engine, task))
        for worker in self._sim.graves:
            worker.engines.pop(shard, None)
        if reason == "side_message_mismatch" and self._sim.faults.zombies:
            self._sim.hang_at_work(shard)
        self.mending.add(shard)
        self._sim.loop.later(1.0, self._mend, shard)

    def _mend(self, shard: str) -> None:
        self.errands.append(self.process.spawn(self._recover(shard)))

    def resend(self, shard: str) -> None:
        work = self._maintain(lambda: resend(self._world_of(shard), 1))
        self.errands.append(self.process.spawn(work))

    async def _maintain(self, work: Callable[[], Awaitable[object]]) -> None:
        """Does what a person does until it works."""
        while True:
            try:
                await work()
            except (Unavailable, StartOver, Halted):
                await asyncio.sleep(0.3)
            else:
                return

    def _world_of(self, shard: str) -> World:
        sim = self._sim
        faults = Faults(random.Random(sim.rng.getrandbits(64)))
        network = Network(sim.loop, self.process, faults, lambda process: None)
        log, store = SimLog(sim.broker, shard, network), SimStore(sim.server, network)
        keys = SimKeyLog(sim.broker, shard, network) if sim.sealed and shard.startswith("u") else None
        return World(
            shard,
            lambda: machine_of(shard, sim.workload.rules),
            log,
            store,
            Clock(sim.broker, None),
            sim.engine_settings(None),
            Observer(),
            random.Random(sim.rng.getrandbits(64)),
            keys,
        )

    async def _recover(self, shard: str) -> None:
        world = self._world_of(shard)

        async def accept() -> None:
            # What only the owner's memory had seen is known to nobody: the shard is started again as it is.
            with contextlib.suppress(NothingLost):
                await recover(world, why="simulated", positions=self._positions_kept(shard))

        await self._maintain(accept)
        self.mending.discard(shard)
        self.mended_s[shard] = self._sim.loop.time()
        if self._sim.loop.time() > RESEND_S and any(
            kind in ("side", "disk") for _, kind in self._sim.faults.losses
        ):
            # What it sends only now, or can send no more, was not sent with what the others did.
            await self._maintain(lambda: resend(self._world_of(shard), 1))
        partition = topics.partition_of_shard(shard)
        if self._sim.owners[partition].process.dead:
            return  # Whoever takes its place starts the shard.
        self._sim.start(self._sim.owners[partition], shard)

    def _positions_kept(self, shard: str) -> dict[str, int]:
        """Where reading goes on of inputs that end before the place that the ledger has reached."""
        walk, positions = Walk(PREFIX, shard), dict[str, int]()
        for entry in self._sim.broker.ledgers.get(shard, []):
            block = walk.step(entry)
            if block is not None:
                positions = block.header.positions
        ends = {name: self._sim.broker.end(name, topics.partition_of_shard(shard)) for name in positions}
        return {name: end for name, end in ends.items() if end < positions[name]}
