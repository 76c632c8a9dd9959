"""The plan of an OpenRTB request's pods: their shape, and the fill that given bids would make.

What lives here: the way from OpenRTB to the pod fill and back to plain JSON. What never does: reading files and
printing (`pods_commands`). Values are micro-units of a CPM in the currency of the response; nothing is converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from adgovernor.contracts.money import decimal_of, micros_of
from adgovernor.contracts.openrtb_objects import (
    MEDIA_OF_BIDS,
    Bid,
    BidRequest,
    BidResponse,
    Deal,
    DurFloors,
    Imp,
    Video,
)
from adgovernor.contracts.openrtb_pods import Offer, OfferedPod, is_dynamic, offer_of, seconds_range
from adgovernor.contracts.openrtb_terms import barred
from adgovernor.core.podfill import (
    DurationFloor,
    PodCandidate,
    PodFill,
    PodSegment,
    PodSpec,
    Separation,
    fill,
    play_order,
    takes_one_ad,
)
from adgovernor.video.times import parse_time_ms

_DURATION: Final = re.compile(r"<Duration>\s*(?:<!\[CDATA\[)?\s*([0-9:.]+)\s*(?:\]\]>)?\s*</Duration>")
_NO_FLOOR: Final = -1
_MOST_FILLS: Final = 32
"""Fills that are tried at most, where groups of bids are won in part."""
_MEDIA_FILE: Final = re.compile(r"<MediaFile\b[^>]*>\s*(?:<!\[CDATA\[)?\s*([^\s<\]]+)")


@dataclass(frozen=True, slots=True)
class _Offered:
    """A bid as a candidate, or the reason why it cannot be compared at all."""

    seat: int
    """Which `seatbid` it came in."""
    bid: Bid
    candidate: PodCandidate | None
    assumed: bool
    """The bid names no duration; the longest that its impression allows is counted."""
    timed: bool = True
    """It plays for some time; a banner or native ad does not."""
    floor_micros: int = 0
    refused: str = ""


def plan(request: BidRequest, response: BidResponse | None, separation: Separation = "pod") -> dict[str, Any]:
    """Describe the pods of a request and, where bids are given, their most valuable lawful fill.

    `separation` is how far apart ads of one advertiser or category are kept where the request has no
    `poddedupe`; with it exactly what it lists is deduplicated. The result is plain JSON values.
    """
    offer = offer_of(request)
    result = _shape(request, offer)
    if response is not None:
        result.update(_filled(request, offer, response, separation))
    return result


def _shape(request: BidRequest, offer: Offer) -> dict[str, Any]:
    parts = [imp for pod in offer.pods for imp in pod.parts]
    fixed = [imp for pod in offer.pods for imp in pod.slots]
    return {
        "request_id": request.id,
        "pods": len(offer.pods),
        "kind": offer.kind,
        "slots": len(fixed) + len(offer.singles),
        "per_pod": {pod.pod_id: len(pod.imps) for pod in offer.pods},
        "structured": len(fixed),
        "dynamic": len(parts),
        "poddur": _one([_media(imp).poddur for imp in parts]),
        "maxseq": _one([_media(imp).maxseq for imp in parts]),
        "slot_seconds": _seconds(request.imp),
        "at": request.at,
        "plan": [_pod_shape(pod) for pod in offer.pods],
    }


def _pod_shape(pod: OfferedPod) -> dict[str, Any]:
    first = _media(pod.imps[0])
    return {
        "pod": pod.pod_id,
        "kind": pod.kind,
        "podid": pod.pod_id if pod.named else None,
        "podseq": first.podseq,
        "startdelay": first.startdelay,
        "slots": len(pod.slots),
        "slot_seconds": _seconds(pod.imps),
        "poddur": _one([_media(imp).poddur for imp in pod.parts]) if pod.parts else pod.total_s,
        "maxseq": _one([_media(imp).maxseq for imp in pod.parts]),
        "impressions": [
            {
                "impid": imp.id,
                "slot": None if is_dynamic(imp) else number,
                "slotinpod": _media(imp).slotinpod,
                "seconds": _seconds([imp]),
                "rqddurs": list(_media(imp).rqddurs) or None,
                "poddur": _media(imp).poddur,
                "maxseq": _media(imp).maxseq,
                "floor_cpm": _number(imp.bidfloor),
                "floor_cpm_per_second": _number(_media(imp).mincpmpersec),
            }
            for imp, number in zip(pod.imps, _numbers(pod), strict=True)
        ],
    }


@dataclass(frozen=True, slots=True)
class _FilledPod:
    """One pod with its fill."""

    pod: OfferedPod
    bids: Sequence[_Offered]
    """All bids for it; those with a candidate come first, in the order of the fill's indices."""
    outcome: PodFill
    value_micros: int
    bound_micros: int


