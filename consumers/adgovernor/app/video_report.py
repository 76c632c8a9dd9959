"""VAST and VMAP outcomes as plain JSON values, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from adgovernor.sessions.pods import BreakOutcome, VmapOutcome
from adgovernor.sessions.resolver import FiredError, Resolution
from adgovernor.video import InLine, ResolvedAd, VastDocument, Wrapper, expand_error
from adgovernor.video.times import format_time
from adgovernor.video.vmap import (
    AdBreak,
    AdTag,
    CustomData,
    EndOffset,
    Offset,
    PercentOffset,
    PositionOffset,
    StartOffset,
    TimeOffset,
    VastData,
)

Json = dict[str, Any]


def ad_json(ad: ResolvedAd) -> Json:
    """One resolved ad; counts are of addresses along the whole chain, tracking and clicks of linear creatives."""
    through = ad.click_through
    return {
        "id": ad.inline.id,
        "sequence": None if ad.sequence is None else str(ad.sequence),
        "hops": len(ad.hops),
        "impressions": len(ad.impressions),
        "errors": len(ad.errors),
        "duration": None if ad.duration_ms is None else ad.duration_ms / 1000,
        "mediafiles": sum(len(linear.media_files) for linear in ad.linears),
        "clicktracking": len(ad.click_tracking),
        "clickthrough": None if through is None else through.uri,
        "events": ad.tracking_counts,
        "companions_inline": len(ad.inline_companions),
        "nonlinear_inline": len(ad.inline_nonlinears),
        "categories": [category.value for category in ad.inline.categories],
    }


def errors_json(errors: Iterable[FiredError]) -> list[Json]:
    """Each error's code and the addresses that were told, as written with the code filled in."""
    return [{"code": int(error.code), "urls": list(error.written_urls)} for error in errors]


def resolution_json(entry: str, resolution: Resolution) -> Json:
    """What an ad tag came to."""
    return {
        "entry": entry,
        "requests": len(resolution.requested),
        "requested": list(resolution.requested),
        "ads": [ad_json(ad) for ad in resolution.ads],
        "play_order": [ad.inline.id for ad in resolution.play],
        "errors_fired": errors_json(resolution.errors),
        "warnings": list(resolution.warnings),
        "messages": [error.message for error in resolution.errors],
    }


def vmap_json(entry: str, outcome: VmapOutcome) -> Json:
    """A VMAP document, break by break."""
    return {
        "entry": entry,
        "kind": "VMAP",
        "version": outcome.version,
        "breaks": [break_json(found) for found in outcome.breaks],
        "warnings": list(outcome.warnings),
        "error": None if outcome.fault is None else outcome.fault.code,
        "message": None if outcome.fault is None else outcome.fault.message,
    }


def break_json(outcome: BreakOutcome) -> Json:
    """One ad break. *ad* is the first ad's id, or the tag that would have to be asked for it."""
    found = outcome.ad_break
    ids = _ad_ids(outcome)
    content = None if found.source is None else found.source.content
    first: str | None = ids[0] if ids else None
    if isinstance(content, AdTag) and outcome.resolution is None:
        first = f"AdTagURI {content.uri}"
    told = () if outcome.fault is None else found.trackers("error")
    return {
        "breakId": found.break_id,
        "offset": offset_json(found.offset),
        "ad": first,
        "ads": ids,
        "source": _source_json(found),
        "timeOffset": found.time_offset,
        "breakType": list(found.break_types),
        "repeatAfter": None if found.repeat_after_ms is None else found.repeat_after_ms / 1000,
        "trackers": _trackers_json(found),
        "extensions": [{"type": extension.type, "xml": extension.xml} for extension in found.extensions],
        "warnings": list(found.warnings),
        "error": None if outcome.fault is None else int(outcome.fault.code),
        "message": None if outcome.fault is None else outcome.fault.message,
        "errors_fired": []
        if outcome.fault is None
        else [
            {
                "code": int(outcome.fault.code),
                "urls": [expand_error(uri, outcome.fault.code, outcome.fault.message) for uri in told],
            }
        ],
        "resolved": None if outcome.resolution is None else _resolved_json(outcome.resolution),
    }


def _resolved_json(resolution: Resolution) -> Json:
    return {
        "requests": len(resolution.requested),
        "requested": list(resolution.requested),
        "ads": [ad_json(ad) for ad in resolution.ads],
        "play_order": [ad.inline.id for ad in resolution.play],
        "errors_fired": errors_json(resolution.errors),
    }


def _trackers_json(found: AdBreak) -> dict[str, list[str]]:
    trackers: dict[str, list[str]] = {}
    for tracking in found.tracking:
        trackers.setdefault(tracking.event, []).append(tracking.uri)
    return trackers


def _ad_ids(outcome: BreakOutcome) -> list[str | None]:
    if outcome.resolution is not None:
        return [ad.inline.id for ad in outcome.resolution.play]
    return [ad.id for ad in outcome.offered]


