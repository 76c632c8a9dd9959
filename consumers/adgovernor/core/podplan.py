"""Several slots at once: from a request's slots and pod to the fill, under caps and leases.

The fill (`podfill`) knows a pod's own rules. Two more bear on it here: money, as one fund for each campaign and
day, and caps, where each ad of the pod counts for the caps of the others. A cap blocks only the campaigns that
carry it, so it is checked on the filled set: an ad that it forbids there leaves, and the pod is filled again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from adgovernor.contracts.requests import AdRequest
from adgovernor.core import caps
from adgovernor.core.history import Person
from adgovernor.core.leases import CampaignShare
from adgovernor.core.podfill import PodCandidate, PodSegment, PodSpec, fill

_POD: Final = "pod"
_CODES: Final = {
    "funds": "no_lease",
    "no_segment": "duration",
    "no_value": "floor",
    "position": "duration",
    "media_repeated": "creative_repeated",
}
"""Reasons of the fill that requests know under another name."""


class Entry(Protocol):
    """What of a candidate the plan needs."""

    candidate: Any
    day: int
    price: int
    value: int
    reasons: list[dict[str, Any]] | None
    share: CampaignShare | None

    @property
    def categories(self) -> list[str]: ...


def slots_of(request: AdRequest) -> int:
    """How many slots a decision on this request has at least: its slots, and one for a dynamic pod."""
    return len(request.slots or ()) + (request.pod is not None) or 1


def plan(
    request: AdRequest, entries: Sequence[Entry], person: Person, context: caps.Context
) -> list[tuple[int, int | None]]:
    """Which entry plays in which slot: (slot, index in ``entries``), None where a slot stays empty.

    Entries that lose get their reasons; those that come with reasons are not considered.
    """
    considered = [index for index, entry in enumerate(entries) if entry.reasons is None]
    spec = _spec(request, [entries[index] for index in considered])
    blocked: dict[int, list[dict[str, Any]]] = {}
    while True:
        playing = [index for index in considered if index not in blocked]
        result = fill(spec, [_candidate(entries[index]) for index in playing])
        chosen = [playing[placement.index] for placement in result.placements]
        worst = _capped(entries, chosen, person, context)
        if worst is None:
            break
        # Each turn takes one entry out for good, so there are at most as many turns as entries.
        blocked[worst[0]] = worst[1]
    for index, reasons in blocked.items():
        entries[index].reasons = reasons
    for loser in result.losers:
        entry = entries[playing[loser.index]]
        codes = dict.fromkeys(_CODES.get(reason, reason) for reason in loser.reasons)
        # A missing lease comes last, as for a single slot: it is what more money would mend.
        entry.reasons = [
            {"code": code} for code in sorted(codes, key=lambda code: code == "no_lease")
        ] or None
    return _slots(
        request, [(placement.segment_id, playing[placement.index]) for placement in result.placements]
    )


def _spec(request: AdRequest, entries: Sequence[Entry]) -> PodSpec:
    segments = [
        PodSegment(
            str(number),
            min_ms=slot.min_duration_ms or 0,
            max_ms=slot.max_duration_ms or 0,
            durations_ms=tuple(slot.allowed_durations_ms),
            floor_micros=slot.floor_micros,
        )
        for number, slot in enumerate(request.slots or ())
    ]
    pod = request.pod
    if pod is not None:
        segments.append(
            PodSegment(
                _POD,
                min_ms=pod.min_duration_ms or 0,
                max_ms=pod.max_duration_ms or 0,
                durations_ms=tuple(pod.allowed_durations_ms),
                floor_micros=pod.floor_micros,
                total_ms=pod.total_duration_ms,
                max_ads=pod.max_ads,
            )
        )
    available: dict[str, int] = {}
    for entry in entries:
        share = entry.share
        assert share is not None
        available[_fund(entry)] = share.lease(entry.day)
    return PodSpec(
        tuple(segments),
        advertiser_separation="pod" if pod is None or pod.separate_advertisers else "none",
        category_separation="pod" if pod is not None and pod.separate_categories else "none",
        available_micros=available,
    )


def _fund(entry: Entry) -> str:
    return f"{entry.day}|{entry.candidate.campaign_id}"


def _candidate(entry: Entry) -> PodCandidate:
    candidate = entry.candidate
    domain = candidate.advertiser_domain
    return PodCandidate(
        candidate.campaign_id,
        entry.value,
        candidate.duration_ms or 0,
        charge_micros=entry.price,
        creative_id=candidate.creative_id,
        advertiser_domains=(domain,) if domain else (),
        categories=tuple(entry.categories),
        funds=(_fund(entry),),
    )


def _capped(
    entries: Sequence[Entry], chosen: Sequence[int], person: Person, context: caps.Context
) -> tuple[int, list[dict[str, Any]]] | None:
    """The cheapest chosen entry that a cap of its campaign forbids beside the others, with the reasons."""
    scopes: dict[str, int] = {}
    for index in chosen:
        for scope in _scopes(entries[index], context):
            scopes[scope] = scopes.get(scope, 0) + 1
    worst: tuple[int, list[dict[str, Any]]] | None = None
    for index in chosen:
        entry = entries[index]
        share = entry.share
        assert share is not None
        if not share.caps:
            continue
        others = {scope: count - 1 for scope, count in scopes.items() if scope in _scopes(entry, context)}
        reasons = caps.blockers(
            person,
            share.caps,
            entry.candidate.creative_id,
            entry.categories,
            context,
            share.time_zone,
            beside=others,
        )
        if reasons is not None and (worst is None or entry.value <= entries[worst[0]].value):
            worst = (index, reasons)
    return worst


def _scopes(entry: Entry, context: caps.Context) -> list[str]:
    share = entry.share
    assert share is not None
    return [
        "creative:" + entry.candidate.creative_id,
        "campaign:" + entry.candidate.campaign_id,
        "advertiser:" + share.campaign.account_id,
        *["category:" + category for category in entry.categories],
        *["label:" + label for label in context.labels],
    ]


def _slots(request: AdRequest, placed: Sequence[tuple[str, int]]) -> list[tuple[int, int | None]]:
    fixed = len(request.slots or ())
    by_slot = {int(segment): index for segment, index in placed if segment != _POD}
    slots: list[tuple[int, int | None]] = [(slot, by_slot.get(slot)) for slot in range(fixed)]
    dynamic = [index for segment, index in placed if segment == _POD]
    slots += [(fixed + number, index) for number, index in enumerate(dynamic)]
    if request.pod is not None and not dynamic:
        slots.append((fixed, None))
    return slots
