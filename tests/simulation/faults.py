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
    "store_bucket_lost",
    "log_away",
    "two_owners",
    "move",
)
"""What happens to the whole from time to time."""


_LOSSES: Final = ("ledger", "ledger", "ledger", "side", "inputs")
"""The tail of a shard's ledger; of the side messages to it; of an input from outside."""
_NOT_WITH_LOSSES: Final = ("append_late", "append_twice", "publish_late", "publish_twice")
"""What was sent before a person accepted a loss does not land after it: they have waited for that."""


@dataclass(slots=True)
class Faults:
    """The faults of one run."""

    rng: random.Random
    rates: dict[str, float] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)
    """Seconds → what happens then."""
    losses: list[tuple[float, str]] = field(default_factory=list)
    """Seconds → what of its acknowledged messages the log loses then. Few runs have any: what a person has accepted
    cannot be held against the rules that are judged in all others."""
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


def draw_losses(rng: random.Random, faults: Faults, load_s: float) -> None:
    """Gives one seed in eight a log that loses what it had acknowledged."""
    if rng.random() < 0.125:
        for name in _NOT_WITH_LOSSES:
            faults.rates.pop(name, None)
        kinds = rng.choices(_LOSSES, k=rng.randint(1, 3))
        faults.losses = sorted((rng.uniform(3.0, load_s), kind) for kind in kinds)
