"""The fill of an ad pod: which ads play, where, and why every other candidate is out.

What lives here: the values of a pod (its segments, its candidates, its rules), eligibility (durations, floors,
block lists, positions) and the reasons of the losers. The search for the most valuable lawful set is in
`podsearch`, the play order in `podorder`. What never lives here: clocks, randomness, floats, money movements.

A pod is a row of *segments* (OpenRTB 2.6, section 7.6). A fixed slot takes one ad; a dynamic part takes up to
`max_ads` ads within `total_ms`; a hybrid pod has both. All prices, floors and values are in one integer unit
that the caller chooses (micro-units of a CPM, or of one impression): the fill only adds and compares them.

`fill` maximises the sum of the prices under all rules at once. Ties go to fewer ads, then to the shorter pod,
then to the candidates given first; where one ad is all that the pod can take, the highest price wins and ties
go to the candidate given first. The search is exact within `max_nodes` steps - a count, never a time, so that
the same pod gives the same fill on every machine - and reports the bound it has proved when it gives up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from adgovernor.contracts.categories import is_among
from adgovernor.contracts.errors import BadInput
from adgovernor.core.podbound import SearchProblem
from adgovernor.core.podsearch import SearchResult, search

Separation = Literal["none", "adjacent", "pod"]
"""How far apart two ads of one advertiser or category must be: free, not side by side, or once a pod."""

FIRST, LAST, ANY, FIRST_OR_LAST = 1, -1, 0, 2
"""AdCOM 1.0, list Slot Position in Pod."""

DEFAULT_MAX_NODES = 3000
"""Steps of the search. Of random pods with 12 slots and 100 candidates more than nine in ten are proved within."""

MAX_ADS = 64
"""Segments of a pod, and ads that it takes at most, whatever it says: the search goes as deep as there are ads."""

Reason = Literal[
    "no_segment",
    "duration",
    "floor",
    "no_value",
    "position",
    "blocked_category",
    "blocked_advertiser",
    "funds",
    "capped",
    "creative_repeated",
    "media_repeated",
    "advertiser_separation",
    "category_separation",
    "outbid",
]


@dataclass(frozen=True, slots=True)
class DurationFloor:
    """A floor for ads of `min_ms` to `max_ms`, both included (OpenRTB 2.6, object DurFloors); 0 = open end."""

    min_ms: int
    max_ms: int
    floor_micros: int


@dataclass(frozen=True, slots=True)
class PodSegment:
    """One fixed slot, or one dynamic part where `total_ms` is above 0.

    `durations_ms` lists the only lawful durations; `min_ms` and `max_ms` bound them (0 = open). The floor of an
    ad is, in this order: the candidate's own (its deal's), the part's per-second floor or the first duration
    floor that covers the ad, the plain floor (OpenRTB 2.6, section 7.11). `max_ads` counts for dynamic parts
    only (0 = as many as fit). `position` moves the segment to the front or the end of the pod.
    """

    segment_id: str
    min_ms: int = 0
    max_ms: int = 0
    durations_ms: tuple[int, ...] = ()
    floor_micros: int = 0
    floor_per_second_micros: int = 0
    duration_floors: tuple[DurationFloor, ...] = ()
    position: int = ANY
    total_ms: int = 0
    max_ads: int = 0

    def allows_duration(self, duration_ms: int) -> bool:
        """Tell whether an ad of this length may play here; 0 is an unknown length and fits only where any does."""
        if self.durations_ms and duration_ms not in self.durations_ms:
            return False
        if duration_ms <= 0:
            return not (self.min_ms or self.max_ms or self.total_ms)
        if duration_ms < self.min_ms or (self.max_ms and duration_ms > self.max_ms):
            return False
        return not self.total_ms or duration_ms <= self.total_ms

    def floor_for(self, duration_ms: int) -> int:
        """Give the least price of an ad of this length, without a deal."""
        if self.floor_per_second_micros:
            # Rounded up: a price below the exact floor must not pass.
            return -(-self.floor_per_second_micros * duration_ms // 1000)
        for floor in self.duration_floors:
            if floor.min_ms <= duration_ms and (not floor.max_ms or duration_ms <= floor.max_ms):
                return floor.floor_micros
        return self.floor_micros


@dataclass(frozen=True, slots=True)
class PodNeighbour:
    """The ad that plays just before or after the pod in the stream."""

    advertiser_domains: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod and its rules.

    `max_ads` and `total_ms` bound the whole pod (0 = no bound), beside the bounds of its segments.
    `caps_left` says how many ads more a cap key may take in this pod, `available_micros` how much money a fund
    has for it; keys that are not listed are free. Domains are compared as given: lower-case them at the edge. A
    blocked domain blocks its subdomains, a blocked `IAB7` blocks `IAB7-3`.
    """

    segments: tuple[PodSegment, ...]
    max_ads: int = 0
    total_ms: int = 0
    repeat_creatives: bool = False
    separate_media: bool = False
    advertiser_separation: Separation = "pod"
    category_separation: Separation = "pod"
    before: PodNeighbour | None = None
    after: PodNeighbour | None = None
    blocked_categories: frozenset[str] = frozenset()
    blocked_advertisers: frozenset[str] = frozenset()
    caps_left: Mapping[str, int] = field(default_factory=dict)
    available_micros: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodCandidate:
    """One ad that may play once in the pod.

    `segments` names the only segments it may play in (none = any). `position` is what the buyer insists on.
    `floor_micros` is the floor of its deal and replaces the segment's. `charge_micros` is what each of its
    `funds` pays when it plays; `None` = its price. An empty creative id or media URL is never a repetition.
    """

    candidate_id: str
    price_micros: int
    duration_ms: int
    creative_id: str = ""
    media_url: str = ""
    advertiser_domains: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    position: int = ANY
    floor_micros: int | None = None
    cap_keys: tuple[str, ...] = ()
    funds: tuple[str, ...] = ()
    charge_micros: int | None = None

    @property
    def charge(self) -> int:
        """Give what each of its funds pays when it plays."""
        return self.price_micros if self.charge_micros is None else self.charge_micros


