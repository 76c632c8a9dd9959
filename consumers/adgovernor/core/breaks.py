"""The pods that a request asks for: one, or one for each break of a stream.

What lives here: VMAP documents as breaks, the order of breaks in the stream, and the limits on sizes. What never
does: which ad plays (`podplan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from adgovernor.contracts.base import LONGEST_ID
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.pod_requests import MOST_BREAKS, BreakSpec, PodSpec, SlotSpec, parts_of
from adgovernor.contracts.requests import AdRequest, AnyRequest, Candidate
from adgovernor.core.podfill import MAX_ADS
from adgovernor.core.rules import Rules
from adgovernor.video.times import format_time
from adgovernor.video.vmap import (
    AdBreak,
    EndOffset,
    Offset,
    PercentOffset,
    PositionOffset,
    StartOffset,
    TimeOffset,
    VmapFormatError,
    parse_offset,
    parse_vmap,
)

_ONE_SLOT = (SlotSpec(),)
USUAL_ADS: Final = 12
"""Ads that a dynamic part takes at most where the request does not say."""
MOST_CHOICES: Final = 10_000
"""Candidates of a request times its breaks, since each break considers all of them: some tenths of a second."""
MOST_VMAP_TAGS: Final = 10_000
"""Tags (`<`) in a request's VMAP document. The largest request has room for so many as real documents use, one for
every fifty bytes; reading a document of the shortest elements alone would hold up everybody else for a second."""
MOST_REPEATED_BYTES: Final = 500_000
"""What a request says once and its decision and record repeat in each slot comes to so much at most."""
_ROW_BYTES: Final = 500
"""About what a slot of a decision takes beside names that the request gives."""


@dataclass(frozen=True, slots=True)
class PodAsk:
    """One pod that is asked for."""

    slots: tuple[SlotSpec, ...]
    parts: tuple[PodSpec, ...]
    """Its dynamic parts."""
    path: str = ""
    """Where in the request it is said, for messages; such as ``breaks[2].``."""
    spec: BreakSpec | None = None
    """The break that it fills, where the request has breaks."""
    offset: Offset | None = None
    content_ms: int | None = None
    """How long the programme is, where the request says so."""

    @property
    def offset_ms(self) -> int | None:
        """The break's place in the programme, where it is known."""
        match self.offset:
            case StartOffset():
                return 0
            case TimeOffset(time_ms):
                return time_ms
            case PercentOffset(percent) if self.content_ms is not None:
                return self.content_ms * round(percent * 1_000_000) // 100_000_000
            case EndOffset():
                return self.content_ms
        return None

    def latest_ms(self) -> int | None:
        """How much of the programme plays before it at most, where anything is known of that."""
        if self.spec is None:
            return 0
        return self.content_ms if self.offset_ms is None else self.offset_ms

    def least_slots(self) -> int:
        """How many slots a decision lists for it at least."""
        return len(self.slots) + bool(self.parts)


def most_ads(request: AdRequest, most_of_parts: int) -> int:
    """How many ads a request can take at most."""
    return sum(
        len(ask.slots) + sum(part.max_ads or min(USUAL_ADS, most_of_parts) for part in ask.parts)
        for ask in pods_of(request)
    )


def with_breaks(request: AdRequest) -> AdRequest:
    """The request with the breaks of its VMAP document in place of it; one that repeats is as many as come before
    the programme's end, where the request says when that is.

    Raises:
        BadInput: where the document is no VMAP, has a break that cannot be placed or none that can take ads, or
            where the request has breaks beside it.
    """
    assert request.vmap is not None
    if request.breaks is not None:
        raise BadInput("vmap: given together with breaks; leave one of them out")
    tags = request.vmap.count("<")
    if tags > MOST_VMAP_TAGS:
        raise BadInput(
            f"vmap: {tags} tags, at most {MOST_VMAP_TAGS} are taken; leave its ads (VASTAdData) out, or give breaks"
        )
    try:
        document = parse_vmap(request.vmap.encode(), schedule_only=True)
    except (VmapFormatError, UnicodeEncodeError) as error:
        raise BadInput(f"vmap: {error}") from error
    found: list[BreakSpec] = []
    asked = 0
    for number, one in enumerate(document.breaks, 1):
        if one.break_types and "linear" not in one.break_types:
            continue
        if one.offset is None or one.time_offset is None:
            why = one.fault.message if one.fault is not None else "timeOffset is missing"
            raise BadInput(f"vmap: break {number}: {why}")
        again = _repeats(one, request.content_duration_ms)
        asked += 1 + len(again)
        if asked > MOST_BREAKS:
            continue  # It is refused below; how many there are in all is still to be counted.
        first = BreakSpec(
            break_id=(one.break_id or "")[:LONGEST_ID] or None,
            offset=one.time_offset.strip()[:64],
            one_ad=one.source is not None and not one.source.allow_multiple_ads,
        )
        found += [first, *(first.model_copy(update={"offset": format_time(at_ms)}) for at_ms in again)]
    if not 0 < asked <= MOST_BREAKS:
        raise BadInput(f"vmap: {asked} breaks for linear ads; give 1 to {MOST_BREAKS}")
    return request.model_copy(update={"breaks": tuple(found), "vmap": None})


