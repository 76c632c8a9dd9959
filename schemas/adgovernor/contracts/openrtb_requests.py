"""From OpenRTB bid requests to our ad requests: who asks, when, for which place, and which campaigns may answer.

A bid request becomes one ad request for each pod and for each impression outside a pod. With one of them the
request keeps its id; with several each is named ID:POD or ID:IMPRESSION (ID:IMPRESSION:IMPRESSION where a pod of the
request is named like the impression).

Identity, the first that is there:
    user     `user.id`, `user.buyeruid`, an extended id of a person (`eids`, atype 3)
    device   `device.ifa` (unless it is all zeros), `didsha1`, `didmd5`, `dpidsha1`, `dpidmd5`, `macsha1`,
             `macmd5`, an extended id of a browser or app (`eids`, atype 1 or 2)
IP addresses and user agents are never used: they name no person.

Placement, the first that is there: the impression's `tagid`, then of app, site and dooh the `id`, `bundle`,
`domain` or `name`. Labels: `media:video`, and `app:ID` or `site:ID`.

A campaign of the candidates file is offered where all of this holds; of several media one is enough for which it does:
    media        the impression offers one of its media (banner, video, native, audio); a pod is of video, else of audio
    size         for a banner: one of its sizes is asked for, where both sides name sizes
    floor        its CPM is at least the impression's floor for its duration (section 7.11), in the same currency;
                 without a CPM of its own it is not offered where there is a floor
    categories   none is in `bcat` (a blocked IAB7 blocks IAB7-3), all are in `acat` where there is one
    domain       it is not under `badv`
    duration     its duration is lawful there; without one it is offered only where any duration is
For a pod it is enough that one slot takes it, and the pod's own terms go along: podid, podseq, slotinpod, poddedupe,
floors and their currency, `bcat` and `badv`, so that the decision holds them for the campaign's categories too and
names them as reasons.
Deals are between buyer and seller and are not looked at. What the person agreed to is read where that is asked for, as
`openrtb_consent` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adgovernor.contracts.base import LATEST_MS, Id, RatePpm, TagUrl
from adgovernor.contracts.categories import is_among
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.money import micros_of, price_of_cpm
from adgovernor.contracts.openrtb import parse_request
from adgovernor.contracts.openrtb_consent import consent_of
from adgovernor.contracts.openrtb_documents import BadOpenRtb, read_json
from adgovernor.contracts.openrtb_objects import (
    DEDUPLICATIONS,
    BidRequest,
    Channel,
    Currency,
    Eid,
    Imp,
    Video,
)
from adgovernor.contracts.openrtb_pods import Offer, OfferedPod, offer_of
from adgovernor.contracts.openrtb_terms import is_under
from adgovernor.contracts.pod_requests import (
    MOST_SLOTS,
    DurationFloor,
    PodRules,
    PodSequence,
    PodSpec,
    PositionInPod,
    SlotSpec,
)
from adgovernor.contracts.requests import AdRequest, Candidate, Consent

Media = Literal["banner", "video", "native", "audio"]

_SEQUENCES: Final[Mapping[int, PodSequence]] = {1: "first", -1: "last"}
_POSITIONS: Final[Mapping[int, PositionInPod]] = {1: "first", -1: "last", 2: "first_or_last"}
_USUAL_DEDUPE: Final = (1, 2, 3, 4)
"""Without `poddedupe`: the advertiser domain, category, creative and media file are kept apart, as in `pods plan`."""
_SECONDS_OF_NOW: Final = range(10**9, 5 * 10**9)
"""Seconds of the years 2001 to 2128; as milliseconds they would be of the first weeks of 1970."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PERSON, _BROWSER, _APP = 3, 1, 2
_DEVICE_HASHES: Final = ("didsha1", "didmd5", "dpidsha1", "dpidmd5", "macsha1", "macmd5")