def _filled(
    request: BidRequest, offer: Offer, response: BidResponse, separation: Separation
) -> dict[str, Any]:
    # An impression outside every pod is filled as a pod of one slot: the rules are the same.
    singles = [OfferedPod(imp.id, named=False, imps=(imp,)) for imp in offer.singles]
    pods, bound = _best(request, (*offer.pods, *singles), response, separation)
    filled: list[dict[str, Any]] = []
    losers: list[dict[str, Any]] = []
    used_ms = 0
    for one in pods:
        filled += _entries(one.pod, one.bids, one.outcome)
        losers += [_loser(one.bids[loser.index].bid, loser.reasons) for loser in one.outcome.losers]
        losers += [_loser(offered.bid, (offered.refused,)) for offered in one.bids if offered.refused]
        dynamic = {imp.id for imp in one.pod.parts}
        used_ms += sum(
            [place.candidate.duration_ms for place in one.outcome.placements if place.segment_id in dynamic]
        )
    known = {imp.id for imp in request.imp}
    losers += [_loser(bid, ("no_segment",)) for bid in response.bids() if bid.impid not in known]
    taken = {entry["impid"] for entry in filled}
    total = sum(one.value_micros for one in pods)
    return {
        "currency": response.cur,
        "fill": filled,
        "total_cpm": _number(decimal_of(total)),
        "used_s_of_dynamic": _whole(used_ms),
        "unfilled": [imp.id for imp in request.imp if imp.id not in taken],
        "losers": losers,
        "bound_cpm": _number(decimal_of(bound)),
        "proven": bound == total,
    }


def _best(
    request: BidRequest, pods: Sequence[OfferedPod], response: BidResponse, separation: Separation
) -> tuple[list[_FilledPod], int]:
    """The most valuable fill of all pods, and what no other can be worth more than.

    Bids of one group are won together or not at all (4.2.2). Each group that a fill wins in part divides the search:
    the best fill without it, and the best with all of it.
    """
    best: list[_FilledPod] | None = None
    best_value = bound = 0
    branches: list[tuple[frozenset[int], frozenset[int], int]] = [(frozenset(), frozenset(), 0)]
    for _ in range(_MOST_FILLS):
        if not branches:
            break
        whole, without, _ = branches.pop()
        found = [_fill_pod(request, pod, response, separation, whole, without) for pod in pods]
        value, most = sum(one.value_micros for one in found), sum(one.bound_micros for one in found)
        torn = _torn(response, found) - without
        if torn & whole or (best is not None and most <= best_value):
            continue  # What must be whole cannot be, or nothing better is to be had.
        if torn:
            group = min(torn)
            branches.append((whole | {group}, without, most))
            branches.append((whole, without | {group}, most))
            continue
        bound = max(bound, most)
        if best is None or value > best_value:
            best, best_value = found, value
    bound = max([bound, *(most for _, _, most in branches)])
    if best is None:
        every = frozenset(range(len(response.seatbid)))
        groups = frozenset(number for number in every if response.seatbid[number].group == 1)
        best = [_fill_pod(request, pod, response, separation, frozenset(), groups) for pod in pods]
    return best, bound


def _torn(response: BidResponse, pods: Sequence[_FilledPod]) -> frozenset[int]:
    """The groups of which some bids are won and others are not."""
    won: dict[int, int] = {}
    for one in pods:
        for place in one.outcome.placements:
            number = one.bids[place.index].seat
            won[number] = won.get(number, 0) + 1
    return frozenset(
        number
        for number, count in won.items()
        if response.seatbid[number].group == 1 and count < len(response.seatbid[number].bid)
    )


