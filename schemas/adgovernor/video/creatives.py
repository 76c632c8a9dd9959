"""Reads the creatives of a VAST ad: linear, nonlinear and companion (VAST 4.3 §3.6-§3.15)."""

from __future__ import annotations

from collections.abc import Iterator

from adgovernor.video.model import (
    ClosedCaption,
    Companion,
    Creative,
    Icon,
    Linear,
    MediaFile,
    NonLinear,
    Resource,
    Tracking,
    UniversalAdId,
    VideoClicks,
)
from adgovernor.video.times import parse_time_ms
from adgovernor.video.xmltree import Element, Reader

_RESOURCES = (("StaticResource", "static"), ("IFrameResource", "iframe"), ("HTMLResource", "html"))


def read_creative(reader: Reader, creative: Element) -> Creative:
    """Read one ``Creative`` element, of an InLine or a Wrapper."""
    linear = reader.child(creative, "Linear")
    companions = reader.child(creative, "CompanionAds")
    return Creative(
        id=Reader.attribute(creative, "id"),
        ad_id=Reader.attribute_in_any_case(creative, "adId"),
        sequence=Reader.integer(creative, "sequence"),
        api_framework=Reader.attribute(creative, "apiFramework"),
        universal_ad_ids=tuple(_universal_ad_ids(reader, creative)),
        linear=None if linear is None else _linear(reader, linear),
        nonlinears=tuple(
            _nonlinear(reader, found) for found in reader.path(creative, "NonLinearAds", "NonLinear")
        ),
        nonlinear_tracking=tuple(
            tracking
            for overlays in reader.children(creative, "NonLinearAds")
            for tracking in read_trackings(reader, overlays)
        ),
        companions=tuple(
            _companion(reader, found) for found in reader.path(creative, "CompanionAds", "Companion")
        ),
        companions_required=None if companions is None else Reader.attribute(companions, "required"),
    )


def read_trackings(reader: Reader, parent: Element) -> tuple[Tracking, ...]:
    """The ``TrackingEvents/Tracking`` of *parent* that name an event and have an address."""
    return tuple(
        Tracking(event, uri, Reader.attribute(tracking, "offset"))
        for tracking in reader.path(parent, "TrackingEvents", "Tracking")
        if (event := Reader.attribute(tracking, "event")) is not None
        and (uri := reader.uri(tracking)) is not None
    )


def _universal_ad_ids(reader: Reader, creative: Element) -> Iterator[UniversalAdId]:
    for element in reader.children(creative, "UniversalAdId"):
        # VAST 4.0 also had an idValue attribute; the content is the source of truth (§3.7.1).
        value = reader.text(element) or Reader.attribute(element, "idValue") or "unknown"
        yield UniversalAdId(Reader.attribute(element, "idRegistry") or "unknown", value)


def _linear(reader: Reader, linear: Element) -> Linear:
    return Linear(
        duration_ms=parse_time_ms(reader.text(reader.child(linear, "Duration"))),
        skip_offset=Reader.attribute_in_any_case(linear, "skipoffset"),
        ad_parameters=reader.text(reader.child(linear, "AdParameters")) or None,
        media_files=tuple(_media_files(reader, linear, "MediaFiles", "MediaFile")),
        mezzanines=tuple(_media_files(reader, linear, "MediaFiles", "Mezzanine")),
        interactive_files=(
            *_media_files(reader, linear, "MediaFiles", "InteractiveCreativeFile"),
            *_media_files(reader, linear, "InteractiveCreativeFile"),
        ),
        closed_captions=tuple(_closed_captions(reader, linear)),
        clicks=_video_clicks(reader, linear),
        tracking=read_trackings(reader, linear),
        icons=tuple(_icon(reader, icon) for icon in reader.path(linear, "Icons", "Icon")),
    )


