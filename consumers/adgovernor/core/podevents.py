"""What is said of pods on the topic ``pods``: created, completed, abandoned.

The key is the decision's id: an abandoned pod ends in a record that may be about anybody, and names no person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adgovernor.contracts import topics
from adgovernor.core.podstate import ABANDONED, COMPLETED, OpenPod, pod_id

if TYPE_CHECKING:
    from adgovernor.core.user_shard import UserShard


def created(decision_id: str, pod: OpenPod, bound_micros: int | None) -> dict[str, Any]:
    """The body of a ``pod-created``."""
    body = _body("pod-created", decision_id, pod, pod.time_ms)
    if bound_micros is not None:
        body["bound_micros"] = bound_micros
    return body


def shown(shard: UserShard, decision_id: str, slot: int, time_ms: int) -> None:
    """A position was shown; it may be the last that its pod waited for."""
    for pod in shard.open_pods[decision_id]:
        if pod.waits_for(slot):
            shard.emit(["pod_shown", decision_id, slot])
            if pod.is_complete():
                _end(shard, decision_id, pod, COMPLETED, time_ms)
            return


def abandon_due(shard: UserShard) -> None:
    """Ends the pods whose reservations ended before all of them was shown."""
    while (due := shard.pop_due_pod()) is not None:
        _end(shard, *due, ABANDONED, due[1].deadline_ms)


def _end(shard: UserShard, decision_id: str, pod: OpenPod, state: str, time_ms: int) -> None:
    shard.emit(["pod_end", decision_id, pod.number, state])
    body = _body(f"pod-{state}", decision_id, pod, time_ms)
    shard.publish(topics.PODS, decision_id, body)


def _body(kind: str, decision_id: str, pod: OpenPod, time_ms: int) -> dict[str, Any]:
    rows = []
    offset_ms: int | None = 0
    for place, (slot, campaign, creative, account, price, currency, duration_ms, domain) in enumerate(
        pod.positions, 1
    ):
        row: dict[str, Any] = {"position": place, "slot": slot}
        if offset_ms is not None:
            row["offset_ms"] = offset_ms
        if duration_ms is not None:
            row["duration_ms"] = duration_ms
        row |= {"campaign_id": campaign, "creative_id": creative, "account_id": account}
        if domain:
            row["advertiser_domain"] = domain
        row |= {"price_micros": price, "currency": currency, "delivered": slot in pod.shown}
        rows.append(row)
        offset_ms = None if offset_ms is None or duration_ms is None else offset_ms + duration_ms
    body: dict[str, Any] = {
        "type": kind,
        "pod_id": pod_id(decision_id, pod.number),
        "decision_id": decision_id,
        "time_ms": time_ms,
    }
    body |= {
        f"break_{name}" if name.startswith("offset") else name: value for name, value in pod.about.items()
    }
    return body | {
        "deadline_ms": pod.deadline_ms,
        "positions": rows,
        "filled": len(rows),
        "unfilled": pod.unfilled,
        "delivered": len(pod.shown),
    }
