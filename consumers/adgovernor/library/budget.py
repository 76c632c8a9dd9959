"""Budgets over a state backend: Decimal in and out, micros inside, the core's treasury and leases for rules."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar

from adgovernor.contracts.campaigns import Account, Campaign, Pacing
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.money import decimal_of, micros_of
from adgovernor.core.rules import Rules
from adgovernor.library.campaign import CampaignState, Outcome
from adgovernor.library.errors import NoBudgetError
from adgovernor.library.given import made, named
from adgovernor.stores.backends import StateBackend, Transactions
from adgovernor.stores.clock import wall_clock_ms

PacingMode = Literal["asap", "even", "front_loaded", "hourly"]
LATE_GRACE_MS: Final = 60_000
"""How long after its reservation has ended an impression is still known."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BudgetAnswer:
    """What became of an amount.

    Attributes:
        accepted: it was (or, for `BudgetTracker.check`, would be) reserved or spent.
        name: the reservation's; it is what `spend` and `release` take.
        amount: reserved or charged; what was asked for where it was refused.
        remaining: what is neither reserved nor spent now.
        reasons: why it was refused: ``exhausted`` (more than is left), ``daily_budget``, ``paced`` (pacing releases it
            later), ``paused``, ``flight``, ``archived``, ``price_below_minimum``; for a name also ``spent``,
            ``released``, ``unknown_reservation``, and ``owed`` (spent after its reservation had ended, with no money
            left: paid first when money comes back).
        duplicate: the name was reserved or spent before, and nothing was done again.
        events: topics of the campaign's events that this caused, such as ``budget-exhausted``.
    """

    accepted: bool
    name: str
    amount: Decimal
    remaining: Decimal
    reasons: tuple[str, ...] = ()
    duplicate: bool = False
    events: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The first reason; empty where it was accepted."""
        return self.reasons[0] if self.reasons else ""


@dataclass(frozen=True, slots=True)
class PacingStatus:
    """How the money is released.

    ``released`` is what of the total, or of today's budget where there is a daily one, may have been used by now;
    ``used`` is what of it is reserved or spent.
    """

    mode: str
    released: Decimal
    used: Decimal


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A campaign's money now. ``budget`` holds top-ups, too; ``paused`` says why nothing is served, if so."""

    campaign_id: str
    currency: str
    budget: Decimal
    spent: Decimal
    reserved: Decimal
    remaining: Decimal
    available: Decimal
    """What could be reserved at this moment: of the day, and released by pacing."""
    impressions: int
    pacing: PacingStatus
    paused: tuple[str, ...]
    episode: int


