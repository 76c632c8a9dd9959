"""What a publisher asks of ad pods: places, time to fill, breaks of a stream, and rules over all of them.

Checked on the hot path by pydantic alone, as the rest of an ad request (see `requests`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, Strict, field_validator

from adgovernor.contracts.base import Contract, DurationMs, Id, Many, Micros

MOST_SLOTS: Final = 64
"""Slots, and ads of a dynamic part, that a pod may ask for at most, whatever is configured."""
MOST_BREAKS: Final = 64
"""Breaks of one request at most, whatever is configured."""
MOST_CANDIDATES: Final = 1000
"""Candidates of one request at most, whatever is configured."""

PositionInPod = Literal["any", "first", "last", "first_or_last"]
"""OpenRTB ``slotinpod`` (0, 1, -1, 2; AdCOM 1.0, list Slot Position in Pod)."""
PodSequence = Literal["any", "first", "last"]
"""OpenRTB ``podseq`` (0, 1, -1; AdCOM 1.0, list Pod Sequence)."""
Deduplication = Annotated[int, Field(ge=1, le=5)]
LengthMs = Annotated[DurationMs, Field(ge=1)]
"""A bound on playing time: 0 would hold no ad."""


class DurationFloor(Contract):
    """A floor for ads of a range of durations, both ends included (OpenRTB 2.6, object DurFloors)."""

    min_duration_ms: DurationMs = 0
    max_duration_ms: LengthMs | None = None
    floor_micros: Micros


class _Place(Contract):
    """What slots and dynamic parts have in common.

    The floor of an ad is the first of these that is given (OpenRTB 2.6, section 7.11): its deal's, the floor by the
    second, the first floor by duration that covers it, the plain floor.
    """

    min_duration_ms: DurationMs | None = None
    max_duration_ms: LengthMs | None = None
    allowed_durations_ms: Many[LengthMs] = ()
    """Exactly these durations (OpenRTB ``rqddurs``); empty: any."""
    floor_micros: Micros = 0
    """The least price of one impression here; a price by click or view counts as its expected value."""
    floors_by_duration: Many[DurationFloor] = ()
    """OpenRTB ``durfloors``."""
    floor_cpm_micros_per_second: Micros | None = None
    """The least price of a thousand impressions for each second that the ad plays (OpenRTB ``mincpmpersec``)."""
    position: PositionInPod = "any"
    """A guaranteed place in the pod; more than one ``first`` or ``last`` keep their order."""


class SlotSpec(_Place):
    """One place for one ad."""


def count_of_slots(value: Any) -> Any:
    """A bare number of slots as so many without restrictions; anything else unchanged."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 < value <= MOST_SLOTS:
            raise ValueError(f"slots must be between 1 and {MOST_SLOTS}")
        return tuple(SlotSpec() for _ in range(value))
    return value


class PodSpec(_Place):
    """A dynamic pod, or a dynamic part of one: time to fill rather than slots (OpenRTB 2.6 ``poddur``, ``maxseq``)."""

    total_duration_ms: LengthMs
    max_ads: int | None = Field(default=None, ge=1, le=MOST_SLOTS)
    """Left out: 12, or what is configured where that is less."""
    separate_advertisers: bool = True
    """No two ads of one advertiser domain in the pod, nor side by side with the ads around it in the stream. Holds for
    the whole pod where one of its parts says so, as does the next."""
    separate_categories: bool = False
    """No two ads that share a category in the pod, nor side by side with the ads around it in the stream. Categories go
    by their names: ``IAB7-3`` and ``IAB7-5`` share none, unless both ads name ``IAB7`` as well."""


PodParts = PodSpec | Annotated[tuple[PodSpec, ...], Strict(False), Field(min_length=1, max_length=MOST_SLOTS)]
"""The dynamic part of a pod, or a list of several, which play in the order given."""


def parts_of(pod: PodSpec | tuple[PodSpec, ...] | None) -> tuple[PodSpec, ...]:
    """The dynamic parts of a pod, none or more."""
    if pod is None:
        return ()
    return pod if isinstance(pod, tuple) else (pod,)


class PodRules(Contract):
    """Rules over all pods of a request."""

    name: Id | None = None
    """The publisher's own name for the pod (OpenRTB ``podid``)."""
    sequence: PodSequence = "any"
    """The pod's place in the stream: nothing plays before the first, nothing after the last."""
    dedupe: Many[Deduplication] = ()
    """What may not repeat in a pod (OpenRTB ``poddedupe``): 1 the advertiser domain, 2 the category (by name), 3 the
    creative, 4 the media file, 5 nothing is kept apart. Given, exactly these hold; left out, creatives do not repeat
    and the pod's own words on advertisers and categories hold."""
    blocked_categories: Many[str] = ()
    """OpenRTB ``bcat``; a blocked ``IAB7`` blocks ``IAB7-3``."""
    blocked_advertisers: Many[str] = ()
    """OpenRTB ``badv``; a blocked domain blocks its subdomains."""
    total_duration_ms: LengthMs | None = None
    """All ads of a pod together play no longer than this; left out: no bound beside those of its parts."""


class CandidateInPod(Contract):
    """What of a candidate concerns pods alone."""

    position: PositionInPod = "any"
    """The place that the buyer insists on."""
    floor_micros: Micros | None = None
    """The floor of its deal for one impression; it replaces all others."""
    media_url: Annotated[str, Field(max_length=8192)] | None = None
    """The media file, for deduplication by it."""


class BreakSpec(Contract):
    """One ad break of a stream; it becomes a pod. Without slots and pod of its own it takes the request's, or else
    one ad."""

    break_id: Id | None = None
    offset: str = Field(max_length=64)
    """Where in the programme, as VMAP 1.0.1 §2.3.1 writes it: ``start``, ``end``, ``hh:mm:ss(.mmm)``, ``n%`` or ``#m``.
    Any other text is kept as it is, and says nothing of the order."""
    slots: Many[SlotSpec] | None = Field(default=None, min_length=1, max_length=MOST_SLOTS)
    pod: PodParts | None = None
    one_ad: bool = False
    """It takes one ad only, whatever the request's slots and pod say (VMAP ``allowMultipleAds="false"``)."""

    @field_validator("slots", mode="before")
    @classmethod
    def _count_of_slots(cls, value: Any) -> Any:
        return count_of_slots(value)
