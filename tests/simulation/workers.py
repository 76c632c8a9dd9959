"""The workers of a run: processes with engines, a clock each, and what the world remembers of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.simulation.broker import Broker
from tests.simulation.loop import Process, VirtualLoop

from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.observer import Observer


@dataclass(slots=True)
class Worker:
    """A process with engines. A restarted one is another worker."""

    name: str
    process: Process
    skew_ms: int
    moved_ms: int = 0
    """How far somebody has moved its clock."""
    upgraded: bool = False
    """Whether it has the settings of the run's upgrade."""
    engines: dict[str, tuple[ShardEngine, asyncio.Task[None]]] = field(default_factory=dict)
    stopping: list[tuple[ShardEngine, asyncio.Task[None]]] = field(default_factory=list)


class Clock:
    """A worker's clock: the true one, a little off, or far off while somebody has moved it."""

    def __init__(self, broker: Broker, worker: Worker | None) -> None:
        self._broker = broker
        self._worker = worker

    def now_ms(self) -> int:
        worker = self._worker
        return self._broker.now_ms() + (0 if worker is None else worker.skew_ms + worker.moved_ms)


class Watch(Observer):
    """Sees when an engine last knew the whole ledger."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.took_over_s = -1.0
        self.hangs: Process | None = None
        """A process that hangs as soon as it knows the ledger."""

    def took_over(self, shard: str, *, height: int, folded: int, seconds: float, reason: str) -> None:
        self.took_over_s = self._loop.time()
        if self.hangs is not None:
            self.hangs.stop()
            self.hangs = None
