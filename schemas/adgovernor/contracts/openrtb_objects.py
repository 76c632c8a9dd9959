"""The objects of OpenRTB 2.5 and 2.6 that this project reads: bid requests and bid responses.

What lives here: tolerant models, and what can be told from one object. What never does: reading documents and the
refusal of requests that contradict themselves (`openrtb`), pods (`openrtb_pods`) and who may bid (`openrtb_terms`).

Tolerant means: unknown fields are ignored, null is the same as absent, a number may stand where the standard
wants a text and the other way round. Prices stay decimal and exact. Section numbers are those of OpenRTB 2.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

DEDUPLICATIONS: Final = range(1, 6)
NO_DEDUPLICATION: Final = 5
"""AdCOM 1.0, list Pod Deduplication Settings: 1 adomain, 2 category, 3 creative, 4 media file, 5 none."""

Integer = Annotated[int, Field(ge=-(2**31), lt=2**31)]
"""OpenRTB's integers have 32 bits."""

Cpm = Annotated[Decimal, Field(ge=-(10**9), le=10**9)]
"""A price or floor for a thousand impressions; past a thousand million it is no price in any currency."""

Currency = Annotated[str, StringConstraints(to_upper=True)]
"""ISO 4217; two that differ in case alone are the same."""

MEDIA_OF_BIDS: Final = {1: "banner", 2: "video", 3: "audio", 4: "native"}
"""AdCOM 1.0 and `mtype` (4.2.3): what a bid's markup is."""


class Loose(BaseModel):
    """An object of which only the fields named are read."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value


class DurFloors(Loose):
    """A floor for a range of durations (3.2.35); a bound that is absent is open."""

    mindur: Integer | None = None
    maxdur: Integer | None = None
    bidfloor: Cpm = Decimal(0)


class Deal(Loose):
    """A deal and its own floor (3.2.12): at most one of the three forms."""

    id: str = ""
    bidfloor: Cpm | None = None
    bidfloorcur: Currency = "USD"
    mincpmpersec: Cpm | None = None
    durfloors: tuple[DurFloors, ...] = ()
    wseat: tuple[str, ...] = ()
    wadomain: tuple[str, ...] = ()


class Pmp(Loose):
    """The private marketplace of an impression (3.2.11)."""

    private_auction: Integer = 0
    """1: only the deals may be bid for."""
    deals: tuple[Deal, ...] = ()


class Format(Loose):
    """One size of a banner (3.2.10)."""

    w: Integer | None = None
    h: Integer | None = None


class Banner(Loose):
    """A display impression (3.2.6)."""

    w: Integer | None = None
    h: Integer | None = None
    format: tuple[Format, ...] = ()
    battr: tuple[Integer, ...] = ()

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every size that is asked for, as (width, height) in device-independent pixels."""
        found = [(self.w, self.h), *((size.w, size.h) for size in self.format)]
        return tuple((w, h) for w, h in found if w is not None and h is not None)


class Video(Loose):
    """A video or audio impression (3.2.7, 3.2.8); all times are seconds."""

    mimes: tuple[str, ...] | None = None
    """The standard requires it, but many test documents leave it out."""
    minduration: Integer | None = None
    maxduration: Integer | None = None
    rqddurs: tuple[Integer, ...] = ()
    startdelay: Integer | None = None
    podid: str = ""
    podseq: Integer = 0
    slotinpod: Integer = 0
    poddur: Integer | None = None
    maxseq: Integer | None = None
    mincpmpersec: Cpm | None = None
    durfloors: tuple[DurFloors, ...] = ()
    poddedupe: tuple[Integer, ...] = ()
    sequence: Integer | None = None
    """Where 2.5 numbered the impressions of one request; replaced by `slotinpod`."""
    minbitrate: Integer | None = None
    maxbitrate: Integer | None = None
    protocols: tuple[Integer, ...] = ()
    """What is supported (AdCOM 1.0, list Creative Subtypes - Audio/Video); empty: nothing is said."""
    battr: tuple[Integer, ...] = ()
    """Creative attributes that are blocked (AdCOM 1.0, list Creative Attributes)."""
    w: Integer | None = None
    h: Integer | None = None

    def seconds(self) -> tuple[int, int | None] | None:
        """The shortest and the longest lawful duration (None = open), or None where nothing bounds it."""
        if self.rqddurs:
            return min(self.rqddurs), max(self.rqddurs)
        if self.minduration is None and not self.maxduration:
            return None
        return self.minduration or 0, self.maxduration or None


class Native(Loose):
    """A native impression (3.2.9)."""

    battr: tuple[Integer, ...] = ()


class Imp(Loose):
    """One impression that is offered (3.2.4)."""

    id: str
    banner: Banner | None = None
    video: Video | None = None
    audio: Video | None = None
    native: Native | None = None
    pmp: Pmp | None = None
    tagid: str = ""
    bidfloor: Cpm = Decimal(0)
    bidfloorcur: Currency = "USD"
    bcat: tuple[str, ...] = ()
    """Not in the standard, but sent by some exchanges: categories blocked for this impression alone."""

    def media(self) -> Video | None:
        """What can be part of a pod: the video, or else the audio."""
        return self.video or self.audio

    def media_types(self) -> tuple[str, ...]:
        """The media that are offered: banner, video, audio, native."""
        offered = (
            ("banner", self.banner),
            ("video", self.video),
            ("audio", self.audio),
            ("native", self.native),
        )
        return tuple(name for name, value in offered if value is not None)

    def deal(self, deal_id: str) -> Deal | None:
        """The deal of that id, where the impression has it."""
        if not deal_id or self.pmp is None:
            return None
        return next((deal for deal in self.pmp.deals if deal.id == deal_id), None)