def _repeats(one: AdBreak, content_ms: int | None) -> range:
    """When the break comes again (repeatAfter, §2.3.1), as far as the programme is known to last."""
    first_ms = one.offset.time_ms if isinstance(one.offset, TimeOffset) else 0
    if not isinstance(one.offset, TimeOffset | StartOffset) or not one.repeat_after_ms or content_ms is None:
        return range(0)
    return range(first_ms + one.repeat_after_ms, content_ms, one.repeat_after_ms)


def pods_of(request: AdRequest) -> list[PodAsk]:
    """The pods asked for, in the order of the stream."""
    if request.breaks is None:
        parts = parts_of(request.pod)
        return [PodAsk(_slots_of(request.slots, parts), parts)]
    asks = [_of_break(request, spec, number) for number, spec in enumerate(request.breaks)]
    middle = [ask for ask in asks if not isinstance(ask.offset, StartOffset | EndOffset)]
    timed = all(ask.offset_ms is not None for ask in middle)
    alike = len({type(ask.offset) for ask in middle}) == 1
    # Offsets of several kinds cannot be compared before the programme is known: the order given is then believed.
    return sorted(asks, key=lambda ask: _rank(ask, timed, alike))


def slots_of(request: AnyRequest) -> int:
    """How many slots a decision on this request has at least."""
    if not isinstance(request, AdRequest) or (request.breaks is None and request.slots is None):
        return 1
    return sum(ask.least_slots() for ask in pods_of(request))


def oversized(request: AnyRequest, rules: Rules) -> tuple[str, int, int] | None:
    """What of the request is larger than configured: the field, what it has, and the most that it may have."""
    if len(request.candidates) > rules.most_candidates:
        return "candidates", len(request.candidates), rules.most_candidates
    if not isinstance(request, AdRequest):
        return None
    if request.breaks is not None and len(request.breaks) > rules.most_breaks:
        return "breaks", len(request.breaks), rules.most_breaks
    if request.slots is None and request.pod is None and request.breaks is None:
        return None
    asks = pods_of(request)
    for ask in asks:
        if len(ask.slots) > rules.most_slots:
            return ask.path + "slots", len(ask.slots), rules.most_slots
        ads = sum(part.max_ads or 1 for part in ask.parts)
        if ads > rules.most_ads:
            return ask.path + "pod.max_ads", ads, rules.most_ads
        segments = len(ask.slots) + len(ask.parts)
        if segments > MAX_ADS:
            # Each within its limit, they can still be more than one pod is filled with.
            return ask.path + "slots", segments, MAX_ADS
    return _oversized_in_all(request, asks)


def _oversized_in_all(request: AdRequest, asks: list[PodAsk]) -> tuple[str, int, int] | None:
    """The same of what is within its limit in each pod, and is considered or written so often that no deadline could
    be met or no message hold it."""
    most = len(request.candidates)
    if most * len(asks) > MOST_CHOICES:
        return "candidates", most, MOST_CHOICES // len(asks)
    rows = [len(ask.slots) + min(most, sum(part.max_ads or USUAL_ADS for part in ask.parts)) for ask in asks]
    slots = sum(rows)
    names = max(_size(ask.spec.break_id) if ask.spec is not None else 0 for ask in asks)
    row = _ROW_BYTES + _size(request.request_id) + names
    if slots * row > MOST_REPEATED_BYTES:
        return "slots", slots, MOST_REPEATED_BYTES // row
    # What each ad that is reserved carries.
    labels = sum(map(_size, (*request.labels, request.placement)))
    for field, size in (("labels", labels), ("session_id", _size(request.session_id))):
        if size * slots > MOST_REPEATED_BYTES:
            return field, size, MOST_REPEATED_BYTES // slots
    if len(asks) > 1:
        # The same ads may win in each break.
        sizes = sorted(map(_said, request.candidates), reverse=True)
        said = sum(sum(sizes[:count]) for count in rows)
        if said > MOST_REPEATED_BYTES:
            return "breaks", len(asks), len(asks) * MOST_REPEATED_BYTES // said
    return None


def _size(text: str | None) -> int:
    return len((text or "").encode())


def _said(candidate: Candidate) -> int:
    """About how many bytes the request says of a candidate."""
    return _size(repr({name: getattr(candidate, name) for name in candidate.model_fields_set}))


def _slots_of(slots: tuple[SlotSpec, ...] | None, parts: tuple[PodSpec, ...]) -> tuple[SlotSpec, ...]:
    return slots if slots is not None else () if parts else _ONE_SLOT


def _of_break(request: AdRequest, spec: BreakSpec, number: int) -> PodAsk:
    slots, parts, path = spec.slots, parts_of(spec.pod), f"breaks[{number}]."
    if slots is None and not parts:
        slots, parts, path = request.slots, parts_of(request.pod), ""
    if spec.one_ad:
        if slots:
            slots, parts = slots[:1], ()
        elif parts:
            parts = (parts[0].model_copy(update={"max_ads": 1}),)
    return PodAsk(
        _slots_of(slots, parts), parts, path, spec, parse_offset(spec.offset), request.content_duration_ms
    )


def _rank(ask: PodAsk, timed: bool, alike: bool) -> tuple[int, float]:
    offset = ask.offset
    if isinstance(offset, StartOffset):
        return 0, 0
    if isinstance(offset, EndOffset):
        return 2, 0
    if timed:
        return 1, ask.offset_ms or 0
    if not alike:
        return 1, 0
    if isinstance(offset, PercentOffset):
        return 1, offset.percent
    return (1, offset.position) if isinstance(offset, PositionOffset) else (1, 0)
