"""What happened after a decision, and what people want (topics ``impressions`` and ``user-events``)."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from adgovernor.contracts.base import Contract, Id, Micros, RoutingId, TimeMs


class Impression(Contract):
    """A decided ad was shown: its reservation becomes spend, where impressions are what its campaign pays for."""

    type: Literal["impression"] = "impression"
    decision_id: Id
    """The decision's id, which is its request's id."""
    slot: int = Field(default=0, ge=0)
    """Which of the decision's slots was shown."""
    routing_id: RoutingId
    """The decision's routing id, echoed; it is also the event's key."""
    time_ms: TimeMs
    """Event time: when it was shown."""
    price_micros: Micros | None = None
    """The price really paid. Below the reservation the rest returns to the lease; above it the reserved
    price is charged and the record flagged. Left out: the reserved price."""


class Click(Contract):
    """A shown ad was clicked: counted once for caps.

    It turns the reservation of a campaign priced so into spend, and moves no money of others.
    """

    type: Literal["click"]
    decision_id: Id
    slot: int = Field(default=0, ge=0)
    routing_id: RoutingId
    time_ms: TimeMs
    price_micros: Micros | None = None
    """The price really paid, as in an impression; for campaigns priced by click."""


class CompletedView(Contract):
    """A shown ad played to its end: counted once for caps.

    It turns the reservation of a campaign priced so into spend, and moves no money of others.
    """

    type: Literal["view"]
    decision_id: Id
    slot: int = Field(default=0, ge=0)
    routing_id: RoutingId
    time_ms: TimeMs
    price_micros: Micros | None = None
    """The price really paid, as in an impression; for campaigns priced by completed view."""


Engagement = Annotated[Impression | Click | CompletedView, Field(discriminator="type")]


class _Wish(Contract):
    scope: Literal["all", "advertiser", "category"] = "all"
    value: str | None = Field(default=None, max_length=256)
    """The account id or the category, whose parts it is about, too (IAB7 is about IAB7-3); not read for ``all``."""

    @model_validator(mode="after")
    def _says_whose(self) -> Self:
        # Without it nothing would change, and nobody would be told.
        if self.scope != "all" and not self.value:
            what = "account id" if self.scope == "advertiser" else "category"
            raise ValueError(f"scope {self.scope} needs a value, the {what} that it is about")
        return self


class OptOut(_Wish):
    """A person no longer wants ads: all of them, one advertiser's, or one category's. Honoured from the next
    event on."""

    type: Literal["opt-out"]
    routing_id: RoutingId
    time_ms: TimeMs


class OptIn(_Wish):
    """Takes an opt-out of the same scope and value back."""

    type: Literal["opt-in"]
    routing_id: RoutingId
    time_ms: TimeMs


class Preference(_Wish):
    """What a person wants of all ads, of one advertiser, or of one category: refuse them, allow them, or neither.

    The most specific word decides. An ad's advertiser first: allowed or refused, that is the answer. Else its
    categories: one refused is enough to refuse it; else one allowed is enough to allow it; of a part of a category,
    such as IAB7-3, its own word decides, else that of the whole. Else ``all``. ``refuse`` is what an opt-out of the
    same scope and value says, ``neither`` takes either back. As many advertisers and categories are remembered as the
    deployment allows (``rules.most_preferences``): a refusal more takes the place of the oldest
    permission; what finds no place is a dead letter (``too_many_preferences``)."""

    type: Literal["preference"]
    routing_id: RoutingId
    time_ms: TimeMs
    choice: Literal["refuse", "allow", "neither"]


class Erasure(Contract):
    """A person asks to be forgotten: what is remembered of them (servings, counts, request ids, opt-outs) is removed,
    and where the ledger is sealed their key is destroyed. Money that is reserved or spent stays in the books. An
    impression of an ad that was decided before it finds nobody, and pays nothing. Whoever is to get no ads
    afterwards opts out again."""

    type: Literal["erasure"]
    routing_id: RoutingId
    time_ms: TimeMs


MOST_POSITIONS: Final = 1_000
"""Positions that one update of a session names."""


class SessionUpdate(Contract):
    """A session with upstream ad servers did something. It is added to the session's state once for its change id;
    the state is kept for a while after the last change."""

    type: Literal["session"]
    routing_id: RoutingId
    """The session's id."""
    change_id: Id
    time_ms: TimeMs
    requests: int = Field(default=0, ge=0, le=1_000_000)
    """Ad documents that were asked for."""
    impressions: int = Field(default=0, ge=0, le=1_000_000)
    pod_positions: tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...] = Field(
        default=(), max_length=MOST_POSITIONS
    )
    """Positions of a pod that were filled."""
    spend_micros: Micros = 0


UserEvent = Annotated[OptOut | OptIn | Preference | Erasure | SessionUpdate, Field(discriminator="type")]
