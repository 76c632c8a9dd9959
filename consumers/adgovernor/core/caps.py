"""Frequency caps: does one more serving leave every window that it is in at or under the limit?

A serving at time t is in every window of length L that ends in [t, t + L). Events come out of order, so later
servings may already be there: the rule must hold for windows that end later too. Windows are half-open: a
serving exactly L older than t no longer counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from adgovernor.contracts import zones
from adgovernor.contracts.campaigns import DAY_MS, Cap
from adgovernor.core.history import PLACES, Person, Serving
from adgovernor.core.identities import Identities, servings_of, totals_suffix

ROLLING: Final = "rolling"


class Context(Struct):
    """The request that a serving would belong to. A struct, because one is made for every request."""

    request_id: str
    time_ms: int
    session: str | None
    labels: tuple[str, ...]
    watermark_ms: int
    first_slot: int = 0
    """Of the pod at hand: a request with several breaks has several pods."""
    known: bool = True
    """Whether the request says who the person is, beyond their session."""
    degraded: bool = False
    """Whether the person's history could not be read."""
    who: Identities | None = None
    """All identities that it names; None: there is but one."""
    personal: bool = True
    """Whether ads may be chosen for the person."""


def horizon_ms(caps: tuple[Cap, ...]) -> int:
    """How far back these caps can look, from the watermark."""
    longest = 0
    for cap in caps:
        length = cap.length_ms or 0
        if cap.window == "calendar":
            # A month may be named by fewer days than it has, and a day that clocks turn back in is longer.
            length = (31 * DAY_MS if cap.calendar_unit() == "month" else length) + DAY_MS
        elif cap.window == "stream":
            length = DAY_MS  # Nobody says when a session ends; none is taken to last longer.
        longest = max(longest, length)
    return longest


class CompiledCap:
    """A campaign's cap, ready for the hot path."""

    __slots__ = ("_fixed", "_label", "cap", "event", "lifetime", "limit", "place", "word")

    def __init__(self, cap: Cap, campaign: str, account: str) -> None:
        self.cap = cap
        self.limit = cap.limit
        self.event: str | None = None if cap.event == "impression" else cap.event
        """``click`` or ``view`` where it counts these."""
        self.lifetime = cap.window == "lifetime"
        self._label = cap.label if cap.scope == "label" else None
        """The label that a request must have for the cap to bear on it."""
        self._fixed: tuple[str, ...] | None = None
        """What it counts, where that is the same for all candidates."""
        self.place = -1
        """Where a serving has what a window counts by (see `history.PLACES`); -1: not in one place."""
        self.word: str | None = None
        """What must stand there; None: the candidate's creative."""
        if cap.scope == "campaign":
            self._fixed = ("campaign:" + campaign,)
            self.word = campaign
        elif cap.scope == "advertiser":
            self._fixed = ("advertiser:" + account,)
            self.word = account
        elif cap.scope == "label":
            self._fixed = (f"label:{cap.label}",)
        if not self.lifetime and cap.scope in ("creative", "campaign", "advertiser"):
            self.place = PLACES[cap.scope]

    def scopes(
        self, creative: str, categories: Iterable[str], labels: Collection[str] | None
    ) -> Sequence[str]:
        """The scopes that it limits for an ad of its campaign, in a request with these labels; None: with any."""
        if self._fixed is not None:
            return self._fixed if self._label is None or labels is None or self._label in labels else ()
        if self.cap.scope == "creative":
            return ("creative:" + creative,)
        only = self.cap.label
        return ["category:" + name for name in categories if only is None or only == name]


def count(person: Person, cap: Cap, scope: str, context: Context, time_zone: str) -> int:
    """The servings already in the fullest window that one more at the request's time would be in."""
    if cap.event != "impression":
        return _count_events(person, cap, scope, context, time_zone)
    window = cap.window
    servings = person.served(scope)
    suffix: str | None = ""
    if cap.per is not None and context.who is not None:
        servings = servings_of(servings, context.who, cap.per)
        suffix = totals_suffix(context.who, cap.per)
    if window == "lifetime":
        total = 0 if suffix is None else person.lifetime_total(scope, suffix)
        return total + _matching(servings, context.watermark_ms)
    if not servings:
        return 0
    if window == ROLLING:
        return _fullest(servings, context, cap.length_ms or 0)
    watermark = context.watermark_ms
    if window == "pod":
        request = context.request_id
        first = context.first_slot
        at_ms = context.time_ms  # An id that was forgotten may come again, for another request.
        return sum(
            1
            for s in servings
            if s.decision_id == request and s.time_ms == at_ms and s.slot >= first and s.counts(watermark)
        )
    if window == "stream":
        session = context.session
        return sum(1 for s in servings if s.session == session and s.counts(watermark)) if session else 0
    unit = cap.calendar_unit()
    assert unit is not None
    start, end = zones.window_of(context.time_ms, time_zone, unit)
    return sum(1 for s in servings if start <= s.time_ms < end and s.counts(watermark))


