"""What a stream has been shown, as the store has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adgovernor.app.stored import caps_of
from adgovernor.core import podstate
from adgovernor.core.history import SHOWN, Serving

if TYPE_CHECKING:
    from adgovernor.app.stored import FoundPerson


def describe(found: FoundPerson, session: str) -> dict[str, Any]:
    """The pods of a stream in its order, its last ad, and the caps that count in it with what is left of them.

    Requests for one ad are listed as pods of one, without a state of their own.
    """
    person, watermark = found.person, found.machine.watermark_ms
    servings = [serving for serving in person.servings if serving.session == session]
    by_place = {(serving.decision_id, serving.slot): serving for serving in servings}
    pods: list[tuple[tuple[int, ...], dict[str, Any]]] = []
    placed: set[tuple[str, int]] = set()
    for decision_id, rows in person.pods.items():
        for row in rows:
            if row[7] != session:
                continue
            placed.update((decision_id, slot) for slot, _, _ in row[6])
            pods.append((tuple(row[2]), _pod(decision_id, row, by_place, watermark)))
    for serving in servings:
        if (serving.decision_id, serving.slot) not in placed:
            order = podstate.place_of(person, serving)[0]
            pods.append((order, _single(serving, watermark)))
    pods.sort(key=lambda one: one[0])
    return {
        "session": session,
        "routing_id": found.routing_id,
        "shard": found.machine.shard,
        "height": found.height,
        "watermark_ms": watermark,
        "known": bool(pods),
        "pods": [pod for _, pod in pods],
        "last": _last(found, servings, watermark),
        "caps": [
            cap
            for share in found.machine.shares.values()
            for cap in caps_of(person, share, watermark, session, found.machine.since_ms)
            if cap["window"] == "stream"
        ],
    }


def counted(found: FoundPerson) -> dict[str, Any] | None:
    """What a session with upstream ad servers has done, where it is still kept."""
    visit = found.person.visit
    if visit is None or visit.until_ms <= found.machine.watermark_ms:
        return None
    return {
        "requests": visit.requests,
        "impressions": visit.impressions,
        "pod_positions": visit.pod_positions,
        "spend_micros": visit.spend_micros,
        "until_ms": visit.until_ms,
    }


def _pod(
    decision_id: str, row: list[Any], servings: dict[tuple[str, int], Serving], watermark_ms: int
) -> dict[str, Any]:
    number, about, order, deadline_ms, unfilled, _, places, _ = row
    positions = []
    for position, (slot, duration_ms, domain) in enumerate(places, 1):
        ad: dict[str, Any] = {"position": position, "slot": slot, "duration_ms": duration_ms}
        ad["advertiser_domain"] = domain or None
        serving = servings.get((decision_id, slot))
        if serving is None:
            continue  # It was never shown, and is forgotten already.
        positions.append(ad | _ad(serving, watermark_ms))
    said = {f"break_{name}" if name.startswith("offset") else name: value for name, value in about.items()}
    return {
        "pod_id": podstate.pod_id(decision_id, number),
        "decision_id": decision_id,
        "time_ms": order[1],
        "state": podstate.state_of(row, watermark_ms),
        **said,
        "deadline_ms": deadline_ms,
        "unfilled": unfilled,
        "positions": positions,
    }


def _single(serving: Serving, watermark_ms: int) -> dict[str, Any]:
    return {
        "pod_id": serving.decision_id,
        "decision_id": serving.decision_id,
        "time_ms": serving.time_ms,
        "state": "one ad",
        "unfilled": 0,
        "positions": [{"position": 1, "slot": serving.slot, **_ad(serving, watermark_ms)}],
    }


def _ad(serving: Serving, watermark_ms: int) -> dict[str, Any]:
    state = "reserved" if serving.counts(watermark_ms) else "expired"
    return {
        "campaign_id": serving.campaign,
        "creative_id": serving.creative,
        "categories": serving.categories,
        "state": "shown" if serving.deadline_ms == SHOWN else state,
    }


def _last(found: FoundPerson, servings: list[Serving], watermark_ms: int) -> dict[str, Any] | None:
    """The ad that a pod asked for now would follow."""
    person = found.person
    counting = [serving for serving in servings if serving.counts(watermark_ms)]
    if not counting:
        return None
    last = max(counting, key=lambda serving: podstate.place_of(person, serving)[0])
    domain = podstate.place_of(person, last)[1]
    return {
        "decision_id": last.decision_id,
        "slot": last.slot,
        "campaign_id": last.campaign,
        "creative_id": last.creative,
        "advertiser_domains": [domain] if domain else [],
        "categories": last.categories,
    }
