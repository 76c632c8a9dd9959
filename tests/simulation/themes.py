"""What a run leans to. The broad mix meets everything now and then; a theme meets one kind of situation in most of its
runs, so that whoever breaks a rule about it, on purpose or not, is caught soon. World, faults and auditor are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Theme:
    """The chances and ranges of what is drawn; as they stand here they are the broad mix."""

    # The deployment.
    partitions: Sequence[int] = (1, 2, 2, 3, 4)
    rules: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Parameters of the rules → what is chosen from instead."""
    settings: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """The same for what workers are told."""

    # Accounts and campaigns.
    midnight: float = 0.4
    """How likely a day ends within the run,"""
    midnight_ms: tuple[int, int] = (6_000, 20_000)
    """and so long after its beginning."""
    at_home: float = 0.7
    """How likely an account is where the day ends."""
    rich: float = 0.5
    pods: float = 0.3
    """How likely a request of a rich run is for a pod."""
    account_budgets: float = 0.5
    account_prices: Sequence[int] = (5, 15, 40)
    """Budgets of accounts, in thousands."""
    campaigns: tuple[int, int] = (1, 4)
    prices: Sequence[int] = (3, 8, 15, 30, 60)
    """Budgets of campaigns, in prices."""
    daily: float = 0.3
    daily_prices: Sequence[int] = (3, 6, 15)
    """Daily budgets, in prices."""
    caps: Sequence[int] = (0, 0, 1, 2, 3)
    """How many a campaign has."""

    # People.
    people: tuple[int, int] = (3, 8)
    minds: float = 0.5
    """How likely they have minds (see `minds`),"""
    wishes: tuple[int, int] = (0, 12)
    """and how often these change them."""
    requests: tuple[int, int] = (60, 170)
    until_s: float = 24.0
    """When the last request is made at the latest."""
    not_shown: float = 0.22
    shown_soon: float = 0.43
    shown_late: float = 0.30
    """What becomes of an ad; the rest is shown very late."""
    late_s: tuple[float, float] = (3.0, 9.0)
    """How much later is late."""
    sealed: bool = False
    """Whether its runs are sealed, whatever else is asked for."""
    erasures: tuple[int, int] = (1, 8)
    """In sealed runs,"""
    parting: float = 0.0
    """and how likely each of them comes together with a request of the same person."""

    # Advertisers.
    commands: tuple[int, int] = (2, 9)
    command_words: Sequence[str] = (
        "top-up",
        "top-up",
        "top-up",
        "credit",
        "decrease",
        "decrease",
        "upsert",
        "pause",
    )

    # Faults.
    certain_faults: Mapping[str, float] = field(default_factory=dict)
    """Operation → how likely it fails, in every run."""
    certain_events: Mapping[str, int] = field(default_factory=dict)
    """What happens to the whole → how often, in every run."""
    losses: float = 0.125
    """How likely the log loses what it had acknowledged."""


BROAD: Final = Theme()

THEMES: Final[Mapping[str, Theme]] = {
    # Days end early enough for the one after it to be sold out, and for the first to be settled, in the run.
    "days": Theme(
        midnight=1.0,
        midnight_ms=(7_500, 11_000),
        at_home=0.95,
        rich=0.7,
        account_budgets=0.2,
        prices=(30, 60),
        daily=1.0,
        daily_prices=(1, 2, 4, 12),
        caps=(0, 0, 1),
        not_shown=0.08,
        shown_soon=0.65,
        shown_late=0.22,
        minds=0.2,
        requests=(110, 180),
        rules={"dedupe_ms": (11_500,), "day_grace_ms": (0,)},
        certain_faults={"stop": 0.004, "kill": 0.002},
    ),
    # What an account may spend is less than its campaigns could.
    "accounts": Theme(
        partitions=(2, 3, 4),
        rich=1.0,
        account_budgets=1.0,
        account_prices=(4, 8, 12),
        campaigns=(2, 4),
        prices=(30, 60),
        daily=0.1,
        caps=(0, 0, 1),
    ),
    # Several shards ask for the last prices, and a little more comes again and again.
    "recalls": Theme(
        partitions=(3, 4),
        campaigns=(1, 2),
        prices=(3, 8, 15),
        daily=0.1,
        caps=(0, 0, 1),
        people=(6, 10),
        requests=(100, 170),
        commands=(10, 40),
        command_words=("top-up", "top-up", "credit", "decrease", "upsert"),
    ),
    # Nothing is kept back for ads that are shown late, and many are.
    "debts": Theme(
        prices=(3, 8),
        caps=(0, 0, 1),
        minds=0.2,
        requests=(110, 180),
        not_shown=0.05,
        shown_soon=0.1,
        shown_late=0.8,
        late_s=(5.0, 11.0),
        commands=(10, 30),
        command_words=("top-up", "top-up", "credit", "pause"),
        rules={"late_prior_ppm": (0,), "dedupe_ms": (11_500,), "report_interval_ms": (4_000,)},
    ),
    # Campaigns that have spent all are paused, resumed and topped up by people.
    "episodes": Theme(
        prices=(3, 8),
        caps=(0, 0, 1),
        commands=(10, 30),
        command_words=("top-up", "top-up", "credit", "pause", "pause", "upsert"),
    ),
    # People stop asking while ads are still on their way.
    "silence": Theme(
        rich=0.7,
        account_prices=(2, 4, 15),
        campaigns=(2, 4),
        prices=(3, 8, 15),
        caps=(0, 0, 1),
        requests=(40, 90),
        until_s=9.0,
        not_shown=0.05,
        shown_soon=0.5,
        shown_late=0.4,
        command_words=("top-up", "decrease", "decrease", "decrease"),
        rules={"ask_cooldown_ms": (1_000, 5_000)},
    ),
    # The store loses much, is often away, and little fits into memory.
    "store": Theme(
        prices=(30, 60),
        caps=(1, 2, 3),
        settings={"keep_states": (1, 3), "trail_blocks": (1, 20), "dirty_limit": (50,)},
        certain_faults={"store_lost": 0.05, "store_late": 0.05, "store_reply_lost": 0.05},
        certain_events={
            "store_away": 4,
            "store_tail_loss": 3,
            "store_old_copy": 3,
            "two_owners": 3,
            "move": 2,
        },
    ),
    # Few people, money enough, and every campaign has caps.
    "caps": Theme(
        people=(1, 3),
        prices=(60, 120),
        daily=0.1,
        caps=(1, 2, 3),
        requests=(110, 180),
        not_shown=0.35,
    ),
    # Breaks of several ads, and money for them.
    "pods": Theme(
        rich=1.0,
        pods=0.8,
        account_budgets=0.2,
        campaigns=(2, 4),
        prices=(30, 60),
        daily=0.1,
        caps=(0, 0, 1),
        minds=0.2,
    ),
    # People change their minds.
    "minds": Theme(
        prices=(30, 60),
        caps=(0, 0, 1),
        minds=1.0,
        people=(2, 4),
        wishes=(15, 40),
    ),
    # Who is forgotten; and keys and outputs that do not arrive.
    "keys": Theme(
        prices=(15, 30, 60),
        sealed=True,
        erasures=(20, 40),
        parting=0.8,
        certain_faults={
            "publish_fails": 0.4,
            "publish_late": 0.02,
            "append_late": 0.06,
            "read_stale": 0.3,
            "kill": 0.006,
        },
        certain_events={"store_away": 3, "two_owners": 2, "move": 2},
    ),
    # The log loses what it had acknowledged.
    "losses": Theme(losses=1.0),
}