@dataclass(frozen=True, slots=True)
class Placement:
    """An ad in the pod. `index` is its place among the candidates given, `position` its place in play from 1."""

    segment_id: str
    position: int
    index: int
    candidate: PodCandidate


@dataclass(frozen=True, slots=True)
class Loser:
    """A candidate that does not play, with every rule that keeps it out beside the winners."""

    index: int
    candidate: PodCandidate
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class PodFill:
    """The fill: placements in play order, losers in the order given.

    `value_micros` is the sum of the prices and `bound_micros` a proven upper bound of any lawful fill; they are
    equal where `proven`. `nodes` is the number of search steps taken.
    """

    placements: tuple[Placement, ...]
    losers: tuple[Loser, ...]
    value_micros: int
    bound_micros: int
    proven: bool
    nodes: int

    @property
    def duration_ms(self) -> int:
        """Give the playing time of the filled pod."""
        return sum(placement.candidate.duration_ms for placement in self.placements)


def fill(pod: PodSpec, candidates: Sequence[PodCandidate], *, max_nodes: int = DEFAULT_MAX_NODES) -> PodFill:
    """Fill the pod with the most valuable lawful set of candidates. Pure, and deterministic to the bit.

    Raises:
        BadInput: the pod has more than `MAX_ADS` segments.
    """
    if len(pod.segments) > MAX_ADS:
        raise BadInput(
            f"pod: {len(pod.segments)} segments; at most {MAX_ADS} are filled at once, split the pod"
        )
    in_play = play_order(pod.segments)
    masks, refused = _eligibility(pod, in_play, candidates)
    if takes_one_ad(pod):
        result = _best_single(pod, candidates, masks)
    else:
        result = search(_problem(pod, in_play, candidates, masks), max_nodes)
    return _report(pod, in_play, candidates, refused, result)


def takes_one_ad(pod: PodSpec) -> bool:
    """Tell whether one ad is all that the pod can take."""
    if len(pod.segments) != 1:
        return False
    segment = pod.segments[0]
    return not segment.total_ms or segment.max_ads == 1 or pod.max_ads == 1


def _best_single(pod: PodSpec, candidates: Sequence[PodCandidate], masks: Sequence[int]) -> SearchResult:
    """Take the dearest eligible ad that suits the neighbours: for one place there is nothing to search."""
    best, best_price = -1, 0
    for index, mask in enumerate(masks):
        candidate = candidates[index]
        if mask and candidate.price_micros > best_price and not _neighbour_reasons(pod, candidate):
            best, best_price = index, candidate.price_micros
    placed = () if best < 0 else ((0, best),)
    return SearchResult(placed, best_price, best_price, True, 0)