def _source_json(found: AdBreak) -> Json | None:
    source = found.source
    if source is None:
        return None
    answer: Json = {
        "kind": None,
        "id": source.id,
        "allowMultipleAds": source.allow_multiple_ads,
        "followRedirects": source.follow_redirects,
    }
    if isinstance(source.content, VastData):
        answer |= {"kind": "VASTAdData", "version": source.content.document.version}
    elif isinstance(source.content, AdTag):
        answer |= {
            "kind": "AdTagURI",
            "url": source.content.uri,
            "templateType": source.content.template_type,
        }
    elif isinstance(source.content, CustomData):
        answer |= {
            "kind": "CustomAdData",
            "data": source.content.data,
            "templateType": source.content.template_type,
        }
    return answer


def _digits(number: float, places: int) -> str:
    """The number with as many places as it needs, at most so many."""
    return f"{number:.{places}f}".rstrip("0").rstrip(".")


def offset_json(offset: Offset | None) -> float | str | None:
    """Seconds, or ``start``, ``end``, ``n%``, ``#m``; None when unreadable."""
    match offset:
        case None:
            return None
        case StartOffset():
            return "start"
        case EndOffset():
            return "end"
        case TimeOffset(time_ms):
            return time_ms / 1000
        case PercentOffset(percent):
            return f"{_digits(percent, 6)}%"
        case PositionOffset(position):
            return f"#{position}"


def document_json(entry: str, document: VastDocument) -> Json:
    """A VAST document that was only read: its InLine ads, and the Wrappers that nobody followed."""
    inlines = [ResolvedAd(ad, entry, 0, (), ad.sequence) for ad in document.ads if isinstance(ad, InLine)]
    return {
        "entry": entry,
        "kind": "VAST",
        "version": document.version,
        "ads": [ad_json(ad) for ad in inlines],
        "wrappers": [
            {"id": ad.id, "sequence": None if ad.sequence is None else str(ad.sequence), "url": ad.tag_uri}
            for ad in document.ads
            if isinstance(ad, Wrapper)
        ],
        "warnings": list(document.warnings),
        "errors_fired": [],
        "messages": [],
    }


def resolution_lines(answer: Json) -> Iterator[str]:
    """A resolution (or a VAST document's reading) for people."""
    if "requested" in answer:
        yield f"{answer['requests']} document{'s' if answer['requests'] != 1 else ''} requested"
        yield from (f"  {url}" for url in answer["requested"])
    yield from _ad_lines(answer["ads"])
    for wrapper in answer.get("wrappers", []):
        yield f"wrapper {wrapper['id']} -> {wrapper['url']}"
    if "play_order" in answer:
        order = ", ".join(str(ad_id) for ad_id in answer["play_order"]) or "nothing"
        yield f"plays {order}"
    elif not any(answer[found] for found in ("ads", "wrappers", "errors_fired")):
        yield "no ads"
    yield from _error_lines(answer.get("errors_fired", []), answer.get("messages", []))
    yield from (f"warning: {warning}" for warning in answer.get("warnings", []))


def _ad_lines(ads: list[Json]) -> Iterator[str]:
    for ad in ads:
        place = f", sequence {ad['sequence']}" if ad["sequence"] is not None else ""
        duration = "unknown" if ad["duration"] is None else format_time(round(ad["duration"] * 1000))
        yield f"ad {ad['id']}{place}, {ad['hops']} wrapper{'s' if ad['hops'] != 1 else ''} above"
        yield (
            f"  impressions {ad['impressions']}, errors {ad['errors']}, duration {duration}, "
            f"media files {ad['mediafiles']}, click tracking {ad['clicktracking']}"
        )
        yield f"  companions {ad['companions_inline']}, overlays {ad['nonlinear_inline']}"
        if ad["clickthrough"] is not None:
            yield f"  click-through {ad['clickthrough']}"
        if ad["events"]:
            events = ", ".join(f"{key} x{count}" for key, count in ad["events"].items())
            yield f"  events {events}"
        if ad["categories"]:
            yield f"  categories {', '.join(ad['categories'])}"


def _error_lines(errors: list[Json], messages: list[str]) -> Iterator[str]:
    for index, error in enumerate(errors):
        reason = f": {messages[index]}" if index < len(messages) else ""
        yield f"error {error['code']}{reason}"
        yield from (f"  Error {url}" for url in error["urls"])


def vmap_lines(answer: Json) -> Iterator[str]:
    """A VMAP document for people."""
    if answer["error"] is not None:
        yield f"error {answer['error']}: {answer['message']}"
    elif not answer["breaks"]:
        yield "no breaks"
    for found in answer["breaks"]:
        offset = found["offset"]
        when = (
            f"{_digits(offset, 3)} s" if isinstance(offset, float) else offset or "no time that can be read"
        )
        source = found["source"]
        kind = "no source" if source is None else source["kind"] or "no source that can be read"
        # A tag that nobody asked says its kind itself.
        what = found["ad"] or f"{kind}, no ad"
        what = what if what.startswith(kind) else f"{kind}, {what}"
        yield f"break {found['breakId'] or 'without id'} at {when}: {what}"
        if found["ads"]:
            yield f"  ads {', '.join(str(ad_id) for ad_id in found['ads'])}"
        for event, urls in found["trackers"].items():
            yield from (f"  {event} {url}" for url in urls)
        if found["error"] is not None:
            yield f"  error {found['error']}: {found['message']}"
        yield from (f"  warning: {warning}" for warning in found["warnings"])
        if found["resolved"] is not None:
            yield from (f"  {line}" for line in resolution_lines(found["resolved"]))
    yield from (f"warning: {warning}" for warning in answer["warnings"])
