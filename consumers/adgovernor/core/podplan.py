"""Several slots at once: from a request's slots and pod to the fill, under caps and leases.

The fill (`podfill`) knows a pod's own rules. Two more bear on it here: money, as one fund for each campaign and
day, and caps, where each ad of the pod counts for the caps of the others. Caps that are plain limits are the search's;
of the others (`podcaps`) each one that a filled set breaks divides the search in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from adgovernor.contracts.money import price_of_cpm, sayable
from adgovernor.contracts.pod_requests import PodRules, PodSpec, SlotSpec
from adgovernor.contracts.requests import Candidate
from adgovernor.core import caps, podcaps
from adgovernor.core.breaks import USUAL_ADS, PodAsk
from adgovernor.core.history import Person
from adgovernor.core.leases import CampaignShare
from adgovernor.core.podfill import (
    ANY,
    FIRST,
    FIRST_OR_LAST,
    LAST,
    DurationFloor,
    PodCandidate,
    PodFill,
    PodNeighbour,
    PodSegment,
    Separation,
    fill,
)
from adgovernor.core.podfill import PodSpec as FillSpec

_CODES: Final = {"funds": "no_lease", "no_segment": "duration", "no_value": "floor"}
"""Reasons of the fill that requests know under another name."""
_PLACES: Final = {"any": ANY, "first": FIRST, "last": LAST, "first_or_last": FIRST_OR_LAST}
MOST_FILLS: Final = 8
"""Times that one pod is filled at most, where caps bear on ads of campaigns without them."""


class Entry(Protocol):
    """What of a candidate the plan needs."""

    candidate: Candidate
    day: int
    price: int
    value: int
    reasons: list[dict[str, Any]] | None
    share: CampaignShare | None

    @property
    def categories(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Filled:
    """One pod's plan. Slots count from 0 in the pod, entries are indices."""

    slots: list[tuple[int, int | None]]
    """Every slot with its entry, None where it stays empty."""
    in_play: list[int]
    """The filled slots in play order."""
    part_of: dict[int, int]
    """The dynamic part that each of its slots is in, where there are several."""
    bound_micros: int | None
    """What no other fill can be worth more than, where the search ended before it had proved this one the best."""


def plan(
    ask: PodAsk,
    rules: PodRules,
    most_ads: int,
    entries: Sequence[Entry],
    person: Person,
    context: caps.Context,
    around: tuple[PodNeighbour | None, PodNeighbour | None],
) -> Filled:
    """Which entry plays in which slot.

    Entries that lose get their reasons; those that come with reasons are not considered.
    """
    considered = [index for index, entry in enumerate(entries) if entry.reasons is None]
    fit = [entries[index] for index in considered]
    spec = _spec(ask, rules, most_ads, fit, around)
    result, playing, bound = _best(spec, fit, podcaps.limits(fit, person, context))
    chosen = [considered[playing[placement.index]] for placement in result.placements]
    taken = _taken(entries, chosen, context)
    for index in set(range(len(fit))).difference(playing):
        fit[index].reasons = podcaps.reasons(fit[index], person, context, taken)
    for loser in result.losers:
        entry = fit[playing[loser.index]]
        found: list[dict[str, Any]] = []
        for code in dict.fromkeys(_CODES.get(reason, reason) for reason in loser.reasons):
            if code == "capped":
                found += podcaps.reasons(entry, person, context, taken) or ()
            else:
                found.append({"code": code})
        # A missing lease comes last, as for a single slot: it is what more money would mend.
        entry.reasons = sorted(found, key=lambda reason: reason["code"] == "no_lease") or None
    placed = [
        (int(placement.segment_id), index) for placement, index in zip(result.placements, chosen, strict=True)
    ]
    return _filled(ask, placed, sayable(bound) if bound > result.value_micros else None)