def play_order(segments: Sequence[PodSegment]) -> list[PodSegment]:
    """Put guaranteed firsts at the front and guaranteed lasts at the end; the others keep their order.

    A segment that is guaranteed "first or last" goes to the front while that place is free, else to the end.
    """
    front = [segment for segment in segments if segment.position == FIRST]
    back = [segment for segment in segments if segment.position == LAST]
    middle: list[PodSegment] = []
    for segment in segments:
        if segment.position == FIRST_OR_LAST:
            (back if front else front).append(segment)
        elif segment.position not in (FIRST, LAST):
            middle.append(segment)
    return front + middle + back


def _eligibility(
    pod: PodSpec, segments: Sequence[PodSegment], candidates: Sequence[PodCandidate]
) -> tuple[list[int], dict[int, tuple[Reason, ...]]]:
    """Give each candidate the bit mask of the segments it may play in, and the reasons of those with none."""
    # Segments with one rule are judged together: most pods repeat one slot many times.
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, segment in enumerate(segments):
        rule = (
            segment.min_ms,
            segment.max_ms,
            segment.durations_ms,
            segment.floor_micros,
            segment.floor_per_second_micros,
            segment.duration_floors,
            segment.total_ms,
        )
        groups.setdefault(rule, []).append(place)
    judged = [(segments[places[0]], sum(1 << place for place in places)) for places in groups.values()]
    by_name: dict[str, int] = {}
    for place, segment in enumerate(segments):
        by_name[segment.segment_id] = by_name.get(segment.segment_id, 0) | 1 << place
    # What a duration allows does not depend on the candidate: (mask, floor) pairs per duration.
    allowed: dict[int, list[tuple[int, int]]] = {}
    screened = bool(
        pod.blocked_categories or pod.blocked_advertisers or pod.available_micros or pod.caps_left
    )
    total_ms = pod.total_ms
    masks: list[int] = []
    refused: dict[int, tuple[Reason, ...]] = {}
    for index, candidate in enumerate(candidates):
        duration, price, own_floor = candidate.duration_ms, candidate.price_micros, candidate.floor_micros
        choices = allowed.get(duration)
        if choices is None:
            fits = not total_ms or 0 < duration <= total_ms
            choices = [
                (mask, segment.floor_for(duration))
                for segment, mask in judged
                if fits and segment.allows_duration(duration)
            ]
            allowed[duration] = choices
        mask = 0
        for group_mask, floor in choices:
            if price >= (floor if own_floor is None else own_floor):
                mask |= group_mask
        if candidate.segments:
            named = 0
            for name in candidate.segments:
                named |= by_name.get(name, 0)
            mask &= named
        if mask and price > 0 and not (screened and _screen(pod, candidate)):
            masks.append(mask)
        else:
            masks.append(0)
            refused[index] = _refusals(pod, candidate, choices, by_name)
    return masks, refused


def _screen(pod: PodSpec, candidate: PodCandidate) -> list[Reason]:
    """Judge what holds for a candidate alone, wherever it would play."""
    reasons: list[Reason] = []
    if pod.blocked_categories and any(
        is_among(category, pod.blocked_categories) for category in candidate.categories
    ):
        reasons.append("blocked_category")
    if pod.blocked_advertisers and any(
        _domain_blocked(domain, pod.blocked_advertisers) for domain in candidate.advertiser_domains
    ):
        reasons.append("blocked_advertiser")
    if candidate.cap_keys and any(pod.caps_left.get(key, 1) < 1 for key in candidate.cap_keys):
        reasons.append("capped")
    charge = candidate.charge
    if candidate.funds and any(pod.available_micros.get(fund, charge) < charge for fund in candidate.funds):
        reasons.append("funds")
    return reasons


def _domain_blocked(domain: str, blocked: frozenset[str]) -> bool:
    while domain:
        if domain in blocked:
            return True
        domain = domain.partition(".")[2]
    return False


