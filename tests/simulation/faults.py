"""What may go wrong, and how often: drawn anew for each seed, so that every mixture of faults is met.

Each seed enables some classes of faults and leaves others out: a fault that hides another one is absent in half of
the runs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.themes import BROAD, Theme

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


_LOSSES: Final = ("ledger", "ledger", "ledger", "side", "inputs", "disk", "disk")
"""The tail of a shard's ledger; of the side messages to it; of an input from outside; of all that a broker's disk held,
which is a ledger and what its shard sent."""
_NOT_WITH_LOSSES: Final = ("append_late", "append_twice", "publish_late", "publish_twice")
"""What was sent before a person accepted a loss does not land after it: they have waited for that."""


_MOVES_MS: Final = (-86_400_000, -3_600_000, -10_000, 10_000, 3_600_000, 86_400_000)


@dataclass(frozen=True, slots=True)
class ClockMoved:
    """Somebody moves the clock of one worker, and some time later back."""

    at_s: float
    for_s: float
    by_ms: int
    number: int
    """Which worker, counted round."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Workers with other settings take the place of the others, one by one."""

    at_s: float
    for_s: float
    """How long it takes."""
    rules: dict[str, int]
    """Parameters of the rules that the new ones have."""
    settings: dict[str, int]
    """What else they are told."""
    taken_back: bool
    """Whether it is undone, one by one, some time later."""


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
    zombies: bool = False
    """Whether somebody owns a shard of which nobody knows, while a person accepts what it lost."""
    clocks: list[ClockMoved] = field(default_factory=list)
    upgrade: Upgrade | None = None
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


def lean(rng: random.Random, faults: Faults, theme: Theme, load_s: float) -> None:
    """Adds the faults that a theme is about."""
    faults.rates.update(theme.certain_faults)
    for name, most in theme.certain_events.items():
        for _ in range(rng.randint(1, most)):
            faults.events.append((rng.uniform(1.5, load_s), name))
    faults.events.sort()


def draw_losses(rng: random.Random, faults: Faults, load_s: float, theme: Theme = BROAD) -> None:
    """Gives one broad seed in eight a log that loses what it had acknowledged."""
    if rng.random() < theme.losses:
        for name in _NOT_WITH_LOSSES:
            faults.rates.pop(name, None)
        kinds = rng.choices(_LOSSES, k=rng.randint(1, 3))
        faults.zombies = rng.random() < 0.6
        faults.losses = sorted((rng.uniform(3.0, load_s), kind) for kind in kinds)


def draw_key_losses(rng: random.Random, faults: Faults, load_s: float) -> None:
    """In half of the sealed runs with losses, the topic of persons' keys is among what loses its tail: at a time of its
    own, or together with another, or alone."""
    if not faults.losses or rng.random() < 0.5:
        return
    times = [at_s for at_s, _ in faults.losses]
    if rng.random() < 0.3:
        faults.losses.clear()
    for _ in range(rng.randint(1, 2)):
        at_s = rng.choice(times) if rng.random() < 0.5 else rng.uniform(3.0, load_s)
        faults.losses.append((at_s, "keys"))
    faults.losses.sort()


def draw_clocks(rng: random.Random, faults: Faults, load_s: float) -> None:
    """Gives one seed in six workers whose clocks are moved."""
    if rng.random() < 0.17:
        faults.clocks = [
            ClockMoved(
                rng.uniform(0.0, load_s),
                rng.choice((0.05, 1.0, 4.0)),
                rng.choice(_MOVES_MS),
                rng.randrange(12),
            )
            for _ in range(rng.randint(1, 4))
        ]


def draw_upgrade(rng: random.Random, faults: Faults, load_s: float) -> None:
    """Gives one seed in five a rolling change of settings."""
    if rng.random() < 0.2:
        rules = {
            "lease_divisor": rng.choice((1, 2, 3)),
            "ask_cooldown_ms": rng.choice((200, 2_000)),
            "report_interval_ms": rng.choice((500, 1_500)),
            "early_lease_ms": rng.choice((0, 3_000)),
            "reservation_ms": rng.choice((2_500, 4_000)),
        }
        settings = {
            "max_events": rng.choice((2, 20)),
            "max_bytes": rng.choice((3_000, 1_500_000)),
            "trail_blocks": rng.choice((1, 20)),
            "keep_states": rng.choice((1, 50)),
        }
        kept = rng.sample(sorted(rules), rng.randint(1, 3))
        faults.upgrade = Upgrade(
            rng.uniform(2.0, load_s - 8.0),
            rng.uniform(0.5, 8.0),
            {name: rules[name] for name in kept},
            settings,
            rng.random() < 0.4,
        )
