"""Frequency caps inside one pod: how many ads more each cap lets in, for the search to respect from the start.

A cap counts all servings in its scope and blocks only the campaigns that carry it. Where every candidate in the scope
carries it, it is a plain limit on their number, and the search takes it as one. Where some do not, the best pod is the
better of two: the best with that limit on all of them, and the best without those that carry it (see `podplan`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adgovernor.contracts.requests import Candidate
from adgovernor.core import caps, history
from adgovernor.core.caps import Context
from adgovernor.core.history import Person
from adgovernor.core.leases import CampaignShare


class Entry(Protocol):
    """What of a candidate is looked at here."""

    candidate: Candidate
    share: CampaignShare | None

    @property
    def categories(self) -> list[str]: ...


def scopes_of(entry: Entry, context: Context) -> list[str]:
    """Every scope that the ad would count in."""
    share = entry.share
    assert share is not None
    ad = entry.candidate
    return history.scopes_of(
        ad.creative_id, ad.campaign_id, share.campaign.account_id, entry.categories, context.labels
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap that can bind in the pod at hand. Entries are indices."""

    name: str
    left: int
    """How many ads more it lets in."""
    users: frozenset[int]
    """The entries that count in its scope."""
    bearers: frozenset[int]
    """Those whose campaign carries it."""

    @property
    def is_plain(self) -> bool:
        """Whether it is a limit on all that count."""
        return self.users == self.bearers

    def is_broken_by(self, chosen: Collection[int]) -> bool:
        """Whether one of its bearers plays beside too many."""
        return not self.bearers.isdisjoint(chosen) and len(self.users.intersection(chosen)) > self.left


def limits(entries: Sequence[Entry], person: Person, context: Context) -> list[Limit]:
    """The caps of the entries' campaigns that can bind."""
    if not any(entry.share is not None and entry.share.caps for entry in entries):
        return []
    users: dict[str, set[int]] = {}
    bearers: dict[str, set[int]] = {}
    left: dict[str, int] = {}
    scope_of: dict[str, str] = {}
    for index, entry in enumerate(entries):
        share = entry.share
        assert share is not None
        for scope in scopes_of(entry, context):
            users.setdefault(scope, set()).add(index)
        for compiled in share.caps:
            if compiled.event is not None:
                continue  # Clicks and views come after the pod; it adds none of them.
            cap = compiled.cap
            for scope in compiled.scopes(entry.candidate.creative_id, entry.categories, context.labels):
                name = f"{scope}|{cap.window}|{cap.length_ms}|{cap.limit}|{cap.per}|{share.time_zone}"
                if name not in left:
                    left[name] = cap.limit - caps.count(person, cap, scope, context, share.time_zone)
                    scope_of[name] = scope
                bearers.setdefault(name, set()).add(index)
    return [
        Limit(name, left[name], frozenset(users[scope_of[name]]), frozenset(indices))
        for name, indices in bearers.items()
        if len(users[scope_of[name]]) > left[name]
    ]


def reasons(
    entry: Entry, person: Person, context: Context, beside: Mapping[str, int]
) -> list[dict[str, Any]] | None:
    """Every cap that forbids the ad beside others; ``beside`` counts them by scope."""
    share = entry.share
    assert share is not None
    return caps.blockers(
        person,
        share.caps,
        entry.candidate.creative_id,
        entry.categories,
        context,
        share.time_zone,
        beside=beside,
    )