def _fill_pod(
    request: BidRequest,
    pod: OfferedPod,
    response: BidResponse,
    separation: Separation,
    whole: frozenset[int],
    without: frozenset[int],
) -> _FilledPod:
    """Fill a pod. The groups in `whole` are worth more to it than all else, those in `without` nothing."""
    names = {imp.id for imp in pod.imps}
    bids = [
        _Offered(number, bid, None, assumed=False, refused="group")
        if number in without
        else _offered(request, pod, number, seat.seat, bid, response.cur)
        for number, seat in enumerate(response.seatbid)
        for bid in seat.bid
        if bid.impid in names
    ]
    spec = _spec(request, pod, separation)
    # For one place `fill` goes by the order given; of two bids alike in price the shorter is to come first.
    by_time = takes_one_ad(spec)
    bids.sort(
        key=lambda one: (one.candidate is None, one.candidate.duration_ms if by_time and one.candidate else 0)
    )
    extra = 1 + sum(one.candidate.price_micros for one in bids if one.candidate is not None) if whole else 0
    raised = 0
    candidates: list[PodCandidate] = []
    for one in bids:
        if one.candidate is None:
            continue
        candidate = one.candidate
        # A price of 0 buys nothing in a group either: raised, it would.
        if one.seat in whole and candidate.price_micros > 0:
            raised += 1
            candidate = replace(
                candidate,
                price_micros=candidate.price_micros + extra,
                floor_micros=one.floor_micros + extra,
            )
        candidates.append(candidate)
    outcome = fill(spec, candidates)
    value = sum(micros_of(bids[place.index].bid.price) for place in outcome.placements)
    return _FilledPod(pod, bids, outcome, value, max(value, outcome.bound_micros - extra * raised))


def _entries(pod: OfferedPod, fit: Sequence[_Offered], outcome: PodFill) -> list[dict[str, Any]]:
    numbers = dict(zip([imp.id for imp in pod.imps], _numbers(pod), strict=True))
    dynamic = {imp.id for imp in pod.parts}
    entries = []
    for place in outcome.placements:
        bid = fit[place.index].bid
        # A dynamic part has no numbered slots; only a place that the buyer insisted on has a name there.
        slot = (bid.slotinpod or None) if place.segment_id in dynamic else numbers[place.segment_id]
        entries.append(
            {
                "impid": place.segment_id,
                "slot": slot,
                "bid_id": bid.id,
                "duration_s": _whole(place.candidate.duration_ms) if fit[place.index].timed else None,
                "price": _number(bid.price),
                "pod": pod.pod_id,
                "position": place.position,
                "duration_assumed": fit[place.index].assumed,
            }
        )
    return entries


def _loser(bid: Bid, reasons: Sequence[str]) -> dict[str, Any]:
    return {"bid_id": bid.id, "impid": bid.impid, "price": _number(bid.price), "reasons": list(reasons)}


def _numbers(pod: OfferedPod) -> list[int]:
    """Number the pod's impressions from 1 in play order."""
    order = [segment.segment_id for segment in play_order([_segment(pod, imp) for imp in pod.imps])]
    return [order.index(imp.id) + 1 for imp in pod.imps]


def _spec(request: BidRequest, pod: OfferedPod, separation: Separation) -> PodSpec:
    codes = {code for imp in pod.imps if (media := imp.media()) is not None for code in media.poddedupe}
    stated = bool(codes & {1, 2, 3, 4, 5})
    advertisers = categories = separation
    if stated:
        advertisers = "pod" if 1 in codes else "none"
        categories = "pod" if 2 in codes else "none"
    return PodSpec(
        segments=tuple([_segment(pod, imp) for imp in pod.imps]),
        total_ms=1000 * (pod.total_s or 0),
        repeat_creatives=stated and 3 not in codes,
        separate_media=not stated or 4 in codes,
        advertiser_separation=advertisers,
        category_separation=categories,
        blocked_categories=frozenset(request.bcat).union(*[imp.bcat for imp in pod.imps]),
        blocked_advertisers=frozenset([domain.lower() for domain in request.badv]),
    )


def _is_mixed(pod: OfferedPod) -> bool:
    """Tell whether it is an impression by itself that offers several media, each with terms of its own."""
    return not pod.named and not pod.parts and len(pod.imps[0].media_types()) > 1


def _segment(pod: OfferedPod, imp: Imp) -> PodSegment:
    # What the media of one impression ask for differs, so that each bid is judged by its own medium before the fill.
    return PodSegment(imp.id) if _is_mixed(pod) else _terms(imp, imp.media())