class BudgetTracker:
    """Budgets that are never overspent, whoever spends them at once.

    The clocks of all processes must agree to a few seconds: time never goes back, so the fastest one ends everybody's
    reservations.

    A reservation is given back when it is not spent within ``reserve_ms``. Names are known for ``remember_ms`` and do
    nothing twice in that time. Every method raises `Unavailable` where the backend does not answer, `NoBudgetError`
    for a campaign without a budget, and `BadInput` for an amount that is none.

    A campaign's money is one value with no time to live, read and written as a whole by each call. It grows with what
    is reserved and spent within ``remember_ms``, by about 170 bytes each: for campaigns with more than a few
    impressions a second use the stream.
    """

    def __init__(
        self,
        backend: StateBackend,
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
        reserve_ms: int = 60_000,
        remember_ms: int = 300_000,
        deadline_s: float = 30.0,
    ) -> None:
        """Raises `BadSettings` where names would be forgotten while they are still needed."""
        self._backend = backend
        self._transactions = Transactions(backend, deadline_s)
        self._clock_ms = clock_ms
        # One process after the other changes the value, so events come in order and nothing is late.
        self._rules = Rules(
            partitions=1,
            lateness_ms=0,
            reservation_ms=reserve_ms,
            late_grace_ms=LATE_GRACE_MS,
            late_prior_ppm=0,
            dedupe_ms=remember_ms,
            history_ms=0,
            ask_cooldown_ms=0,
            report_interval_ms=0,
        )

    async def set_budget(
        self,
        campaign_id: str,
        amount: Decimal,
        currency: str = "USD",
        *,
        daily: Decimal | None = None,
        least: Decimal | None = None,
        pacing: PacingMode | Pacing = "asap",
        start_ms: int | None = None,
        end_ms: int | None = None,
        time_zone: str = "UTC",
    ) -> BudgetStatus:
        """Sets a campaign's budget; said again it changes nothing, changed it moves only the difference. Top-ups come
        on top of it.

        Args:
            daily: at most so much on one day of the time zone.
            least: the least amount that is reserved; with less left the campaign is exhausted. Left out: a micro.
            pacing: how fast the money (the day's, or the flight's from ``start_ms`` to ``end_ms``) is released.

        Raises:
            BadInput: for terms that cannot be, another currency than before, or less than is reserved and spent.
        """
        terms: dict[str, Any] = {
            "campaign_id": campaign_id,
            "account_id": campaign_id,
            "currency": currency,
            "budget_micros": _micros(amount, 0),
            "daily_budget_micros": None if daily is None else _micros(daily, 0),
            "min_price_micros": None if least is None else _micros(least, 1),
            "pacing": pacing,
            "start_ms": start_ms,
            "end_ms": end_ms,
        }
        what = f"budget of {named('campaign_id', campaign_id)}"
        campaign = made(Campaign, what, **terms)
        account = made(Account, what, account_id=campaign_id, time_zone=time_zone)
        name = str(uuid.uuid4())
        now_ms = self._clock_ms()

        def decide(value: bytes | None) -> tuple[bytes | None, BudgetStatus]:
            state = CampaignState.load(self._rules, campaign_id, value, now_ms)
            refusal = state.define(campaign, account, name)
            if refusal == "too_little_unleased" and state.money and "manual" not in state.money.reasons:
                # A lower budget takes what is not leased, and a paused campaign has nothing leased.
                state = CampaignState.load(self._rules, campaign_id, value, now_ms)
                state.set_status("pause", name)
                refusal = state.define(campaign, account, name)
                state.set_status("resume", name)
            if refusal is not None:
                raise BadInput(f"budget of {campaign_id}: {_REFUSALS.get(refusal, refusal)}")
            return state.encode(), _status(state)

        return await self._transactions.apply(_key(campaign_id), f"set/{name}", decide)

    async def top_up(self, campaign_id: str, amount: Decimal, name: str | None = None) -> BudgetStatus:
        """Adds to a budget, once for ``name``."""
        micros, word = _micros(amount, 1), _word(name)

        def change(state: CampaignState) -> tuple[bool, BudgetStatus]:
            refusal = state.add(micros, word)
            if refusal not in (None, "duplicate"):
                raise BadInput(f"top-up of {campaign_id}: {_REFUSALS.get(str(refusal), refusal)}")
            return refusal is None, _status(state)

        return await self._change(campaign_id, f"top-up/{word}", change)

    async def pause(self, campaign_id: str) -> BudgetStatus:
        """Stops a campaign by hand."""
        return await self._set_status(campaign_id, "pause")

    async def resume(self, campaign_id: str) -> BudgetStatus:
        """Takes `pause` back; a campaign without money stays paused."""
        return await self._set_status(campaign_id, "resume")

    async def check(self, campaign_id: str, amount: Decimal) -> BudgetAnswer:
        """Whether the amount could be reserved now. Nothing changes; another may be faster."""
        micros, name = _micros(amount, 1), str(uuid.uuid4())

        def change(state: CampaignState) -> tuple[bool, BudgetAnswer]:
            remaining = _remaining(state)
            return False, _answer(state, name, micros, state.reserve(name, micros), remaining)

        return await self._change(campaign_id, f"check/{name}", change)

    async def reserve(self, campaign_id: str, amount: Decimal, name: str | None = None) -> BudgetAnswer:
        """Sets an amount aside for an ad that is about to be shown, once for ``name``."""
        micros, word = _micros(amount, 1), _word(name)
        return await self._move(
            campaign_id, f"reserve/{word}", word, micros, lambda s: s.reserve(word, micros)
        )

    async def spend(
        self, campaign_id: str, amount: Decimal | None = None, name: str | None = None
    ) -> BudgetAnswer:
        """Spends an amount, once for ``name``.

        Of what was reserved under the name, all or ``amount`` (never more) is spent and the rest given back. What was
        not reserved is reserved and spent in one step.
        """
        if amount is None and name is None:
            raise BadInput(f"spend of {campaign_id}: give an amount, or the name of a reservation")
        micros, word = None if amount is None else _micros(amount, 0), _word(name)
        return await self._move(campaign_id, f"spend/{word}", word, micros, lambda s: s.spend(word, micros))

    async def release(self, campaign_id: str, name: str) -> bool:
        """Gives a reservation back; whether there was one."""

        def change(state: CampaignState) -> tuple[bool, bool]:
            released = state.release(name)
            return released, released

        return await self._change(campaign_id, f"release/{name}", change)

    async def remaining(self, campaign_id: str) -> Decimal:
        """What is neither reserved nor spent."""
        return (await self.status(campaign_id)).remaining

    async def status(self, campaign_id: str) -> BudgetStatus:
        """The campaign's money now."""
        return await self._change(campaign_id, "status", lambda state: (False, _status(state)))

    async def _set_status(self, campaign_id: str, word: str) -> BudgetStatus:
        name = str(uuid.uuid4())

        def change(state: CampaignState) -> tuple[bool, BudgetStatus]:
            refusal = state.set_status(word, name)
            if refusal is not None:
                raise BadInput(f"{word} of {campaign_id}: {_REFUSALS.get(refusal, refusal)}")
            return True, _status(state)

        return await self._change(campaign_id, f"{word}/{name}", change)

    async def _move(
        self,
        campaign_id: str,
        operation: str,
        name: str,
        micros: int | None,
        do: Callable[[CampaignState], Outcome],
    ) -> BudgetAnswer:
        def change(state: CampaignState) -> tuple[bool, BudgetAnswer]:
            outcome = do(state)
            # A refusal is kept only where it made something of the campaign known, so that those who come too late
            # do not contend with each other.
            keep = (
                bool(state.events) or not (outcome.reasons or outcome.duplicate) or "owed" in outcome.reasons
            )
            return keep, _answer(state, name, micros or 0, outcome, _remaining(state))

        return await self._change(campaign_id, operation, change)

    async def _change(
        self, campaign_id: str, operation: str, change: Callable[[CampaignState], tuple[bool, _T]]
    ) -> _T:
        """Has ``change`` do something and say whether it is to be kept; its result."""
        named("campaign_id", campaign_id)
        now_ms = self._clock_ms()

        def decide(value: bytes | None) -> tuple[bytes | None, _T]:
            if value is None:
                raise NoBudgetError(f"campaign {campaign_id} has no budget: call set_budget first")
            state = CampaignState.load(self._rules, campaign_id, value, now_ms)
            keep, result = change(state)
            return state.encode() if keep else None, result

        return await self._transactions.apply(_key(campaign_id), operation, decide)


