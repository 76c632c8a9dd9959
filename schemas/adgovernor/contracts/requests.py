"""Ad requests: what a publisher asks for, and what may be shown (topic ``ad-requests``).

Requests are decoded on the hot path: constraints here are those that are checked without calling Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from msgspec import Meta, MsgspecError, Struct
from msgspec.json import Decoder
from pydantic import Field, field_validator

from adgovernor.contracts.base import (
    Contract,
    CurrencyCode,
    DurationMs,
    Id,
    Identity,
    Many,
    ManyOrNull,
    Metadata,
    Micros,
    RatePpm,
    TagUrl,
    TimeMs,
)
from adgovernor.contracts.money import price_of_cpm
from adgovernor.contracts.pod_requests import (
    MOST_BREAKS,
    MOST_CANDIDATES,
    MOST_SLOTS,
    BreakSpec,
    CandidateInPod,
    PodParts,
    PodRules,
    SlotSpec,
    count_of_slots,
)
from adgovernor.contracts.routing import routing_id


class Candidate(Contract):
    """One ad that could be shown. A candidate without a price has its campaign's."""

    campaign_id: Id
    creative_id: Id
    price_micros: Micros | None = None
    """The price of one billable event (an impression, or what the campaign's pricing says), in micros of the
    campaign's currency."""
    cpm_micros: Micros | None = None
    """The price of a thousand impressions; see ``money.price_of_cpm``. Not read where ``price_micros`` is given, nor
    for campaigns priced by click or completed view."""
    expected_rate_ppm: RatePpm | None = None
    """How many of a million impressions of this creative are expected to be billed, for campaigns priced by click or
    completed view; left out: the campaign's own rate."""
    duration_ms: DurationMs | None = None
    """How long the creative plays; needed where a slot or pod restricts durations."""
    categories: ManyOrNull[str] = ()
    """IAB content categories of the creative, in addition to its campaign's."""
    advertiser_domain: str | None = None
    """The landing domain (OpenRTB ``adomain``), for competitive separation."""
    tag_url: TagUrl | None = None
    """Where the ad is fetched from, as VAST, when it wins; the ``resolve`` stage does so. Left out: the creative is
    the ad server's own to show."""
    in_pod: CandidateInPod | None = None

    def price(self) -> int | None:
        """The price of one billable event in micros, or None where the campaign's own price applies."""
        return _price(self)


class Consent(Contract):
    """What the person agreed to, as the publisher asked them. Left out of a request: that nobody refused anything."""

    storage: bool = True
    """Whether anything may be remembered of them. Refused, the request is decided as one of nobody known who has no
    session either: campaigns whose caps would have to remember are not served (``no_identity``), and what is served is
    not counted. Opt-outs given earlier are honoured. An impression is billed while its reservation lasts, and not
    afterwards; a repeated request is known again for as long."""
    personalisation: bool = True
    """Whether ads may be chosen for them. Refused, campaigns with the policy ``personalised`` are not served
    (``no_consent``)."""


