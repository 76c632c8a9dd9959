"""Decisions: what is shown, and for everything else every reason why not (topic ``decisions``)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from adgovernor.contracts.base import Contract, DurationMs, Id, Many, Micros, RoutingId, TagUrl, TimeMs


class ReasonCode(StrEnum):
    """Why a candidate lost, or a slot was not filled. One code, one rule."""

    # The candidate was good, another was better.
    OUTBID = "outbid"
    # Caps and people.
    CAPPED = "capped"
    NO_IDENTITY = "no_identity"
    OPTED_OUT = "opted_out"
    NO_CONSENT = "no_consent"
    STATE_UNKNOWN = "state_unknown"
    # Money.
    NO_LEASE = "no_lease"
    EXHAUSTED = "exhausted"
    DAILY_BUDGET = "daily_budget"
    ACCOUNT_BUDGET = "account_budget"
    PRICE_BELOW_MINIMUM = "price_below_minimum"
    CURRENCY = "currency"
    # The campaign.
    UNKNOWN_CAMPAIGN = "unknown_campaign"
    PAUSED = "paused"
    FLIGHT = "flight"
    ARCHIVED = "archived"
    # The slot or pod.
    FLOOR = "floor"
    DURATION = "duration"
    POSITION = "position"
    BLOCKED_CATEGORY = "blocked_category"
    BLOCKED_ADVERTISER = "blocked_advertiser"
    CREATIVE_REPEATED = "creative_repeated"
    MEDIA_REPEATED = "media_repeated"
    ADVERTISER_SEPARATION = "advertiser_separation"
    CATEGORY_SEPARATION = "category_separation"
    # The request.
    NO_CANDIDATE = "no_candidate"
    LATE = "late"
    FUTURE = "future"
    DEADLINE = "deadline"
    MISROUTED = "misrouted"
    TOO_LARGE = "too_large"
    # Its break comes after the decision is forgotten, so it could never be billed: ask again nearer to it.
    TOO_FAR = "too_far"


class Reason(Contract):
    """One reason. The fields below ``code`` are those of the cap that blocked, where one did."""

    code: ReasonCode
    scope: str | None = None
    """What the cap counts, such as ``campaign:c1`` or ``label:placement:preroll``."""
    window: str | None = None
    """``rolling``, ``calendar``, ``lifetime``, ``pod`` or ``stream``."""
    length_ms: DurationMs | None = None
    limit: int | None = None
    count: int | None = None
    """How many servings were counted before this one."""
    per: str | None = None
    """``household``, ``user`` or ``device`` where the cap counts for these."""
    event: str | None = None
    """``click`` or ``view`` where the cap counts these, not servings."""


def reasons_of(plain: Iterable[dict[str, Any]]) -> list[Reason]:
    """Reasons from the form that the core writes into records, whose codes are texts."""
    return [Reason.model_validate(one, strict=False) for one in plain]


class Winner(Contract):
    """The ad that a slot got. Its price is reserved until the deadline, or the billing deadline where there is one."""

    campaign_id: Id
    creative_id: Id
    account_id: Id
    price_micros: Micros
    currency: str
    deadline_ms: TimeMs
    """In event time: an impression after it counts as late."""
    billable: Literal["click", "view"] | None = None
    """What is paid for where it is not the impression."""
    billing_deadline_ms: TimeMs | None = None
    """With ``billable``: until when the price stays reserved for it."""
    duration_ms: DurationMs | None = None
    tag_url: TagUrl | None = None
    """The candidate's, where it has one: the ad behind it comes on ``ads``."""


class DecisionSlot(Contract):
    """One slot: a winner, or the reason why there is none."""

    slot: int
    winner: Winner | None = None
    no_fill: ReasonCode | None = None
    pod_id: str | None = None
    """The pod that it is a slot of (topic ``pods``), where the request asked for one."""
    position: int | None = None
    """Its winner's place in play in that pod, from 1."""
    part: int | None = None
    """The dynamic part that it plays in, from 0, where the pod has several."""
    break_id: Id | None = None
    """Of the break that it belongs to, where the request has breaks; here and below."""
    break_offset: str | None = None
    """As the request gives it."""
    offset_ms: DurationMs | None = None
    """The break's place in the programme, where that is known."""


class Loser(Contract):
    """A candidate that got no slot, with every reason."""

    candidate: int
    """The candidate's place in the request, from 0."""
    campaign_id: Id
    creative_id: Id
    reasons: Many[Reason]
    pod_id: str | None = None
    """Where the request has several breaks: the pod that it has no place in."""


class Refusal(Contract):
    """What of a request is too large, beside the no-fill ``too_large``."""

    field: str
    """Such as ``candidates`` or ``breaks[2].slots``."""
    given: int
    most: int
    """What is configured."""


class Decision(Contract):
    """What to show for one ad request."""

    decision_id: Id
    """The request's id."""
    routing_id: RoutingId
    """To be echoed as field and key of impressions, clicks and views."""
    time_ms: TimeMs
    """The request's event time."""
    slots: Many[DecisionSlot]
    losers: Many[Loser] = ()
    losers_left_out: int = 0
    """How many more lost than ``losers`` names, where all of them would make the decision too large."""
    degraded: bool = False
    """Decided without the person's history, because the store was away."""
    refused: Refusal | None = None
    shard: str
    height: int
    """The block of the ledger that holds the record."""
    index: int
    """The record's place in that block."""
    dn: int = Field(ge=1)
    """The output's number, contiguous from 1 in each partition of a topic: take last + 1, ignore the rest."""
