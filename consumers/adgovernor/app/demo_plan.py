"""What the demonstration is about: five campaigns and a stream that wants them.

Budgets are in proportion to the length of the stream, so that the same things happen however long it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from adgovernor.contracts.campaigns import (
    Account,
    Campaign,
    Cap,
    Command,
    MoneyCommand,
    StatusCommand,
    UpsertAccount,
    UpsertCampaign,
)
from adgovernor.publish.loadgen import Traffic

TINY: Final = "flash-sale"
"""Its budget is soon gone; it is topped up once."""
HANDLED: Final = "brand-film"
"""Paused and resumed by hand."""
CURRENCY: Final = "EUR"
_MINUTE_MS: Final = 60_000
_CANDIDATES: Final = 4
_PEOPLE: Final = 60


@dataclass(frozen=True, slots=True)
class _Sketch:
    """A campaign before its budget is known. Shares are of the stream's requests."""

    account_id: str
    price_micros: int
    budget_share: float
    daily_share: float | None = None
    caps: tuple[Cap, ...] = ()


_SKETCHES: Final = {
    TINY: _Sketch("bazaar", 40_000, 0.15),
    "coffee-club": _Sketch(
        "roastery",
        30_000,
        0.20,
        caps=(Cap(scope="campaign", window="rolling", length_ms=_MINUTE_MS // 2, limit=2),),
    ),
    "city-lights": _Sketch(
        "tourism",
        25_000,
        0.20,
        daily_share=0.08,
        caps=(Cap(scope="creative", window="rolling", length_ms=_MINUTE_MS, limit=2),),
    ),
    HANDLED: _Sketch(
        "studio",
        20_000,
        0.40,
        caps=(Cap(scope="advertiser", window="calendar", length_ms=24 * 60 * _MINUTE_MS, limit=12),),
    ),
    "evergreen": _Sketch(
        "house",
        5_000,
        0.20,
        caps=(Cap(scope="campaign", window="lifetime", limit=8),),
    ),
}
_ZONES: Final = {"tourism": "Europe/Berlin", "studio": "America/New_York"}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how fast, and which seed."""

    requests: int
    """Messages on the topic of ad requests, faulty ones included."""
    rate: float
    """Requests a second."""
    seed: int = 1
    exact: bool = False
    """Exactly so many requests; else the stream goes on until the story is told."""

    def traffic(self, start_ms: int) -> Traffic:
        """The stream, beginning at ``start_ms``."""
        return Traffic(
            seed=self.seed,
            accounts=len(_SKETCHES),
            campaigns=len(_SKETCHES),
            users=_PEOPLE,
            candidates=_CANDIDATES,
            start_ms=start_ms,
            requests_per_s=self.rate,
            repeated_percent=4.0,
            out_of_order_percent=10.0,
            out_of_order_ms=3_000,
            late_percent=1.0,
            poison_percent=1.0,
            shown_percent=92.0,
            shown_after_ms=2_000,
        )

    def offers(self) -> list[list[dict[str, Any]]]:
        """Each campaign's creatives, as candidates."""
        return [
            [
                {
                    "campaign_id": name,
                    "creative_id": f"{name}-{seconds}s",
                    "advertiser_domain": f"{sketch.account_id}.example",
                    "duration_ms": seconds * 1_000,
                }
                for seconds in (15, 30)
            ]
            for name, sketch in _SKETCHES.items()
        ]

    def _micros(self, sketch: _Sketch, share: float) -> int:
        return max(2, round(self.requests * share)) * sketch.price_micros

    def commands(self, time_ms: int) -> list[Command]:
        """The accounts, then the campaigns."""
        accounts: list[Command] = []
        campaigns: list[Command] = []
        for name, sketch in _SKETCHES.items():
            account = Account(account_id=sketch.account_id, time_zone=_ZONES.get(sketch.account_id, "UTC"))
            campaign = Campaign(
                campaign_id=name,
                account_id=sketch.account_id,
                currency=CURRENCY,
                budget_micros=self._micros(sketch, sketch.budget_share),
                daily_budget_micros=None
                if sketch.daily_share is None
                else self._micros(sketch, sketch.daily_share),
                price_micros=sketch.price_micros,
                caps=sketch.caps,
            )
            accounts.append(
                UpsertAccount(
                    command="account",
                    command_id=f"account-{account.account_id}",
                    account_id=account.account_id,
                    time_ms=time_ms,
                    account=account,
                )
            )
            campaigns.append(
                UpsertCampaign(
                    command="upsert",
                    command_id=f"define-{name}",
                    account_id=account.account_id,
                    time_ms=time_ms,
                    campaign=campaign,
                )
            )
        return accounts + campaigns

    def top_up(self, time_ms: int) -> MoneyCommand:
        """More money for the tiny campaign: half of what it had."""
        sketch = _SKETCHES[TINY]
        return MoneyCommand(
            command="top-up",
            command_id="top-up-1",
            account_id=sketch.account_id,
            campaign_id=TINY,
            time_ms=time_ms,
            amount_micros=self._micros(sketch, sketch.budget_share / 2),
        )

    def by_hand(self, what: str, time_ms: int) -> StatusCommand:
        """Pauses or resumes the campaign that somebody looks after."""
        return StatusCommand(
            command="pause" if what == "pause" else "resume",
            command_id=f"{what}-1",
            account_id=_SKETCHES[HANDLED].account_id,
            campaign_id=HANDLED,
            time_ms=time_ms,
        )