def _refusals(
    pod: PodSpec, candidate: PodCandidate, choices: Sequence[tuple[int, int]], by_name: Mapping[str, int]
) -> tuple[Reason, ...]:
    """Say why a candidate may play nowhere in the pod."""
    reasons: list[Reason] = []
    named = -1
    if candidate.segments:
        named = 0
        for name in candidate.segments:
            named |= by_name.get(name, 0)
    if not named:
        reasons.append("no_segment")
    else:
        floors = [floor for mask, floor in choices if mask & named]
        if not floors:
            reasons.append("duration")
        elif candidate.floor_micros is not None:
            if candidate.price_micros < candidate.floor_micros:
                reasons.append("floor")
        elif candidate.price_micros < min(floors):
            reasons.append("floor")
    if candidate.price_micros <= 0:
        reasons.append("no_value")
    reasons.extend(_screen(pod, candidate))
    return tuple(reasons)


def _neighbour_reasons(pod: PodSpec, candidate: PodCandidate) -> list[Reason]:
    """Judge a candidate that would play alone between the pod's neighbours."""
    reasons: list[Reason] = []
    for neighbour in (pod.before, pod.after):
        if neighbour is None:
            continue
        if (
            pod.advertiser_separation != "none"
            and "advertiser_separation" not in reasons
            and not set(candidate.advertiser_domains).isdisjoint(neighbour.advertiser_domains)
        ):
            reasons.append("advertiser_separation")
        if (
            pod.category_separation != "none"
            and "category_separation" not in reasons
            and not set(candidate.categories).isdisjoint(neighbour.categories)
        ):
            reasons.append("category_separation")
    return reasons


def _problem(
    pod: PodSpec, segments: Sequence[PodSegment], candidates: Sequence[PodCandidate], masks: Sequence[int]
) -> SearchProblem:
    """Put the pod into the search's terms: eligible ads, the keys they may not share, and their limits."""
    indices = [index for index, mask in enumerate(masks) if mask]
    ads = [candidates[index] for index in indices]
    ordered = (
        pod.advertiser_separation == "adjacent"
        or pod.category_separation == "adjacent"
        or pod.before is not None
        or pod.after is not None
        or any(candidate.position for candidate in candidates)
    )
    limits: dict[str, int] = {}
    limited = [_draws(pod, ad, limits) for ad in ads]
    # A part that says no number takes as many ads as fit, up to what the whole pod may take.
    room = sum([(segment.max_ads or MAX_ADS + 1) if segment.total_ms else 1 for segment in segments])
    max_ads = pod.max_ads if room <= MAX_ADS else min(pod.max_ads or MAX_ADS, MAX_ADS)
    return SearchProblem(
        indices=indices,
        prices=[ad.price_micros for ad in ads],
        durations=[ad.duration_ms for ad in ads],
        masks=[masks[index] for index in indices],
        positions=[ad.position for ad in ads],
        exclusive=[_exclusive_keys(pod, ad) for ad in ads],
        beside=[_beside_keys(pod, ad) if ordered else () for ad in ads],
        limited=limited,
        limits=limits,
        segment_total_ms=[segment.total_ms for segment in segments],
        segment_max_ads=[segment.max_ads if segment.total_ms else 1 for segment in segments],
        max_ads=max_ads,
        total_ms=pod.total_ms,
        ordered=ordered,
        before=_neighbour_keys(pod.before),
        after=_neighbour_keys(pod.after),
    )


def _exclusive_keys(pod: PodSpec, ad: PodCandidate) -> tuple[str, ...]:
    """The keys of which the pod takes one ad."""
    keys: list[str] = []
    if ad.creative_id and not pod.repeat_creatives:
        keys.append("creative:" + ad.creative_id)
    if ad.media_url and pod.separate_media:
        keys.append("media:" + ad.media_url)
    if pod.advertiser_separation == "pod":
        keys.extend(["domain:" + domain for domain in ad.advertiser_domains])
    if pod.category_separation == "pod":
        keys.extend(["category:" + category for category in ad.categories])
    if ad.position in (FIRST, LAST):
        # Only one ad can be the first: two that insist on it exclude each other.
        keys.append(f"position:{ad.position}")
    return tuple(keys)


def _beside_keys(pod: PodSpec, ad: PodCandidate) -> tuple[str, ...]:
    """The keys that two ads side by side may not share."""
    keys: list[str] = []
    if pod.advertiser_separation != "none":
        keys.extend(["domain:" + domain for domain in ad.advertiser_domains])
    if pod.category_separation != "none":
        keys.extend(["category:" + category for category in ad.categories])
    return tuple(keys)


