"""A session's governor where there is no log: library mode's caps and budgets."""

from __future__ import annotations

from typing import Final

import structlog

from adgovernor.contracts.campaigns import DAY_MS, Cap
from adgovernor.contracts.money import decimal_of, micros_of
from adgovernor.library import BudgetStatus, BudgetTracker, FrequencyCapper, NoBudgetError
from adgovernor.sessions.errors import StateUnavailableError
from adgovernor.sessions.governor import (
    BudgetStanding,
    CapStanding,
    SessionChange,
    SessionState,
    Spend,
    change_id,
    describe,
)
from adgovernor.sessions.states import SessionStates, asking_state

_log = structlog.get_logger(__name__)
_CAPPED: Final = ("capped",)
_SPENT: Final = ("spent",)
_ENDED: Final = ("released",)


class LibraryGovernor:
    """The seam of `sessions.governor` over a `FrequencyCapper`, a `BudgetTracker` and `SessionStates`.

    A limit that a session names counts the campaign's servings of the last *window_ms*; the campaign's own caps hold
    beside it.
    """

    def __init__(
        self,
        capper: FrequencyCapper,
        tracker: BudgetTracker,
        states: SessionStates,
        *,
        window_ms: int = DAY_MS,
    ) -> None:
        self._capper = capper
        self._tracker = tracker
        self._states = states
        self._window_ms = window_ms

    def _cap(self, limit: int) -> Cap:
        return Cap(scope="campaign", window="rolling", length_ms=self._window_ms, limit=limit)

    async def check_frequency_cap(self, user_id: str, campaign_id: str, limit: int) -> CapStanding:
        """See `SessionGovernor.check_frequency_cap`."""
        cap = self._cap(limit)
        with asking_state():
            seen = await self._capper.seen(user_id, campaign_id, cap)
            answer = await self._capper.check(user_id, campaign_id)
        return CapStanding(seen, limit, tuple(describe(reason) for reason in answer.reasons))

    async def remaining(self, user_id: str, campaign_id: str, limit: int) -> int:
        """See `SessionGovernor.remaining`."""
        with asking_state():
            left = await self._capper.remaining(user_id, campaign_id, extra=(self._cap(limit),))
        assert left is not None, "a cap was given"
        return left

    async def track_budget(
        self,
        session_id: str,
        campaign_id: str,
        price_micros: int,
        spend_id: str,
        *,
        user_id: str | None = None,
        creative_id: str = "",
    ) -> Spend:
        """See `SessionGovernor.track_budget`.

        The money is set aside, the serving counted, then the money spent. Whatever stops in between costs nothing: the
        reservation ends by itself, and the same spend goes on where it stopped.
        """
        with asking_state():
            reasons = await self._spend(campaign_id, price_micros, spend_id, user_id, creative_id)
        if not reasons:
            await note_spend(self._states, session_id, price_micros, spend_id)
        standing = await self.get_budget(campaign_id)
        return Spend(not reasons, standing or BudgetStanding(campaign_id, "", 0, 0), reasons)

    async def _spend(
        self, campaign_id: str, price_micros: int, spend_id: str, user_id: str | None, creative_id: str
    ) -> tuple[str, ...]:
        # Asked first, so that what is capped takes no money aside.
        if user_id:
            caps = await self._capper.check(
                user_id, campaign_id, creative_id=creative_id, serving_id=spend_id
            )
            if not caps.allowed:
                return _CAPPED
        if price_micros:
            reasons = await self._reserve(campaign_id, price_micros, spend_id)
            if reasons == _SPENT:
                return ()
            # A reservation that has ended was this spend's first try; it is paid late, as far as there is money.
            if reasons not in ((), _ENDED):
                return reasons
        if user_id:
            caps = await self._capper.record(
                user_id, campaign_id, creative_id=creative_id, serving_id=spend_id
            )
            if not caps.allowed:
                # Another serving of the person's was faster.
                if price_micros:
                    await self._tracker.release(campaign_id, spend_id)
                return _CAPPED
        if not price_micros:
            return ()
        return (await self._tracker.spend(campaign_id, None, spend_id)).reasons

    async def _reserve(self, campaign_id: str, price_micros: int, spend_id: str) -> tuple[str, ...]:
        try:
            answer = await self._tracker.reserve(campaign_id, decimal_of(price_micros), spend_id)
        except NoBudgetError:
            return ("no_budget",)
        return answer.reasons

    async def get_budget(self, campaign_id: str) -> BudgetStanding | None:
        """See `SessionGovernor.get_budget`."""
        try:
            with asking_state():
                return _standing(await self._tracker.status(campaign_id))
        except NoBudgetError:
            return None

    async def remaining_budget(self, campaign_id: str) -> int:
        """See `SessionGovernor.remaining_budget`; 0 for a campaign without a budget."""
        standing = await self.get_budget(campaign_id)
        return 0 if standing is None else standing.remaining_micros

    async def get_session_state(self, session_id: str) -> SessionState | None:
        """See `SessionGovernor.get_session_state`."""
        return await self._states.get(session_id)

    async def update_session_state(self, session_id: str, change: SessionChange) -> SessionState:
        """See `SessionGovernor.update_session_state`."""
        return await self._states.update(session_id, change)


async def note_spend(states: SessionStates, session_id: str, price_micros: int, spend_id: str) -> None:
    """Counts a paid impression in the session. That it cannot be counted does not undo it, so it is only logged."""
    change = SessionChange(change_id("spend", spend_id), impressions=1, spend_micros=price_micros)
    try:
        await states.update(session_id, change)
    except StateUnavailableError as error:
        _log.warning("session state not updated", session_id=session_id, reason=str(error))


def _standing(status: BudgetStatus) -> BudgetStanding:
    return BudgetStanding(
        status.campaign_id,
        status.currency,
        micros_of(status.budget),
        micros_of(status.spent),
        micros_of(status.reserved),
    )
