"""What may go wrong, and how often: drawn anew for each seed, so that every mixture of faults is met.

Each seed enables some classes of faults and leaves others out: a fault that hides another one is absent in half of
the runs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

_OPERATION_FAULTS: Final = {
    # Appends to the ledger.
    "append_lost": 0.06,
    "append_late": 0.06,
    "append_reply_lost": 0.06,
    "append_twice": 0.05,
    "append_junk": 0.08,
    # Reads of the ledger, of inputs, of the ends of outputs.
    "read_fails": 0.05,
    "read_short": 0.3,
    "read_stale": 0.08,
    "fetch_short": 0.3,
    "fetch_blind": 0.1,
    "tail_fails": 0.01,
    # Outputs.
    "publish_fails": 0.08,
    "publish_late": 0.06,
    "publish_twice": 0.06,
    # The store.
    "store_lost": 0.05,
    "store_late": 0.06,
    "store_reply_lost": 0.05,
    "store_read_fails": 0.04,
    # The worker itself, at any step of its input and output.
    "kill": 0.004,
    "stop": 0.004,
}
"""Fault → the highest chance for one operation."""

_EVENTS: Final = (
    "store_away",
    "store_tail_loss",
    "store_wipe",
    "store_old_copy",
    "log_away",
    "two_owners",
    "move",
)
"""What happens to the whole from time to time."""


@dataclass(slots=True)
class Faults:
    """The faults of one run."""

    rng: random.Random
    rates: dict[str, float] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)
    """Seconds → what happens then."""
    on: bool = True

    def hit(self, fault: str) -> bool:
        """Whether the fault strikes now."""
        rate = self.rates.get(fault)
        return rate is not None and self.on and self.rng.random() < rate

    def delay_s(self) -> float:
        """How long a message is under way."""
        draw = self.rng.random()
        return 0.001 + 0.004 * draw if draw < 0.9 or not self.on else 0.005 + 0.05 * self.rng.random()


def draw_faults(rng: random.Random, load_s: float) -> Faults:
    """The faults of one seed: one seed in ten has none, the others any mixture."""
    faults = Faults(random.Random(rng.getrandbits(64)))
    if rng.random() < 0.1:
        return faults
    share = rng.choice((0.15, 0.4, 0.7))
    for name, rate in _OPERATION_FAULTS.items():
        if rng.random() < share:
            faults.rates[name] = rate * rng.choice((0.3, 1.0))
    kinds = [name for name in _EVENTS if rng.random() < share]
    for name in kinds:
        for _ in range(rng.randint(1, 4)):
            faults.events.append((rng.uniform(1.5, load_s), name))
    faults.events.sort()
    return faults
