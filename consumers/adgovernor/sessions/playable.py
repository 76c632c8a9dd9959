"""From a resolution to the contract of ``ads``: the playable ad with the tracking of its whole chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adgovernor.contracts.ads import (
    AdCompanion,
    AdError,
    AdMediaFile,
    AdResource,
    AdTracking,
    AdVerification,
    PlayableAd,
)
from adgovernor.sessions.resolver import Resolution
from adgovernor.video import ResolvedAd, TrackedUri
from adgovernor.video.model import Companion, Resource


def playable_ads(resolution: Resolution) -> tuple[PlayableAd, ...]:
    """The ads to play, in play order."""
    return tuple(map(_playable, resolution.play))


def ad_errors(resolution: Resolution) -> tuple[AdError, ...]:
    """What went wrong along the chain."""
    return tuple(AdError(code=int(error.code), message=error.message) for error in resolution.errors)


def _playable(ad: ResolvedAd) -> PlayableAd:
    linear = ad.linear
    through = ad.click_through
    return PlayableAd(
        ad_id=ad.inline.id,
        ad_serving_id=ad.inline.ad_serving_id,
        sequence=ad.sequence,
        title=ad.inline.title,
        wrappers=len(ad.hops),
        duration_ms=ad.duration_ms,
        skip_offset=None if linear is None else linear.skip_offset,
        media_files=tuple(
            AdMediaFile(
                uri=_absolute(ad, file.uri),
                type=file.type,
                delivery=file.delivery,
                width=file.width,
                height=file.height,
                bitrate=file.bitrate,
                codec=file.codec,
                api_framework=file.api_framework,
            )
            for file in (() if linear is None else linear.media_files)
        ),
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
        companions=tuple(_companion(ad, companion) for companion in ad.companions),
        verifications=tuple(
            AdVerification(
                vendor=found.vendor, resources=_resources(found.resources), parameters=found.parameters
            )
            for found in ad.verifications
        ),
        categories=tuple(category.value for category in ad.inline.categories),
    )


def _companion(ad: ResolvedAd, companion: Companion) -> AdCompanion:
    return AdCompanion(
        width=companion.width,
        height=companion.height,
        ad_slot_id=companion.ad_slot_id,
        resources=_resources(companion.resources),
        click_through=companion.click_through,
        click_tracking=tuple(_absolute(ad, uri) for uri in companion.click_tracking),
        tracking=tuple(
            AdTracking(event=found.key, uri=_absolute(ad, found.uri)) for found in companion.tracking
        ),
    )


def _resources(resources: Iterable[Resource]) -> tuple[AdResource, ...]:
    return tuple(AdResource(kind=found.kind, value=found.value) for found in resources)


def _tracking(by_event: Mapping[str, tuple[TrackedUri, ...]]) -> Iterable[AdTracking]:
    return (AdTracking(event=event, uri=uri) for event, uris in by_event.items() for uri in _uris(uris))


def _uris(uris: Iterable[TrackedUri]) -> tuple[str, ...]:
    # What cannot be read as an address stays as written: whoever fires it says so.
    return tuple(uri.absolute() or uri.uri for uri in uris)


def _absolute(ad: ResolvedAd, uri: str) -> str:
    return TrackedUri(uri, ad.base_url).absolute() or uri
