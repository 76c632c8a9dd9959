"""What becomes of ad pods (topic ``pods``).

A pod is created by a decision; its id is the decision's, with ``/`` and the number of the break where the request has
breaks. It is completed when all of its filled positions were shown, or abandoned when the reservations of the others
have ended. A pod in which nothing was filled has no further event.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from adgovernor.contracts.base import Contract, DurationMs, Id, Many, Micros, TimeMs


class PositionInPlay(Contract):
    """A filled position."""

    position: int = Field(ge=1)
    """Its place in play, from 1."""
    slot: int = Field(ge=0)
    """The decision's slot."""
    offset_ms: DurationMs | None = None
    """When it begins, from the beginning of the pod; left out after an ad of unknown length."""
    duration_ms: DurationMs | None = None
    campaign_id: Id
    creative_id: Id
    account_id: Id
    advertiser_domain: str | None = None
    price_micros: Micros
    currency: str
    delivered: bool
    """It was shown."""


class _Pod(Contract):
    pod_id: str = Field(min_length=1, max_length=300)
    decision_id: Id
    """Also the event's key."""
    name: Id | None = None
    """The publisher's own name for the pod (OpenRTB ``podid``)."""
    sequence: Literal["first", "last"] | None = None
    """The pod's place in the stream, where the request says it (OpenRTB ``podseq``)."""
    break_id: Id | None = None
    break_offset: str | None = None
    """Where in the programme its break is, as the request gives it."""
    break_offset_ms: DurationMs | None = None
    """The same as a time, where that is known."""
    time_ms: TimeMs
    """When it was asked for, completed or abandoned, in event time."""
    deadline_ms: TimeMs
    """When the last of its reservations ends."""
    positions: Many[PositionInPlay]
    """In play order."""
    filled: int
    unfilled: int
    """Slots without an ad; their money was never reserved."""
    delivered: int
    """How many positions were shown."""
    shard: str
    height: int
    """The block of the ledger that holds the record."""
    index: int
    """The record's place in that block."""
    dn: int = Field(ge=1)
    """The output's number, contiguous from 1 in each partition of a topic: take last + 1, ignore the rest."""


class PodCreated(_Pod):
    """A pod was planned, and the prices of its ads are reserved."""

    type: Literal["pod-created"]
    bound_micros: Micros | None = None
    """Where the search for the best fill ended before it had proved this one the best: what no other fill can be worth
    more than, in micros for one impression of each position."""


class PodCompleted(_Pod):
    """All filled positions were shown."""

    type: Literal["pod-completed"]


class PodAbandoned(_Pod):
    """The reservations of positions that were not shown have ended. A late impression of one is still accepted, as any
    is; the pod stays abandoned."""

    type: Literal["pod-abandoned"]


PodEvent = Annotated[PodCreated | PodCompleted | PodAbandoned, Field(discriminator="type")]
