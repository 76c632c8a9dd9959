"""What a session asks the governor: caps, money and its own state.

The seam between sessions and the shard's state. An implementation answers from the state that ``decide`` and
``fold`` keep and publishes what is spent as events; it never writes a counter of its own. It raises
:class:`~adgovernor.sessions.errors.StateUnavailableError` when the state cannot be asked, and only then: a reached
limit is an answer.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Protocol

from adgovernor.contracts.base import LONGEST_ID
from adgovernor.contracts.decisions import Reason


@dataclass(frozen=True, slots=True)
class CapStanding:
    """How often a person has seen a campaign, of *limit*; *blocked_by* names every cap that refuses it."""

    seen: int
    limit: int
    blocked_by: tuple[str, ...] = ()

    @property
    def remaining(self) -> int:
        """How many servings are left."""
        return 0 if self.blocked_by else max(0, self.limit - self.seen)

    @property
    def allowed(self) -> bool:
        """Whether one more serving is within the limit."""
        return self.remaining > 0


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """A campaign's money in micro-units of *currency*."""

    campaign_id: str
    currency: str
    budget_micros: int
    spent_micros: int
    reserved_micros: int = 0

    @property
    def remaining_micros(self) -> int:
        """What may still be reserved or spent."""
        return max(0, self.budget_micros - self.spent_micros - self.reserved_micros)


@dataclass(frozen=True, slots=True)
class Spend:
    """The answer to money that was asked for: *accepted* or not and why, and where the budget stands now.

    *reasons* are the governor's codes; ``capped`` is one of them where the person may not see the campaign.
    """

    accepted: bool
    standing: BudgetStanding
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionState:
    """What a session has done so far; kept with a time to live, and over restarts."""

    request_count: int = 0
    impressions: int = 0
    pod_positions: tuple[int, ...] = ()
    spend_micros: int = 0

    def plus(self, change: SessionChange) -> SessionState:
        """The state after a change."""
        return SessionState(
            self.request_count + change.requests,
            self.impressions + change.impressions,
            tuple(sorted({*self.pod_positions, *change.pod_positions})),
            self.spend_micros + change.spend_micros,
        )


@dataclass(frozen=True, slots=True)
class SessionChange:
    """What to add to a session's state; *change_id* makes a repeated change one change."""

    change_id: str
    requests: int = 0
    impressions: int = 0
    pod_positions: tuple[int, ...] = ()
    spend_micros: int = 0


def change_id(kind: str, name: str) -> str:
    """The id of the change of *kind* that *name* stands for; a name too long for that stands in it as its digest."""
    written = f"{kind}/{name}"
    return written if len(written) <= LONGEST_ID else f"{kind}/{uuid.uuid5(uuid.NAMESPACE_URL, name)}"


def describe(reason: Reason) -> str:
    """A cap that blocked, in words."""
    length = "" if reason.length_ms is None else f" {reason.length_ms} ms"
    return f"{reason.scope} {reason.count} of {reason.limit} ({reason.window}{length})"


class SessionGovernor(Protocol):
    """Caps, budgets and session state, over the stream's state or a state backend."""

    async def check_frequency_cap(self, user_id: str, campaign_id: str, limit: int) -> CapStanding:
        """Where *user_id* stands with *campaign_id*, at most *limit* servings being wanted (0: none)."""

    async def remaining(self, user_id: str, campaign_id: str, limit: int) -> int:
        """How many more servings *user_id* may see of *campaign_id*."""

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
        """Spend *price_micros* of the campaign's budget for one impression, once for *spend_id*, if it reaches.

        Where the user is known the impression counts for their caps, and they must allow it.
        """

    async def get_budget(self, campaign_id: str) -> BudgetStanding | None:
        """The campaign's budget; None when it has none."""

    async def remaining_budget(self, campaign_id: str) -> int:
        """What is left of the campaign's budget, in micro-units of its currency."""

    async def get_session_state(self, session_id: str) -> SessionState | None:
        """The session's state; None when it is unknown or forgotten."""

    async def update_session_state(self, session_id: str, change: SessionChange) -> SessionState:
        """Add *change* to the session's state, once for its change id, and return the result."""