def _matching(servings: Sequence[Serving], watermark_ms: int) -> int:
    return sum(1 for serving in servings if serving.counts(watermark_ms))


def _fullest(servings: Sequence[Serving], context: Context, length_ms: int) -> int:
    time_ms = context.time_ms
    watermark = context.watermark_ms
    low, high = time_ms - length_ms, time_ms + length_ms
    times = [
        s.time_ms
        for s in servings
        if low < s.time_ms < high and (s.deadline_ms == 0 or s.deadline_ms > watermark)
    ]
    return _fullest_of(times, time_ms, length_ms)


def _fullest_of(times: list[int], time_ms: int, length_ms: int) -> int:
    """The most of these times, all less than ``length_ms`` from ``time_ms``, that one window with it has."""
    if not times or max(times) <= time_ms:
        return len(times)
    times.sort()
    # Windows worth looking at end at the request itself or at a later serving; both ends move forward.
    best = first = last = 0
    for end in [time_ms, *[t for t in times if t > time_ms]]:
        while last < len(times) and times[last] <= end:
            last += 1
        while times[first] <= end - length_ms:
            first += 1
        best = max(best, last - first)
    return best


def _count_events(person: Person, cap: Cap, scope: str, context: Context, time_zone: str) -> int:
    """As `count`, for clicks or completed views, each at its own time."""
    window = cap.window
    event = cap.event
    servings = person.served(scope)
    suffix: str | None = ""
    if cap.per is not None and context.who is not None:
        servings = servings_of(servings, context.who, cap.per)
        suffix = totals_suffix(context.who, cap.per)
    marked = [(at_ms, serving) for serving in servings if (at_ms := serving.marked(event)) is not None]
    if window == "lifetime":
        return (0 if suffix is None else person.lifetime_total(f"{event}@{scope}", suffix)) + len(marked)
    if window == "stream":
        session = context.session
        return sum(1 for _, serving in marked if serving.session == session) if session else 0
    time_ms = context.time_ms
    if window == ROLLING:
        length_ms = cap.length_ms or 0
        return _fullest_of([at for at, _ in marked if abs(at - time_ms) < length_ms], time_ms, length_ms)
    unit = cap.calendar_unit()
    assert unit is not None, "a cap of window pod counts impressions"
    start, end = zones.window_of(time_ms, time_zone, unit)
    return sum(1 for at, _ in marked if start <= at < end)


def blockers(
    person: Person,
    caps: tuple[CompiledCap, ...],
    creative: str,
    categories: list[str],
    context: Context,
    time_zone: str,
    beside: Mapping[str, int] | None = None,
) -> list[dict[str, Any]] | None:
    """Every cap that forbids the serving, as reasons; None where there is none. ``beside`` counts, by scope, the
    servings that the same request would get besides."""
    found: list[dict[str, Any]] | None = None
    served = len(person.servings)
    for cap in caps:
        if served < cap.limit and not cap.lifetime and not beside:
            continue  # No window has more servings than there are.
        if cap.place >= 0 and not beside and person.has_fewer(cap.limit, cap.place, cap.word or creative):
            continue  # Nor more of one campaign, advertiser or creative than there are.
        for scope in cap.scopes(creative, categories, context.labels):
            found = _check(person, cap, scope, context, time_zone, found, beside)
    return found


def _check(
    person: Person,
    compiled: CompiledCap,
    scope: str,
    context: Context,
    time_zone: str,
    found: list[dict[str, Any]] | None,
    beside: Mapping[str, int] | None,
) -> list[dict[str, Any]] | None:
    # All servings of a request have its time and session, so they share every window that one of them is in.
    besides = beside.get(scope, 0) if beside and compiled.event is None else 0
    if not compiled.lifetime and len(person.served(scope)) + besides < compiled.limit:
        return found
    cap = compiled.cap
    seen = count(person, cap, scope, context, time_zone) + besides
    if seen < cap.limit:
        return found
    reason: dict[str, Any] = {"code": "capped", "scope": scope, "window": cap.window}
    if cap.length_ms is not None:
        reason["length_ms"] = cap.length_ms
    if cap.per is not None:
        reason["per"] = cap.per
    if compiled.event is not None:
        reason["event"] = compiled.event
    reason["limit"] = cap.limit
    reason["count"] = seen
    if found is None:
        return [reason]
    found.append(reason)
    return found
