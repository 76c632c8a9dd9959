"""Resolved ads: what a decided ad's tag came to (topic ``ads``).

Written by the ``resolve`` stage, which may write an event again after a crash: a reader ignores what it has seen, by
decision id and slot. Addresses are absolute and hold their macros; whoever fires one fills them in at that moment.
"""

from __future__ import annotations

from pydantic import Field

from adgovernor.contracts.base import Contract, DurationMs, Id, Many, RoutingId, TagUrl, TimeMs


class AdMediaFile(Contract):
    """A file to play, its original for transcoding, or code to run beside it (VAST 4.3 §3.9.1-3)."""

    uri: str
    type: str | None = None
    delivery: str | None = None
    width: int | None = None
    height: int | None = None
    bitrate: int | None = None
    codec: str | None = None
    api_framework: str | None = None


class AdTracking(Contract):
    """An address to request when something happens."""

    event: str
    """``start``, ``firstQuartile``… or ``progress@00:00:10``, as VAST names them; ``viewable``, ``notViewable`` and
    ``viewUndetermined`` for viewability."""
    uri: str


class AdResource(Contract):
    """What a companion, overlay or icon shows, or code that measures."""

    kind: str
    """``static``, ``iframe``, ``javascript`` or ``executable``, whose value is an address; or ``html``."""
    value: str
    type: str | None = None
    """MIME, of what is static."""
    api_framework: str | None = None
    """What runs the code that measures, such as ``omid``."""


class AdCompanion(Contract):
    """A display ad beside the player (VAST 4.3 §3.13.1)."""

    width: int | None = None
    height: int | None = None
    ad_slot_id: str | None = None
    resources: Many[AdResource] = ()
    click_through: str | None = None
    click_tracking: Many[str] = ()
    tracking: Many[AdTracking] = ()


class AdCaption(Contract):
    """A file with captions (VAST 4.3 §3.9.4)."""

    uri: str
    type: str | None = None
    language: str | None = None


class AdOverlay(Contract):
    """An ad over the content (VAST 4.3 §3.12.1)."""

    width: int | None = None
    height: int | None = None
    min_duration_ms: DurationMs | None = None
    """How long it wants to be seen at least."""
    api_framework: str | None = None
    """What its resources are code for, such as ``VPAID``."""
    parameters: str | None = None
    resources: Many[AdResource] = ()
    click_through: str | None = None
    click_tracking: Many[str] = ()


class AdIcon(Contract):
    """An industry's icon over a linear ad, such as AdChoices (VAST 4.3 §3.11)."""

    program: str | None = None
    width: int | None = None
    height: int | None = None
    x_position: str | None = None
    y_position: str | None = None
    offset_ms: DurationMs | None = None
    """When it is shown, from the ad's start; left out: at its start."""
    duration_ms: DurationMs | None = None
    """How long it is shown; left out: to the ad's end."""
    api_framework: str | None = None
    resources: Many[AdResource] = ()
    click_through: str | None = None
    click_tracking: Many[str] = ()
    view_tracking: Many[str] = ()


class AdUniversalId(Contract):
    """The creative's identity in a registry, the same from whichever server it comes (VAST 4.3 §3.7.1)."""

    registry: str
    value: str


class AdVerification(Contract):
    """Third-party measurement code (VAST 4.3 §3.17)."""

    vendor: str | None = None
    resources: Many[AdResource] = ()
    parameters: str | None = None
    tracking: Many[AdTracking] = ()
    """Told when the code does not run (``verificationNotExecuted``)."""


class PlayableAd(Contract):
    """An ad with the tracking of its whole chain, the ad's own first, then that of the Wrappers, nearest first."""

    ad_id: str | None = None
    ad_serving_id: str | None = None
    sequence: int | None = None
    title: str | None = None
    wrappers: int = 0
    """How many Wrappers led to it."""
    universal_ad_ids: Many[AdUniversalId] = ()
    """Of its first linear creative."""
    duration_ms: DurationMs | None = None
    skip_offset: str | None = None
    media_files: Many[AdMediaFile] = ()
    mezzanines: Many[AdMediaFile] = ()
    interactive_files: Many[AdMediaFile] = ()
    captions: Many[AdCaption] = ()
    parameters: str | None = None
    """What code among the media and interactive files is given."""
    impressions: Many[str] = ()
    tracking: Many[AdTracking] = ()
    click_through: str | None = None
    click_tracking: Many[str] = ()
    custom_clicks: Many[str] = ()
    errors: Many[str] = ()
    """Told when the ad cannot be played, with ``[ERRORCODE]`` filled in."""
    companions: Many[AdCompanion] = ()
    overlays: Many[AdOverlay] = ()
    overlay_tracking: Many[AdTracking] = ()
    """Of the overlays, whichever is shown."""
    icons: Many[AdIcon] = ()
    verifications: Many[AdVerification] = ()
    categories: Many[str] = ()


class AdError(Contract):
    """An error of the chain, which its Error addresses have been told of."""

    code: int
    """Of VAST (§2.3.6.3): 100 no XML, 301 unavailable, 302 too many Wrappers, 303 no ad…"""
    message: str


class Ad(Contract):
    """What a decided ad's tag came to: the ads to play in its slot, in play order, or why there is none."""

    decision_id: Id
    slot: int = Field(ge=0)
    routing_id: RoutingId
    """The decision's; to be echoed as field and key of impressions."""
    time_ms: TimeMs
    """The decision's event time."""
    deadline_ms: TimeMs
    """The decision's: an impression after it counts as late."""
    campaign_id: Id
    creative_id: Id
    tag_url: TagUrl
    session_id: str
    """The session that it was fetched in."""
    ads: Many[PlayableAd] = ()
    errors: Many[AdError] = ()
    requested: Many[str] = ()
    """Every document that was asked for."""
    resolved_ms: TimeMs
    """When it was resolved, by the stage's clock."""