def _terms(imp: Imp, media: Video | None) -> PodSegment:
    """What the impression asks of an ad of this medium; the floors of video and audio do not concern the others
    (7.11.2)."""
    if media is None:
        return PodSegment(imp.id, floor_micros=micros_of(imp.bidfloor))
    return PodSegment(
        segment_id=imp.id,
        min_ms=1000 * (media.minduration or 0),
        max_ms=1000 * (media.maxduration or 0),
        durations_ms=tuple([1000 * seconds for seconds in media.rqddurs]),
        floor_micros=micros_of(imp.bidfloor),
        floor_per_second_micros=micros_of(media.mincpmpersec or Decimal(0)),
        duration_floors=_duration_floors(media.durfloors, media.mincpmpersec),
        # Higher numbers than the standard's are mere order, which the request gives anyway.
        position=media.slotinpod if media.slotinpod in (-1, 1, 2) else 0,
        total_ms=1000 * (media.poddur or 0),
        max_ads=media.maxseq or 0,
    )


def _duration_floors(floors: Sequence[DurFloors], per_second: Decimal | None) -> tuple[DurationFloor, ...]:
    if per_second == 0:
        # It is a floor that was given, and replaces the impression's, though none is left.
        return (DurationFloor(0, 0, 0),)
    return tuple(
        [
            DurationFloor(1000 * (floor.mindur or 0), 1000 * (floor.maxdur or 0), micros_of(floor.bidfloor))
            for floor in floors
        ]
    )


def _offered(
    request: BidRequest, pod: OfferedPod, number: int, seat: str, bid: Bid, currency: str
) -> _Offered:
    imp = next(imp for imp in pod.imps if imp.id == bid.impid)
    if (reason := barred(request, imp, seat, bid, currency)) is not None:
        return _Offered(number, bid, None, assumed=False, refused=reason)
    mixed = _is_mixed(pod)
    media = _medium(imp, bid) if mixed else imp.media()
    still = MEDIA_OF_BIDS.get(bid.mtype or 0) in ("banner", "native")
    if still and media is not None:
        # It plays for no time, and a place in a pod is time.
        return _Offered(number, bid, None, assumed=False, refused="media")
    deal = imp.deal(bid.dealid)
    stated = None if still else _bid_ms(bid)
    duration_ms = _longest_ms(media) if stated is None else stated
    terms = _terms(imp, media)
    if mixed and not terms.allows_duration(duration_ms):
        return _Offered(number, bid, None, assumed=False, refused="duration")
    own_floor = _deal_floor(deal, duration_ms)
    floor, floor_currency = terms.floor_for(duration_ms), imp.bidfloorcur
    if deal is not None and own_floor is not None:
        floor, floor_currency = own_floor, deal.bidfloorcur
    if floor and currency != floor_currency:
        # No rate of exchange is given, so price and floor cannot be compared.
        return _Offered(number, bid, None, assumed=False, refused="currency")
    media_file = _MEDIA_FILE.search(bid.adm)
    return _Offered(
        number,
        bid,
        PodCandidate(
            candidate_id=bid.id,
            price_micros=micros_of(bid.price),
            duration_ms=duration_ms,
            creative_id=bid.crid or bid.adid,
            media_url=media_file.group(1) if media_file is not None else "",
            advertiser_domains=tuple([domain.lower() for domain in bid.adomain]),
            categories=_categories(request, bid),
            segments=(imp.id,),
            position=bid.slotinpod if bid.slotinpod in (-1, 1, 2) else 0,
            floor_micros=floor if mixed else own_floor,
        ),
        assumed=media is not None and stated is None,
        timed=media is not None or stated is not None,
        floor_micros=floor,
    )


def _categories(request: BidRequest, bid: Bid) -> tuple[str, ...]:
    """The bid's categories as they are compared; one code means different things in two taxonomies."""
    return bid.cat if bid.cattax == request.cattax else tuple([f"{bid.cattax}:{code}" for code in bid.cat])


def _bid_ms(bid: Bid) -> int | None:
    """The duration that the bid states, or else its inline VAST."""
    seconds = bid.seconds()
    if seconds is not None:
        return 1000 * seconds
    found = _DURATION.search(bid.adm)
    duration_ms = parse_time_ms(found.group(1)) if found is not None else None
    # OpenRTB counts whole seconds, so an ad of 15.04 s is one of 15 s.
    return None if duration_ms is None else duration_ms // 1000 * 1000


