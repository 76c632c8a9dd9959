"""From a resolution to the contract of ``ads``: the playable ad with the tracking of its whole chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adgovernor.contracts.ads import (
    AdCaption,
    AdCompanion,
    AdError,
    AdIcon,
    AdMediaFile,
    AdOverlay,
    AdResource,
    AdTracking,
    AdUniversalId,
    AdVerification,
    PlayableAd,
)
from adgovernor.sessions.resolver import Resolution
from adgovernor.video import ResolvedAd, Sourced, TrackedUri
from adgovernor.video.model import (
    Companion,
    Icon,
    InLine,
    Linear,
    MediaFile,
    NonLinear,
    Resource,
    Tracking,
    Verification,
)


def playable_ads(resolution: Resolution) -> tuple[PlayableAd, ...]:
    """The ads to play, in play order."""
    return tuple(map(_playable, resolution.play))


def ad_errors(resolution: Resolution) -> tuple[AdError, ...]:
    """What went wrong along the chain."""
    return tuple(AdError(code=int(error.code), message=error.message) for error in resolution.errors)


def _playable(ad: ResolvedAd) -> PlayableAd:
    own = Sourced(ad.inline, ad.base_url)
    linear = ad.linear or Linear()
    through = ad.click_through
    return PlayableAd(
        ad_id=ad.inline.id,
        ad_serving_id=ad.inline.ad_serving_id,
        sequence=ad.sequence,
        title=ad.inline.title,
        wrappers=len(ad.hops),
        universal_ad_ids=tuple(
            AdUniversalId(registry=found.registry, value=found.value) for found in ad.universal_ad_ids
        ),
        duration_ms=ad.duration_ms,
        skip_offset=linear.skip_offset,
        media_files=_files(own, linear.media_files),
        mezzanines=_files(own, linear.mezzanines),
        interactive_files=_files(own, linear.interactive_files),
        captions=tuple(
            AdCaption(uri=own.absolute(found.uri), type=found.type, language=found.language)
            for found in linear.closed_captions
        ),
        parameters=linear.ad_parameters,
        impressions=_uris(ad.impressions),
        tracking=(
            *_tracking(ad.tracking),
            *_tracking(
                {
                    "viewable": ad.viewable,
                    "notViewable": ad.not_viewable,
                    "viewUndetermined": ad.view_undetermined,
                }
            ),
        ),
        click_through=None if through is None else (through.absolute() or through.uri),
        click_tracking=_uris(ad.click_tracking),
        custom_clicks=_uris(ad.custom_clicks),
        errors=_uris(ad.errors),
        companions=tuple(map(_companion, ad.companions)),
        overlays=tuple(
            _overlay(Sourced(overlay, ad.base_url), _uris(ad.overlay_click_tracking))
            for overlay in ad.inline_nonlinears
        ),
        overlay_tracking=tuple(_tracking(ad.nonlinear_tracking)),
        icons=tuple(map(_icon, ad.icons)),
        verifications=tuple(map(_verification, ad.verifications)),
        categories=tuple(category.value for category in ad.inline.categories),
    )


def _files(own: Sourced[InLine], files: Iterable[MediaFile]) -> tuple[AdMediaFile, ...]:
    return tuple(
        AdMediaFile(
            uri=own.absolute(file.uri),
            type=file.type,
            delivery=file.delivery,
            width=file.width,
            height=file.height,
            bitrate=file.bitrate,
            codec=file.codec,
            api_framework=file.api_framework,
        )
        for file in files
    )


def _companion(found: Sourced[Companion]) -> AdCompanion:
    companion = found.value
    return AdCompanion(
        width=companion.width,
        height=companion.height,
        ad_slot_id=companion.ad_slot_id,
        resources=_resources(found, companion.resources),
        click_through=_one(found, companion.click_through),
        click_tracking=_all(found, companion.click_tracking),
        tracking=_told(found, companion.tracking),
    )


def _overlay(found: Sourced[NonLinear], of_wrappers: tuple[str, ...]) -> AdOverlay:
    overlay = found.value
    return AdOverlay(
        width=overlay.width,
        height=overlay.height,
        min_duration_ms=overlay.min_suggested_duration_ms,
        api_framework=overlay.api_framework,
        parameters=overlay.ad_parameters,
        resources=_resources(found, overlay.resources),
        click_through=_one(found, overlay.click_through),
        click_tracking=(*_all(found, overlay.click_tracking), *of_wrappers),
    )


def _icon(found: Sourced[Icon]) -> AdIcon:
    icon = found.value
    return AdIcon(
        program=icon.program,
        width=icon.width,
        height=icon.height,
        x_position=icon.x_position,
        y_position=icon.y_position,
        offset_ms=icon.offset_ms,
        duration_ms=icon.duration_ms,
        api_framework=icon.api_framework,
        resources=_resources(found, icon.resources),
        click_through=_one(found, icon.click_through),
        click_tracking=_all(found, icon.click_tracking),
        view_tracking=_all(found, icon.view_tracking),
    )


def _verification(found: Sourced[Verification]) -> AdVerification:
    code = found.value
    return AdVerification(
        vendor=code.vendor,
        resources=_resources(found, code.resources),
        parameters=code.parameters,
        tracking=_told(found, code.tracking),
    )


def _resources(found: Sourced[object], resources: Iterable[Resource]) -> tuple[AdResource, ...]:
    return tuple(
        AdResource(
            kind=resource.kind,
            value=resource.value if resource.kind == "html" else found.absolute(resource.value),
            type=resource.creative_type,
            api_framework=resource.api_framework,
        )
        for resource in resources
    )


def _one(found: Sourced[object], uri: str | None) -> str | None:
    return None if uri is None else found.absolute(uri)


def _all(found: Sourced[object], uris: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(found.absolute, uris))


def _told(found: Sourced[object], trackings: Iterable[Tracking]) -> tuple[AdTracking, ...]:
    return tuple(AdTracking(event=each.key, uri=found.absolute(each.uri)) for each in trackings)


def _tracking(by_event: Mapping[str, tuple[TrackedUri, ...]]) -> Iterable[AdTracking]:
    return (AdTracking(event=event, uri=uri) for event, uris in by_event.items() for uri in _uris(uris))


def _uris(uris: Iterable[TrackedUri]) -> tuple[str, ...]:
    # What cannot be read as an address stays as written: whoever fires it says so.
    return tuple(uri.absolute() or uri.uri for uri in uris)