_REFUSALS: Final = {
    "other_currency": "it has another currency; a campaign keeps its own",
    "too_little_unleased": "that is less than is reserved and spent",
    "daily_budget_added_or_removed": "a daily budget is there from the beginning or never; make another campaign",
    "too_much_money": "a campaign's money is at most 2^62 micros",
    "archived": "it is archived",
}


def _key(campaign_id: str) -> str:
    return f"budget/{campaign_id}"


def _micros(amount: Decimal, least: int) -> int:
    if not isinstance(amount, Decimal):
        raise BadInput(f"amount {amount!r}: give a Decimal, such as Decimal('0.25')")
    if not amount.is_finite() or amount < 0:
        raise BadInput(f"amount {amount}: an amount of money is a number, and not negative")
    micros = micros_of(amount)
    if decimal_of(micros) != amount:
        raise BadInput(f"amount {amount} is finer than a millionth of the currency: round it first")
    if micros < least:
        raise BadInput(f"amount {amount}: give more than nothing")
    return micros


def _word(name: str | None) -> str:
    """What an operation is called: as its caller says, else as nothing else is."""
    return named("name", name) if name else str(uuid.uuid4())


def _remaining(state: CampaignState) -> int:
    assert state.money is not None
    return state.money.topped_up - sum(state.held())


def _answer(
    state: CampaignState, name: str, asked: int, outcome: Outcome, remaining_micros: int
) -> BudgetAnswer:
    accepted = not outcome.reasons
    return BudgetAnswer(
        accepted,
        name,
        decimal_of(outcome.micros if accepted or outcome.micros else asked),
        decimal_of(remaining_micros),
        outcome.reasons,
        outcome.duplicate,
        tuple(state.events),
    )


def _status(state: CampaignState) -> BudgetStatus:
    money = state.money
    assert money is not None
    reserved, spent = state.held()
    day = money.day_of(state.now_ms)
    book = state.share.books.get(day)
    used = 0 if book is None else book.reserved + book.spent
    available = state.available()
    return BudgetStatus(
        campaign_id=money.campaign.campaign_id,
        currency=money.campaign.currency,
        budget=decimal_of(money.topped_up),
        spent=decimal_of(spent),
        reserved=decimal_of(reserved),
        remaining=decimal_of(money.topped_up - reserved - spent),
        available=decimal_of(available),
        impressions=state.impressions(),
        pacing=PacingStatus(money.campaign.pacing.mode, decimal_of(used + available), decimal_of(used)),
        paused=money.reasons,
        episode=money.episode,
    )
