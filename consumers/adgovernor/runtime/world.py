"""What every part of one shard's engine works with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from adgovernor.contracts.errors import Halted
from adgovernor.core.machine import Machine
from adgovernor.runtime.key_log import KeyLog
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.ports import Clock, ShardLog
from adgovernor.runtime.settings import EngineSettings
from adgovernor.stores.base import Store


class StartOver(Exception):
    """What is in memory cannot be trusted any more: drop it and fold the ledger again.

    Attributes:
        reason: short, for logs and metrics: ``void``, ``unknown``, ``publish``, ``store``…
        claim: whether the shard must be taken over again with a claim.
    """

    def __init__(self, reason: str, message: str, *, claim: bool = False) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.claim = claim


@dataclass(slots=True)
class World:
    """One shard and its surroundings. ``nudge`` wakes the engine when something in the background moved."""

    shard: str
    machine_factory: Callable[[], Machine]
    log: ShardLog
    store: Store
    clock: Clock
    settings: EngineSettings
    observer: Observer
    rng: random.Random
    keys: KeyLog | None = None
    """Where persons' keys are; None where the ledger is not sealed."""
    reached: tuple[int, int, str] = (0, 0, "")
    """The epoch, height and chain of the last block that this owner knew to count."""
    given_up: set[str] = field(default_factory=set)
    """Persons' keys that a fold must do without from the ledger's beginning (see `keyring`)."""
    nudge: asyncio.Event = field(default_factory=asyncio.Event)
    progress: int = 0
    """Rises with everything that is done or tried: whether the shard still moves."""
    unacknowledged_since: float | None = None
    """By the loop's clock, since when something is to be appended and the log has not said that it was."""

    def nonce(self) -> str:
        """So that no two attempts at a block have the same bytes."""
        return f"{self.rng.getrandbits(96):024x}"

    def pause_s(self, failures: int) -> float:
        """How long to pause after so many failures in a row: doubling, half of it jitter."""
        longest = min(self.settings.backoff_max_s, self.settings.backoff_s * float(1 << min(failures, 16)))
        return longest * (0.5 + 0.5 * self.rng.random())

    def halt(self, reason: str, message: str) -> Halted:
        """The error that stops this shard alone until a person has looked."""
        return Halted(self.shard, reason, message)

    async def nudged(self, timeout_s: float) -> None:
        """Waits for the background to move, at most ``timeout_s``."""
        self.nudge.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self.nudge.wait()
        except TimeoutError:
            pass