class OfferedCampaign(BaseModel):
    """One line of the candidates file: an ad, and what it suits."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _of_a_candidate(cls, entry: Any) -> Any:
        """Prices and durations may also be written as an ad request's candidates have them, one medium as a word, and
        the entry as a campaign's definition."""
        if not isinstance(entry, Mapping):
            return entry
        given = _of_a_definition(entry) if "account_id" in entry else dict(entry)
        for name, field, scale in (
            ("price_micros", "cpm", 1_000),
            ("cpm_micros", "cpm", 1_000_000),
            ("duration_ms", "duration_s", 1_000),
        ):
            if isinstance(given.get(name), int) and not isinstance(given[name], bool):
                given.setdefault(field, Decimal(given.pop(name)) / scale)
                given.pop(name, None)
        if isinstance(given.get("media"), str):
            given["media"] = (given["media"],)
        return given

    campaign_id: Id
    creative_id: Id
    media: tuple[Media, ...] = ("banner", "video", "native", "audio")
    sizes: tuple[tuple[int, int], ...] = ()
    """Widths and heights of the banner; none: it fits any size."""
    cpm: Decimal | None = Field(default=None, ge=0)
    """The price of a thousand impressions in units of `currency`; left out: the campaign's own."""
    currency: Currency = "USD"
    duration_s: Decimal | None = Field(default=None, gt=0)
    categories: tuple[str, ...] = ()
    advertiser_domain: str | None = None
    expected_rate_ppm: RatePpm | None = None
    tag_url: TagUrl | None = None

    @property
    def duration_ms(self) -> int | None:
        """The duration in milliseconds."""
        return None if self.duration_s is None else int(self.duration_s * 1000)

    def candidate(self) -> Candidate:
        """The candidate as our ad requests carry it."""
        return Candidate(
            campaign_id=self.campaign_id,
            creative_id=self.creative_id,
            cpm_micros=None if self.cpm is None else micros_of(self.cpm),
            duration_ms=self.duration_ms,
            categories=self.categories,
            advertiser_domain=self.advertiser_domain,
            expected_rate_ppm=self.expected_rate_ppm,
            tag_url=self.tag_url,
        )