def _draws(pod: PodSpec, ad: PodCandidate, limits: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """What the ad takes of the pod's caps and funds, which are noted in `limits`."""
    uses: list[tuple[str, int]] = []
    for key in ad.cap_keys:
        left = pod.caps_left.get(key)
        if left is not None:
            limits["cap:" + key] = left
            uses.append(("cap:" + key, 1))
    for fund in ad.funds:
        available = pod.available_micros.get(fund)
        if available is not None:
            limits["fund:" + fund] = available
            uses.append(("fund:" + fund, ad.charge))
    return tuple(uses)


def _neighbour_keys(neighbour: PodNeighbour | None) -> frozenset[str]:
    if neighbour is None:
        return frozenset()
    return frozenset(
        ["domain:" + domain for domain in neighbour.advertiser_domains]
        + ["category:" + category for category in neighbour.categories]
    )


def _report(
    pod: PodSpec,
    segments: Sequence[PodSegment],
    candidates: Sequence[PodCandidate],
    refused: Mapping[int, tuple[Reason, ...]],
    result: SearchResult,
) -> PodFill:
    """Name the placements and give every loser its reasons."""
    placements = tuple(
        Placement(segments[place].segment_id, position, index, candidates[index])
        for position, (place, index) in enumerate(result.placed, start=1)
    )
    taken = {placement.index for placement in placements}
    winners = [placement.candidate for placement in placements]
    beside = _Beside(pod, winners)
    losers = tuple(
        [
            Loser(index, candidate, refused.get(index) or beside.reasons(candidate))
            for index, candidate in enumerate(candidates)
            if index not in taken
        ]
    )
    return PodFill(placements, losers, result.value, result.bound, result.proven, result.nodes)


class _Beside:
    """What the winners have taken, so that each loser is judged in one look."""

    __slots__ = (
        "_caps",
        "_categories",
        "_creatives",
        "_domains",
        "_first",
        "_funds",
        "_last",
        "_media",
        "_pod",
    )

    def __init__(self, pod: PodSpec, winners: Sequence[PodCandidate]) -> None:
        self._pod = pod
        self._creatives = set() if pod.repeat_creatives else {ad.creative_id for ad in winners} - {""}
        self._media = {ad.media_url for ad in winners} - {""} if pod.separate_media else set()
        self._domains = (
            {domain for ad in winners for domain in ad.advertiser_domains}
            if pod.advertiser_separation != "none"
            else set()
        )
        self._categories = (
            {category for ad in winners for category in ad.categories}
            if pod.category_separation != "none"
            else set()
        )
        self._first = any(ad.position == FIRST for ad in winners)
        self._last = any(ad.position == LAST for ad in winners)
        self._caps = dict(pod.caps_left)
        self._funds = dict(pod.available_micros)
        for ad in winners:
            for key in ad.cap_keys:
                if key in self._caps:
                    self._caps[key] -= 1
            for fund in ad.funds:
                if fund in self._funds:
                    self._funds[fund] -= ad.charge

    def reasons(self, ad: PodCandidate) -> tuple[Reason, ...]:
        """Name the rules that the candidate would break beside the winners; `outbid` where there are none."""
        reasons: list[Reason] = []
        if ad.creative_id in self._creatives:
            reasons.append("creative_repeated")
        if ad.media_url in self._media:
            reasons.append("media_repeated")
        if self._domains and not self._domains.isdisjoint(ad.advertiser_domains):
            reasons.append("advertiser_separation")
        if self._categories and not self._categories.isdisjoint(ad.categories):
            reasons.append("category_separation")
        if (ad.position == FIRST and self._first) or (ad.position == LAST and self._last):
            reasons.append("position")
        if ad.cap_keys and any(self._caps.get(key, 1) < 1 for key in ad.cap_keys):
            reasons.append("capped")
        if any(self._funds.get(fund, ad.charge) < ad.charge for fund in ad.funds):
            reasons.append("funds")
        if self._pod.before is not None or self._pod.after is not None:
            reasons.extend(reason for reason in _neighbour_reasons(self._pod, ad) if reason not in reasons)
        return tuple(reasons) or ("outbid",)
