"""The auditor's own judgement of what people want: who is remembered, who is counted, what is refused.

What somebody said is read from the inputs, not from what the shard made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.simulation import audit_caps
from tests.simulation.audit_caps import Show

IDENTITIES = ("household", "user", "device")


@dataclass(slots=True)
class Visit:
    """What a session said it did."""

    changes: list[str] = field(default_factory=list)
    requests: int = 0
    impressions: int = 0
    positions: set[int] = field(default_factory=set)
    spend_micros: int = 0


@dataclass(slots=True)
class Person:
    """What somebody asked for, saw, and said."""

    requests: dict[str, int] = field(default_factory=dict)
    shows: list[Show] = field(default_factory=list)
    words: dict[tuple[str, str], str] = field(default_factory=dict)
    """(Scope, advertiser or category) → refuse or allow."""
    visit: Visit | None = None

    def hear(self, event: dict[str, Any]) -> None:
        """Takes a user event."""
        kind = event["type"]
        if kind == "erasure":
            self.requests, self.shows, self.words, self.visit = {}, [], {}, None
        elif kind == "session":
            self._visited(event)
        else:
            scope = event.get("scope", "all")
            about = (scope, "" if scope == "all" else event["value"])
            choice = event.get("choice", {"opt-out": "refuse", "opt-in": "taken back"}.get(kind))
            if choice in ("refuse", "allow"):
                self.words[about] = choice
            elif choice == "neither" or self.words.get(about) == "refuse":
                self.words.pop(about, None)

    def _visited(self, event: dict[str, Any]) -> None:
        if self.visit is None:
            self.visit = Visit()
        visit = self.visit
        if event["change_id"] not in visit.changes:
            visit.changes.append(event["change_id"])
            visit.requests += event["requests"]
            visit.impressions += event["impressions"]
            visit.positions |= set(event["pod_positions"])
            visit.spend_micros += event["spend_micros"]

    def refuses(self, account: str, categories: list[str]) -> bool:
        """Whether they want no ad of this advertiser and these categories: the most specific word decides."""
        words = self.words
        if (word := words.get(("advertiser", account))) is not None:
            return word == "refuse"
        said = {
            words.get(("category", name)) or words.get(("category", name.split("-")[0]))
            for name in categories
        }
        if said & {"refuse", "allow"}:
            return "refuse" in said
        return words.get(("all", "")) == "refuse"


def remembered(request: dict[str, Any]) -> bool:
    """Whether anything of a request may be kept."""
    return bool((request.get("consent") or {}).get("storage", True))


def personal(request: dict[str, Any]) -> bool:
    """Whether ads may be chosen for who asks."""
    return bool((request.get("consent") or {}).get("personalisation", True))


def identities_of(request: dict[str, Any]) -> dict[str, str]:
    """Who asks, by kind of identity."""
    return {kind: request[f"{kind}_id"] for kind in IDENTITIES if request.get(f"{kind}_id")}


def unknown_to_caps(caps: list[dict[str, Any]], request: dict[str, Any], policies: dict[str, Any]) -> bool:
    """Whether a campaign with these caps may not be served, because nobody is known whom they could count for."""
    counting = [cap for cap in caps if cap.get("window") != "pod"]
    if not counting:
        return False
    if not remembered(request):
        return True
    known = identities_of(request)
    if known and all(cap.get("per") in (None, *known) for cap in counting):
        return False
    return not (policies.get("no_identity") == "session" and request.get("session_id"))


def broken_caps(
    caps: list[dict[str, Any]],
    request: dict[str, Any],
    show: Show,
    before: list[Show],
    watermark_ms: int,
    zone: str,
) -> list[str]:
    """The caps that one more serving breaks, in words: each counts for its identity, or for the session."""
    broken: list[str] = []
    known = identities_of(request)
    for cap in caps:
        per = cap.get("per")
        counted = before
        if per in known:
            counted = [one for one in before if one.ids.get(per) == known[per]]
        elif per is not None and cap.get("window") == "lifetime":
            continue  # Lifetime totals of sessions are not kept.
        elif per is not None:
            counted = [one for one in before if show.session and one.session == show.session]
        broken += audit_caps.violations([cap], show, counted, watermark_ms, zone)
    return broken