def _best(
    spec: FillSpec, entries: Sequence[Entry], limits: Sequence[podcaps.Limit]
) -> tuple[PodFill, list[int], int]:
    """The best fill, the entries that it was chosen from, and what no other can be worth more than.

    Branches on the caps that a fill breaks, those first that leave the bearers out: so there is a lawful fill after as
    many steps as such caps, and the most valuable one in the end.
    """
    always = [limit for limit in limits if limit.is_plain]
    mixed = [limit for limit in limits if not limit.is_plain]
    best: tuple[PodFill, list[int]] | None = None
    bound = 0
    branches: list[tuple[list[podcaps.Limit], frozenset[int], int]] = [(always, frozenset(), 0)]
    for _ in range(MOST_FILLS):
        if not branches:
            break
        strict, without, _ = branches.pop()
        result, playing = _fill(spec, entries, strict, without)
        if best is not None and result.bound_micros < best[0].value_micros:
            continue
        chosen = {playing[placement.index] for placement in result.placements}
        broken = next((limit for limit in mixed if limit not in strict and limit.is_broken_by(chosen)), None)
        if broken is None:
            bound = max(bound, result.bound_micros)
            if best is None or _worth(result) > _worth(best[0]):
                best = result, playing
        else:
            branches.append(([*strict, broken], without, result.bound_micros))
            branches.append((strict, without | broken.bearers, result.bound_micros))
    bound = max([bound, *(most for _, _, most in branches)])
    if best is None:
        # Without any that carries such a cap there is none to break.
        best = _fill(spec, entries, always, frozenset().union(*(limit.bearers for limit in mixed)))
    return *best, bound


def _fill(
    spec: FillSpec, entries: Sequence[Entry], limits: Sequence[podcaps.Limit], without: frozenset[int]
) -> tuple[PodFill, list[int]]:
    """The best fill under these limits without those entries, and the entries that it was chosen from."""
    keys: list[list[str]] = [[] for _ in entries]
    for limit in limits:
        for index in limit.users:
            keys[index].append(limit.name)
    playing = [index for index in range(len(entries)) if index not in without]
    candidates = [_candidate(entries[index], tuple(keys[index])) for index in playing]
    return fill(replace(spec, caps_left={limit.name: limit.left for limit in limits}), candidates), playing


def _worth(result: PodFill) -> tuple[int, int, int]:
    """The fill's own order of preference: value, then fewer ads, then less time."""
    return result.value_micros, -len(result.placements), -result.duration_ms


def keeps_apart(ask: PodAsk, rules: PodRules) -> tuple[Separation, Separation]:
    """Whether two ads of one advertiser, and of one category, are kept apart."""
    if rules.dedupe:
        free = 5 in rules.dedupe
        return (
            "pod" if 1 in rules.dedupe and not free else "none",
            "pod" if 2 in rules.dedupe and not free else "none",
        )
    parts = ask.parts
    return (
        "pod" if not parts or any(part.separate_advertisers for part in parts) else "none",
        "pod" if any(part.separate_categories for part in parts) else "none",
    )


def _spec(
    ask: PodAsk,
    rules: PodRules,
    most_ads: int,
    entries: Sequence[Entry],
    around: tuple[PodNeighbour | None, PodNeighbour | None],
) -> FillSpec:
    durations = {entry.candidate.duration_ms or 0 for entry in entries}
    segments = [_segment(str(number), slot, durations) for number, slot in enumerate(ask.slots)]
    for number, part in enumerate(ask.parts, len(segments)):
        ads = part.max_ads if part.max_ads is not None else min(USUAL_ADS, most_ads)
        segments.append(_segment(str(number), part, durations, part.total_duration_ms, ads))
    available: dict[str, int] = {}
    for entry in entries:
        share = entry.share
        assert share is not None
        available[_fund(entry)] = share.lease(entry.day)
    advertisers, categories = keeps_apart(ask, rules)
    stated = bool(rules.dedupe)
    free = 5 in rules.dedupe
    return FillSpec(
        tuple(segments),
        total_ms=rules.total_duration_ms or 0,
        repeat_creatives=stated and (free or 3 not in rules.dedupe),
        separate_media=not stated or (4 in rules.dedupe and not free),
        advertiser_separation=advertisers,
        category_separation=categories,
        before=around[0],
        after=around[1],
        blocked_categories=frozenset(rules.blocked_categories),
        blocked_advertisers=frozenset(domain.lower() for domain in rules.blocked_advertisers),
        available_micros=available,
    )