def _of_a_definition(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a campaign's definition says of its ads: one creative, named like the campaign, at the campaign's price."""
    names = ["campaign_id", "creative_id", "currency", "categories"]
    if entry.get("pricing", "cpm") == "cpm":
        names += ["price_micros", "cpm_micros"]
    return {"creative_id": entry.get("campaign_id"), **{name: entry[name] for name in names if name in entry}}


def read_candidates(raw: bytes) -> tuple[OfferedCampaign, ...]:
    """Read a candidates file: JSON lines or a JSON list of `OfferedCampaign`, or an object with such a list as
    `candidates`; or a file of accounts and campaigns, as they are applied.

    Raises:
        BadInput: not such a document; says which entry and field.
    """
    try:
        document = read_json(raw)
    except BadOpenRtb:
        lines = [line for line in raw.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        document = [read_json(line) for line in lines]
    if isinstance(document, Mapping):
        alone = "campaign_id" in document or "account_id" in document
        document = [document] if alone else document.get("candidates")
    if not isinstance(document, list):
        raise BadInput(
            "candidates: give JSON lines or a JSON list of campaigns, or an object with the list `candidates`"
        )
    found = []
    for number, entry in enumerate(document):
        if isinstance(entry, Mapping) and "account_id" in entry and "campaign_id" not in entry:
            continue  # An account, in a file of campaigns.
        try:
            found.append(OfferedCampaign.model_validate(entry))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            raise BadInput(f"candidates[{number}].{where}: {first['msg']}") from error
    return tuple(found)


class OpenRtbAdapter:
    """Turns lines of a bid request log into ad requests.

    `time_field` says where the event time is: a dotted path to milliseconds, such as `ext.timestamp`, or to a date and
    time with its zone (ISO 8601), a path with `:s`, such as `ext.ts:s`, for seconds with or without a fraction, or one
    with `:hex8`, such as `id:hex8`, for seconds in the first eight hexadecimal digits of a text.

    `consent` says whether signals of law and consent are obeyed (see `openrtb_consent`); else nothing is refused.
    """

    def __init__(
        self, candidates: Iterable[OfferedCampaign], time_field: str, *, consent: bool = False
    ) -> None:
        self._consent = consent
        self._offers = [(campaign, campaign.candidate()) for campaign in candidates]
        path, _, form = time_field.rpartition(":")
        self._read, self._wanted = _FORMS.get(form if path else "", _FORMS[""])
        self._path = tuple((path if path and form in _FORMS else time_field).split("."))
        if not all(self._path):
            raise BadInput(f"time field {time_field!r}: give a dotted path such as ext.timestamp, or id:hex8")

    def to_ad_requests(self, line: bytes) -> tuple[AdRequest, ...]:
        """Turn a bid request into an ad request for each pod and for each impression outside a pod.

        Raises:
            BadOpenRtb: not readable, contradicting itself, or without a time.
        """
        document = read_json(line)
        if not isinstance(document, Mapping):
            raise BadOpenRtb("document", "a bid request is a JSON object")
        request = parse_request(document)
        if not request.id:
            raise BadOpenRtb("id", "missing; a bid request has one")
        time_ms = self._time_ms(document)
        consent = consent_of(document) if self._consent else None
        offer = offer_of(request)
        alone = len(offer.pods) + len(offer.singles) == 1
        return tuple(
            self._build(request, imps, pod, request.id if alone else f"{request.id}:{name}", time_ms, consent)
            for name, imps, pod in _units(offer)
        )

    def _build(
        self,
        request: BidRequest,
        imps: Sequence[Imp],
        pod: OfferedPod | None,
        request_id: str,
        time_ms: int,
        consent: Consent | None,
    ) -> AdRequest:
        channel_kind, channel = _channel(request)
        place = channel.id or channel.bundle or channel.domain or channel.name if channel is not None else ""
        labels = [f"media:{name}" for name in imps[0].media_types()]
        if place:
            labels.append(f"{channel_kind}:{place}")
        try:
            slots, parts, rules = _shape(request, pod) if pod is not None else (None, None, None)
            return AdRequest(
                request_id=request_id,
                time_ms=time_ms,
                user_id=_user_id(request),
                device_id=_device_id(request),
                consent=consent,
                currency=_currency(imps),
                placement=imps[0].tagid or place or None,
                labels=tuple(labels),
                slots=slots,
                pod=parts,
                pod_rules=rules,
                candidates=tuple(
                    candidate
                    for campaign, candidate in self._offers
                    if any(_suits(request, imp, campaign, pod is not None) for imp in imps)
                ),
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            raise BadOpenRtb(imps[0].id, f"makes no ad request: {where}: {first['msg']}") from error

    def _time_ms(self, document: Any) -> int:
        name = ".".join(self._path)
        value = document
        for step in self._path:
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            raise BadOpenRtb(name, "missing; it is the time field")
        try:
            time_ms = self._read(value)
        except (ArithmeticError, ValueError, TypeError) as error:
            shown = repr(value) if isinstance(value, str) else value
            raise BadOpenRtb(name, f"{shown} is no time; {self._wanted} are wanted") from error
        if not 0 <= time_ms <= LATEST_MS:
            raise BadOpenRtb(name, f"{value!r} is out of range for milliseconds since 1970")
        return time_ms


def _seconds_in_hex(value: Any) -> int:
    if re.match(r"[0-9A-Fa-f]{8}", str(value)) is None:
        raise ValueError(value)
    return int(str(value)[:8], 16) * 1000


def _seconds(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    return int(Decimal(value) * 1000)


def _milliseconds(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    if not isinstance(value, str) or value.strip().isdigit():
        time_ms = int(value)
        if time_ms in _SECONDS_OF_NOW:
            raise ValueError(value)
        return time_ms
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(value)
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_FORMS: Final[Mapping[str, tuple[Callable[[Any], int], str]]] = {
    "": (
        _milliseconds,
        "milliseconds since 1970 (for seconds append `:s` to the time field), or a date and time with its zone,",
    ),
    "s": (_seconds, "seconds since 1970"),
    "hex8": (_seconds_in_hex, "eight hexadecimal digits of seconds"),
}
"""How a time may be written, by what the time field ends in."""


def _units(offer: Offer) -> list[tuple[str, tuple[Imp, ...], OfferedPod | None]]:
    units: dict[str, tuple[tuple[Imp, ...], OfferedPod | None]] = {}
    asked: list[tuple[str, tuple[Imp, ...], OfferedPod | None]] = [
        *[(pod.pod_id, pod.imps, pod) for pod in offer.pods],
        *[(imp.id, (imp,), None) for imp in offer.singles],
    ]
    for name, imps, pod in asked:
        while name in units:
            # A pod and an impression may have the same name, and two requests must not.
            name += f":{imps[0].id}"
        units[name] = imps, pod
    return [(name, *unit) for name, unit in units.items()]


def _shape(
    request: BidRequest, pod: OfferedPod
) -> tuple[tuple[SlotSpec, ...] | None, PodSpec | tuple[PodSpec, ...] | None, PodRules]:
    """The slots of a pod, its dynamic parts, and its rules."""
    media = [video for imp in pod.imps if (video := imp.media()) is not None]
    codes = {code for video in media for code in video.poddedupe if code in DEDUPLICATIONS}
    blocked = dict.fromkeys([*request.bcat, *(word for imp in pod.imps for word in imp.bcat)])
    rules = PodRules(
        name=pod.pod_id if pod.named else None,
        sequence=_SEQUENCES.get(media[0].podseq, "any") if media else "any",
        dedupe=tuple(sorted(codes)) or _USUAL_DEDUPE,
        blocked_categories=tuple(blocked),
        blocked_advertisers=request.badv,
        total_duration_ms=None if pod.total_s is None else 1000 * pod.total_s,
    )
    slots = tuple(_slot(imp) for imp in pod.slots)
    parts = tuple(_part(imp) for imp in pod.parts)
    return slots or None, parts[0] if len(parts) == 1 else parts or None, rules


def _part(imp: Imp) -> PodSpec:
    part = imp.media()
    assert part is not None
    assert part.poddur is not None
    # More ads than an ad request can ask for are as lawful to leave out as any below the maximum.
    max_ads = None if part.maxseq is None else min(part.maxseq, MOST_SLOTS)
    return PodSpec(total_duration_ms=1000 * part.poddur, max_ads=max_ads, **dict(_slot(imp)))


def _slot(imp: Imp) -> SlotSpec:
    media = imp.media()
    floor = price_of_cpm(micros_of(imp.bidfloor))
    if media is None:
        return SlotSpec(floor_micros=floor)
    return SlotSpec(
        min_duration_ms=None if media.minduration is None else 1000 * media.minduration,
        max_duration_ms=1000 * media.maxduration if media.maxduration else None,
        allowed_durations_ms=tuple(1000 * seconds for seconds in media.rqddurs),
        floor_micros=floor,
        floors_by_duration=tuple(
            DurationFloor(
                min_duration_ms=1000 * (range_.mindur or 0),
                max_duration_ms=None if range_.maxdur is None else 1000 * range_.maxdur,
                floor_micros=price_of_cpm(micros_of(range_.bidfloor)),
            )
            for range_ in media.durfloors
        ),
        floor_cpm_micros_per_second=None if media.mincpmpersec is None else micros_of(media.mincpmpersec),
        position=_POSITIONS.get(media.slotinpod, "any"),
    )


def _suits(request: BidRequest, imp: Imp, campaign: OfferedCampaign, in_pod: bool) -> bool:
    """Tell whether the campaign may be offered for the impression (see the module's text)."""
    if not any(_fits(imp, campaign, medium, in_pod) for medium in campaign.media):
        return False
    if any(is_among(category, (*request.bcat, *imp.bcat)) for category in campaign.categories):
        return False
    if request.acat and not all(is_among(category, request.acat) for category in campaign.categories):
        return False
    return not is_under(campaign.advertiser_domain or "", request.badv)


def _fits(imp: Imp, campaign: OfferedCampaign, medium: Media, in_pod: bool) -> bool:
    """Tell whether the impression takes the campaign's ad as one of this medium, whose terms it then has to meet."""
    timed = {"video": imp.video, "audio": imp.audio}.get(medium)
    if medium not in imp.media_types() or (in_pod and timed is not imp.media()):
        return False
    if medium == "banner" and imp.banner is not None:
        asked = imp.banner.sizes()
        if asked and campaign.sizes and not set(asked).intersection(campaign.sizes):
            return False
    if timed is not None and not _lasts(timed, campaign.duration_s):
        return False
    floor = _floor(imp, timed, campaign.duration_s)
    if floor <= 0:
        return True
    return campaign.cpm is not None and campaign.cpm >= floor and campaign.currency == imp.bidfloorcur


def _lasts(media: Video, seconds: Decimal | None) -> bool:
    limits = media.seconds()
    if seconds is None:
        return limits is None and media.poddur is None
    if media.rqddurs:
        return seconds in media.rqddurs
    low, high = limits or (0, None)
    return (
        low <= seconds and (high is None or seconds <= high) and (not media.poddur or seconds <= media.poddur)
    )


def _floor(imp: Imp, media: Video | None, seconds: Decimal | None) -> Decimal:
    """The floor in CPM: by the second, else by the range of durations, else the impression's own."""
    if media is not None and seconds is not None:
        if media.mincpmpersec is not None:
            return media.mincpmpersec * seconds
        for floor in media.durfloors:
            if (floor.mindur or 0) <= seconds and (floor.maxdur is None or seconds <= floor.maxdur):
                return floor.bidfloor
    return imp.bidfloor


def _currency(imps: Sequence[Imp]) -> str | None:
    """What the floors are in; None where there is none."""
    currencies = [imp.bidfloorcur for imp in imps if _has_floor(imp)]
    if len(set(currencies)) > 1:
        named = ", ".join(dict.fromkeys(currencies))
        raise BadOpenRtb(
            "imp",
            f"impression {imps[0].id} and those with it have floors in {named}, which cannot be compared",
        )
    return currencies[0] if currencies else None


def _has_floor(imp: Imp) -> bool:
    media = imp.media()
    floors = () if media is None else (media.mincpmpersec, *(floor.bidfloor for floor in media.durfloors))
    return any((imp.bidfloor, *floors))


def _channel(request: BidRequest) -> tuple[str, Channel | None]:
    for kind, channel in (("app", request.app), ("site", request.site), ("dooh", request.dooh)):
        if channel is not None:
            return kind, channel
    return "", None


def _user_id(request: BidRequest) -> str | None:
    user = request.user
    if user is None:
        return None
    return user.id or user.buyeruid or _extended(user.extended(), {_PERSON})


def _device_id(request: BidRequest) -> str | None:
    device = request.device
    if device is not None:
        # An operating system without consent hands out zeros instead of an identifier.
        if device.ifa.strip("0-"):
            return device.ifa
        for name in _DEVICE_HASHES:
            value: str = getattr(device, name)
            if value:
                return value
    return None if request.user is None else _extended(request.user.extended(), {_BROWSER, _APP})


def _extended(eids: Sequence[Eid], types: set[int]) -> str | None:
    for eid in eids:
        for uid in eid.uids:
            if uid.id and uid.atype in types:
                return f"{eid.source}:{uid.id}"
    return None