def _media_files(reader: Reader, linear: Element, *path: str) -> Iterator[MediaFile]:
    for element in reader.path(linear, *path):
        uri = reader.uri(element)
        if uri is None:
            continue
        yield MediaFile(
            uri=uri,
            type=Reader.attribute(element, "type"),
            delivery=Reader.attribute(element, "delivery"),
            width=Reader.integer(element, "width"),
            height=Reader.integer(element, "height"),
            bitrate=Reader.integer(element, "bitrate"),
            min_bitrate=Reader.integer(element, "minBitrate"),
            max_bitrate=Reader.integer(element, "maxBitrate"),
            codec=Reader.attribute(element, "codec"),
            id=Reader.attribute(element, "id"),
            api_framework=Reader.attribute(element, "apiFramework"),
        )


def _closed_captions(reader: Reader, linear: Element) -> Iterator[ClosedCaption]:
    for element in reader.path(linear, "MediaFiles", "ClosedCaptionFiles", "ClosedCaptionFile"):
        uri = reader.uri(element)
        if uri is not None:
            yield ClosedCaption(uri, Reader.attribute(element, "type"), Reader.attribute(element, "language"))


def _video_clicks(reader: Reader, linear: Element) -> VideoClicks:
    through: str | None = None
    tracking: list[str] = []
    custom: list[str] = []
    for clicks in reader.children(linear, "VideoClicks"):
        through = through or reader.uri(reader.child(clicks, "ClickThrough"))
        tracking += reader.uris(clicks, "ClickTracking")
        custom += reader.uris(clicks, "CustomClick")
    return VideoClicks(through, tuple(tracking), tuple(custom))


def _resources(reader: Reader, parent: Element) -> tuple[Resource, ...]:
    return tuple(
        Resource(kind, value, Reader.attribute(element, "creativeType"))
        for name, kind in _RESOURCES
        for element in reader.children(parent, name)
        if (value := reader.text(element))
    )


def _icon(reader: Reader, icon: Element) -> Icon:
    clicks = reader.child(icon, "IconClicks")
    return Icon(
        program=Reader.attribute(icon, "program"),
        width=Reader.integer(icon, "width"),
        height=Reader.integer(icon, "height"),
        x_position=Reader.attribute(icon, "xPosition"),
        y_position=Reader.attribute(icon, "yPosition"),
        resources=_resources(reader, icon),
        click_through=reader.uri(reader.child(clicks, "IconClickThrough")),
        click_tracking=reader.uris(clicks, "IconClickTracking"),
        view_tracking=reader.uris(icon, "IconViewTracking"),
        offset_ms=parse_time_ms(Reader.attribute(icon, "offset")),
        duration_ms=parse_time_ms(Reader.attribute(icon, "duration")),
        api_framework=Reader.attribute(icon, "apiFramework"),
    )


def _nonlinear(reader: Reader, element: Element) -> NonLinear:
    return NonLinear(
        id=Reader.attribute(element, "id"),
        width=Reader.integer(element, "width"),
        height=Reader.integer(element, "height"),
        api_framework=Reader.attribute(element, "apiFramework"),
        min_suggested_duration_ms=parse_time_ms(Reader.attribute(element, "minSuggestedDuration")),
        resources=_resources(reader, element),
        click_through=reader.uri(reader.child(element, "NonLinearClickThrough")),
        click_tracking=reader.uris(element, "NonLinearClickTracking"),
        ad_parameters=reader.text(reader.child(element, "AdParameters")) or None,
    )


def _companion(reader: Reader, element: Element) -> Companion:
    return Companion(
        id=Reader.attribute(element, "id"),
        width=Reader.integer(element, "width"),
        height=Reader.integer(element, "height"),
        ad_slot_id=Reader.attribute_in_any_case(element, "adSlotId"),
        api_framework=Reader.attribute(element, "apiFramework"),
        resources=_resources(reader, element),
        click_through=reader.uri(reader.child(element, "CompanionClickThrough")),
        click_tracking=reader.uris(element, "CompanionClickTracking"),
        tracking=read_trackings(reader, element),
        alt_text=reader.text(reader.child(element, "AltText")) or None,
        ad_parameters=reader.text(reader.child(element, "AdParameters")) or None,
    )