def _medium(imp: Imp, bid: Bid) -> Video | None:
    """The video or audio that the bid is for; None where its ad is a banner or native."""
    if bid.mtype not in MEDIA_OF_BIDS:
        return imp.media()
    offered: dict[str, Video | None] = {"video": imp.video, "audio": imp.audio}
    return offered.get(MEDIA_OF_BIDS[bid.mtype])


def _longest_ms(media: Video | None) -> int:
    """What an ad of unknown length takes at most, so that a pod is never overrun; 0 where nothing bounds it."""
    if media is None:
        return 0
    limits = media.seconds()
    longest = limits[1] if limits is not None else None
    ends = [seconds for seconds in (longest, media.poddur) if seconds is not None]
    return 1000 * min(ends) if ends else 0


def _deal_floor(deal: Deal | None, duration_ms: int) -> int | None:
    """The deal's own floor for this duration, which replaces every other floor; None where it has none."""
    if deal is None:
        return None
    terms = PodSegment(
        deal.id,
        floor_micros=_NO_FLOOR if deal.bidfloor is None else micros_of(deal.bidfloor),
        floor_per_second_micros=micros_of(deal.mincpmpersec or Decimal(0)),
        duration_floors=_duration_floors(deal.durfloors, deal.mincpmpersec),
    )
    floor = terms.floor_for(duration_ms)
    return None if floor == _NO_FLOOR else floor


def _media(imp: Imp) -> Any:
    """The video or audio of an impression that is in a pod; such an impression always has one."""
    media = imp.media()
    assert media is not None
    return media


def _seconds(imps: Sequence[Imp]) -> int | list[int | None] | None:
    """One number where only one duration is lawful, else [shortest, longest]; None where nothing is said."""
    limits = seconds_range(imps)
    if limits is None:
        return None
    return limits[0] if limits[0] == limits[1] else [limits[0], limits[1]]


def _one(values: Sequence[int | None]) -> int | list[int | None] | None:
    """The value itself where it is the only one, else the list."""
    if not values:
        return None
    return values[0] if len(set(values)) == 1 else list(values)


def _whole(milliseconds: int) -> int | float:
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def _number(amount: Decimal | None) -> int | float | None:
    """A decimal as a JSON number. Only for show: nothing is computed from it."""
    if amount is None:
        return None
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def summary(result: Mapping[str, Any]) -> list[str]:
    """The plan as lines for a person."""
    lines = [
        f"{result['kind']}: {result['pods']} pods, {result['slots']} slots, {result['dynamic']} dynamic parts"
        + (f", auction type {result['at']}" if result["at"] is not None else "")
    ]
    if not result["plan"] and result["slot_seconds"] is not None:
        lines.append(f"  seconds {_spell(result['slot_seconds'])}")
    for pod in result["plan"]:
        lines.append(f"pod {pod['pod']}: {pod['kind']}")
        for imp in pod["impressions"]:
            what = (
                f"slot {imp['slot']}"
                if imp["slot"] is not None
                else f"up to {imp['maxseq'] or 'any number of'} ads"
            )
            room = f" in {imp['poddur']} s" if imp["poddur"] is not None else ""
            lines.append(f"  imp {imp['impid']}: {what}{room}, seconds {_spell(imp['seconds'])}")
    if "fill" in result:
        for entry in result["fill"]:
            where = f"slot {entry['slot']}" if entry["slot"] is not None else f"place {entry['position']}"
            guess = " (assumed)" if entry["duration_assumed"] else ""
            time = f", {entry['duration_s']} s{guess}" if entry["duration_s"] is not None else ""
            lines.append(
                f"  fill pod {entry['pod']} {where}: bid {entry['bid_id']}{time}, {entry['price']} CPM"
            )
        lines.extend(
            f"  out bid {loser['bid_id']}: {', '.join(loser['reasons'])}" for loser in result["losers"]
        )
        proof = "the best possible" if result["proven"] else f"at most {result['bound_cpm']} is possible"
        lines.append(f"total {result['total_cpm']} {result['currency']} CPM, {proof}")
    return lines


def _spell(seconds: int | list[int | None] | None) -> str:
    if seconds is None:
        return "any"
    if isinstance(seconds, int):
        return str(seconds)
    low, high = seconds
    return f"{low} to {high}" if high is not None else f"{low} or more"