def _segment(
    name: str, place: SlotSpec | PodSpec, durations: set[int], total_ms: int = 0, max_ads: int = 0
) -> PodSegment:
    floors = tuple(
        DurationFloor(floor.min_duration_ms, floor.max_duration_ms or 0, floor.floor_micros)
        for floor in place.floors_by_duration
    )
    rate = place.floor_cpm_micros_per_second
    if rate is not None:
        # A CPM is rounded to an impression's price once and for all, so that an ad at the floor passes; an ad of
        # unknown length counts as the longest that may play here.
        longest = max([ms for ms in (place.max_duration_ms, total_ms) if ms], default=0)
        exact = [DurationFloor(ms, ms, _by_the_second(rate, ms)) for ms in sorted(durations) if ms]
        floors = (*exact, DurationFloor(0, 0, _by_the_second(rate, longest)))
    return PodSegment(
        name,
        min_ms=place.min_duration_ms or 0,
        max_ms=place.max_duration_ms or 0,
        durations_ms=tuple(place.allowed_durations_ms),
        floor_micros=place.floor_micros,
        duration_floors=floors,
        position=_PLACES[place.position],
        total_ms=total_ms,
        max_ads=max_ads,
    )


def _by_the_second(cpm_micros: int, duration_ms: int) -> int:
    return price_of_cpm(-(-cpm_micros * duration_ms // 1000))


def _fund(entry: Entry) -> str:
    return f"{entry.day}|{entry.candidate.campaign_id}"


def _candidate(entry: Entry, cap_keys: tuple[str, ...]) -> PodCandidate:
    candidate = entry.candidate
    domain = candidate.advertiser_domain
    own = candidate.in_pod
    return PodCandidate(
        candidate.campaign_id,
        entry.value,
        candidate.duration_ms or 0,
        charge_micros=entry.price,
        creative_id=candidate.creative_id,
        advertiser_domains=(domain.lower(),) if domain else (),
        categories=tuple(entry.categories),
        funds=(_fund(entry),),
        cap_keys=cap_keys,
        media_url="" if own is None else own.media_url or "",
        position=ANY if own is None else _PLACES[own.position],
        floor_micros=None if own is None else own.floor_micros,
    )


def _taken(entries: Sequence[Entry], chosen: Sequence[int], context: caps.Context) -> dict[str, int]:
    """How many of the chosen count in each scope."""
    scopes: dict[str, int] = {}
    for index in chosen:
        for scope in podcaps.scopes_of(entries[index], context):
            scopes[scope] = scopes.get(scope, 0) + 1
    return scopes


def _filled(ask: PodAsk, placed: Sequence[tuple[int, int]], bound_micros: int | None) -> Filled:
    """The plan as slots; ``placed`` has the segment and the entry of each ad in play order."""
    fixed = dynamic = len(ask.slots)
    by_slot: dict[int, int] = {}
    part_of: dict[int, int] = {}
    for segment, index in placed:
        slot = segment
        if segment >= fixed:
            # The ads of dynamic parts are numbered after the slots, in play order.
            slot = dynamic
            dynamic += 1
            if len(ask.parts) > 1:
                part_of[slot] = segment - fixed
        by_slot[slot] = index
    listed = range(max(dynamic, ask.least_slots()))
    return Filled([(slot, by_slot.get(slot)) for slot in listed], list(by_slot), part_of, bound_micros)