class AdRequest(Contract):
    """A publisher asks what to show to somebody. Without ``slots``, ``pod``, ``breaks`` or ``vmap`` it asks for one
    ad."""

    request_id: Id
    time_ms: TimeMs
    """Event time: when the person asked."""
    household_id: Identity | None = None
    """Widest first: household, user, device. All that are known may be given: the widest is the routing id, under which
    the others are remembered for caps ``per`` user or device."""
    user_id: Identity | None = None
    device_id: Identity | None = None
    session_id: Identity | None = None
    """The stream or visit, for caps of window ``stream``."""
    consent: Consent | None = None
    placement: str | None = None
    """Where the ad goes, such as ``preroll``; counts as the label ``placement:preroll``."""
    labels: ManyOrNull[str] = ()
    """Any words that caps may name."""
    metadata: Metadata = Field(default_factory=dict)
    """The publisher's own; stored with the request, never read."""
    deadline_ms: TimeMs | None = None
    """After this moment an answer is of no use; the request is then a no-fill (``deadline``)."""
    currency: CurrencyCode | None = None
    """ISO 4217: what prices compete in and floors are in; a candidate whose campaign has another is refused
    (``currency``), since micros of two currencies cannot be compared. Left out: that of the first candidate that
    nothing else speaks against."""
    slots: Many[SlotSpec] | None = Field(default=None, min_length=1, max_length=MOST_SLOTS)
    """The slots to fill, in order; a bare number N means N slots without restrictions. Together with ``pod``
    they come first (a hybrid pod)."""
    pod: PodParts | None = None
    pod_rules: PodRules | None = None
    """Rules over all that is asked for; given alone, the request asks for a pod of one slot."""
    breaks: Many[BreakSpec] | None = Field(default=None, min_length=1, max_length=MOST_BREAKS)
    """The ad breaks of a stream: each becomes a pod. ``slots`` and ``pod`` are then what each break has that says
    nothing of its own."""
    content_duration_ms: DurationMs | None = None
    """How long the programme is, without ads (OpenRTB ``content.len``): says when breaks at ``n%`` and ``end`` come."""
    vmap: str | None = None
    """Instead of ``breaks``: a VMAP 1.0 or 1.0.1 document. Where ads come from in it is not looked at; a break with
    ``repeatAfter`` comes again until the end, where ``content_duration_ms`` says when that is."""
    candidates: ManyOrNull[Candidate] = Field(default=(), max_length=MOST_CANDIDATES)

    @field_validator("slots", mode="before")
    @classmethod
    def _count_of_slots(cls, value: Any) -> Any:
        return count_of_slots(value)

    def routing_id(self) -> str:
        """The identity that this request is filed under (see ``routing``)."""
        return routing_id(self.household_id, self.user_id, self.device_id, self.session_id, self.request_id)


class PlainCandidate(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A `Candidate` of a `PlainRequest`."""

    campaign_id: Id
    creative_id: Id
    price_micros: Micros | None = None
    cpm_micros: Micros | None = None
    expected_rate_ppm: RatePpm | None = None
    duration_ms: DurationMs | None = None
    categories: tuple[str, ...] = ()
    advertiser_domain: str | None = None
    tag_url: TagUrl | None = None

    def price(self) -> int | None:
        """See `Candidate.price`."""
        return _price(self)


class PlainRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An `AdRequest` as nearly all are: for one ad, and with nothing that this release does not know. Fields mean what
    they mean there. It is decoded in a fifth of the time; what cannot be is left to `AdRequest`, whose word counts."""

    request_id: Id
    time_ms: TimeMs
    household_id: Identity | None = None
    user_id: Identity | None = None
    device_id: Identity | None = None
    session_id: Identity | None = None
    placement: str | None = None
    labels: tuple[str, ...] = ()
    metadata: dict[str, str | int | float | bool | None] = {}
    deadline_ms: TimeMs | None = None
    currency: CurrencyCode | None = None
    candidates: Annotated[tuple[PlainCandidate, ...], Meta(max_length=MOST_CANDIDATES)] = ()

    def routing_id(self) -> str:
        """See `AdRequest.routing_id`."""
        return routing_id(self.household_id, self.user_id, self.device_id, self.session_id, self.request_id)


AnyCandidate = Candidate | PlainCandidate
AnyRequest = AdRequest | PlainRequest


def _price(candidate: AnyCandidate) -> int | None:
    if candidate.price_micros is not None:
        return candidate.price_micros
    return None if candidate.cpm_micros is None else price_of_cpm(candidate.cpm_micros)


_plain: Final[Callable[[bytes], PlainRequest]] = Decoder(PlainRequest).decode
_any: Final[Callable[[bytes], AdRequest]] = AdRequest.__pydantic_validator__.validate_json


def read_request(value: bytes) -> AnyRequest:
    """An ad request from its JSON.

    Raises:
        ValidationError: pydantic's, where it is none.
    """
    try:
        return _plain(value)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return _any(value)