class Publisher(Loose):
    """Who owns the site or app (3.2.15)."""

    id: str = ""
    name: str = ""


class Channel(Loose):
    """A site, an app or an out-of-home screen (3.2.13, 3.2.14, 3.2.32)."""

    id: str = ""
    name: str = ""
    domain: str = ""
    page: str = ""
    bundle: str = ""
    publisher: Publisher | None = None


class Device(Loose):
    """The device (3.2.18): its identifiers only."""

    ifa: str = ""
    didsha1: str = ""
    didmd5: str = ""
    dpidsha1: str = ""
    dpidmd5: str = ""
    macsha1: str = ""
    macmd5: str = ""
    ip: str = ""
    ipv6: str = ""
    ua: str = ""


class Uid(Loose):
    """One extended identifier (3.2.28)."""

    id: str = ""
    atype: Integer | None = None


class Eid(Loose):
    """The extended identifiers of one source (3.2.27)."""

    source: str = ""
    uids: tuple[Uid, ...] = ()


class UserExt(Loose):
    """Where OpenRTB 2.5 kept the extended identifiers."""

    eids: tuple[Eid, ...] = ()


class User(Loose):
    """The person (3.2.20): identifiers only."""

    id: str = ""
    buyeruid: str = ""
    eids: tuple[Eid, ...] = ()
    ext: UserExt | None = None

    def extended(self) -> tuple[Eid, ...]:
        """The extended identifiers, wherever this version of the standard keeps them."""
        return self.eids or (self.ext.eids if self.ext is not None else ())


class PodConfigPod(Loose):
    """One pod of Prebid's `podconfig`."""

    podid: str
    adpoddurationsec: Integer


class PodConfig(Loose):
    """Prebid's way to ask for pods: their lengths, and the durations that their slots may have."""

    durationrangesec: tuple[Integer, ...] = ()
    requireexactduration: bool = False
    pods: tuple[PodConfigPod, ...] = ()


class BidRequest(Loose):
    """A bid request (3.2.1). `podconfig` and `video` are Prebid's; its slots are then in `imp` as well."""

    id: str = ""
    imp: tuple[Imp, ...] = ()
    site: Channel | None = None
    app: Channel | None = None
    dooh: Channel | None = None
    device: Device | None = None
    user: User | None = None
    at: Integer | None = None
    """1 first price, 2 second price plus."""
    tmax: Integer | None = None
    cur: tuple[Currency, ...] = ()
    wseat: tuple[str, ...] = ()
    bseat: tuple[str, ...] = ()
    acat: tuple[str, ...] = ()
    bcat: tuple[str, ...] = ()
    cattax: Integer = 1
    """The taxonomy of `acat` and `bcat` (AdCOM 1.0, list Category Taxonomies)."""
    badv: tuple[str, ...] = ()
    bapp: tuple[str, ...] = ()
    podconfig: PodConfig | None = None
    video: Video | None = None


class BidExtVideo(Loose):
    duration: Integer | None = None


class BidExtPrebid(Loose):
    video: BidExtVideo | None = None


class BidExt(Loose):
    """Where bidders put a duration that has no field in OpenRTB 2.5."""

    duration: Integer | None = None
    prebid: BidExtPrebid | None = None


class Bid(Loose):
    """One bid (4.2.3); the price is a CPM."""

    id: str = ""
    impid: str
    price: Cpm
    adid: str = ""
    adm: str = ""
    adomain: tuple[str, ...] = ()
    bundle: str = ""
    """The app that is advertised."""
    cat: tuple[str, ...] = ()
    cattax: Integer = 1
    cid: str = ""
    crid: str = ""
    dealid: str = ""
    dur: Integer | None = None
    slotinpod: Integer = 0
    mtype: Integer | None = None
    attr: tuple[Integer, ...] = ()
    protocol: Integer | None = None
    ext: BidExt | None = None

    def seconds(self) -> int | None:
        """The duration that the bid states: `dur`, else what 2.5 bidders put into `ext`."""
        if self.dur is not None or self.ext is None:
            return self.dur
        if self.ext.duration is not None:
            return self.ext.duration
        video = self.ext.prebid.video if self.ext.prebid is not None else None
        return video.duration if video is not None else None


class SeatBid(Loose):
    """The bids of one seat (4.2.2)."""

    bid: tuple[Bid, ...] = ()
    seat: str = ""
    group: Integer = 0
    """1: its bids are won together or not at all."""


class BidResponse(Loose):
    """A bid response (4.2.1)."""

    id: str = ""
    seatbid: tuple[SeatBid, ...] = ()
    cur: Currency = "USD"

    def bids(self) -> tuple[Bid, ...]:
        """All bids, in the order given."""
        return tuple(bid for seat in self.seatbid for bid in seat.bid)
