"""VAST documents as values: what a server said, element by element, and nothing that was not said.

Addresses are as written (trimmed, empty ones and ``about:blank`` left out); nothing is resolved or expanded here.
Field names follow VAST 4.3's elements and attributes; section numbers are of that edition.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Impression:
    """§3.4.4: an address to request when the ad is shown."""

    uri: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Tracking:
    """§3.14.3: an address to request when *event* happens, for ``progress`` at *offset*."""

    event: str
    uri: str
    offset: str | None = None

    @property
    def key(self) -> str:
        """The event, with the offset as written where it is a progress event (``progress@00:00:10``)."""
        return f"progress@{self.offset}" if self.event == "progress" and self.offset else self.event


@dataclass(frozen=True, slots=True)
class VideoClicks:
    """§3.10: where a click leads, and who is told of it."""

    click_through: str | None = None
    click_tracking: tuple[str, ...] = ()
    custom_clicks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaFile:
    """§3.9.1-3: a media file, mezzanine or interactive file; *api_framework* says that it is code."""

    uri: str
    type: str | None = None
    delivery: str | None = None
    width: int | None = None
    height: int | None = None
    bitrate: int | None = None
    min_bitrate: int | None = None
    max_bitrate: int | None = None
    codec: str | None = None
    id: str | None = None
    api_framework: str | None = None


@dataclass(frozen=True, slots=True)
class ClosedCaption:
    """§3.9.4: a caption file."""

    uri: str
    type: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """§3.15: what a companion, overlay or icon shows; *kind* is ``static``, ``iframe`` or ``html``.

    §3.17: measurement code; *kind* is ``javascript`` or ``executable``, and *api_framework* says what runs it.
    """

    kind: str
    value: str
    creative_type: str | None = None
    api_framework: str | None = None


@dataclass(frozen=True, slots=True)
class Icon:
    """§3.11: an industry icon over a linear ad, from *offset_ms* (None = its start) for *duration_ms* (None = to its
    end)."""

    program: str | None
    width: int | None
    height: int | None
    x_position: str | None
    y_position: str | None
    resources: tuple[Resource, ...]
    click_through: str | None
    click_tracking: tuple[str, ...]
    view_tracking: tuple[str, ...]
    offset_ms: int | None = None
    duration_ms: int | None = None
    api_framework: str | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """§3.8: an ad in the stream. *duration_ms* is None when absent or unreadable; *skip_offset* as written."""

    duration_ms: int | None = None
    skip_offset: str | None = None
    ad_parameters: str | None = None
    media_files: tuple[MediaFile, ...] = ()
    mezzanines: tuple[MediaFile, ...] = ()
    interactive_files: tuple[MediaFile, ...] = ()
    closed_captions: tuple[ClosedCaption, ...] = ()
    clicks: VideoClicks = VideoClicks()
    tracking: tuple[Tracking, ...] = ()
    icons: tuple[Icon, ...] = ()


@dataclass(frozen=True, slots=True)
class NonLinear:
    """§3.12.1: an overlay."""

    id: str | None
    width: int | None
    height: int | None
    api_framework: str | None
    min_suggested_duration_ms: int | None
    resources: tuple[Resource, ...]
    click_through: str | None
    click_tracking: tuple[str, ...]
    ad_parameters: str | None


@dataclass(frozen=True, slots=True)
class Companion:
    """§3.13.1: a display ad beside the player."""

    id: str | None
    width: int | None
    height: int | None
    ad_slot_id: str | None
    api_framework: str | None
    resources: tuple[Resource, ...]
    click_through: str | None
    click_tracking: tuple[str, ...]
    tracking: tuple[Tracking, ...]
    alt_text: str | None
    ad_parameters: str | None


@dataclass(frozen=True, slots=True)
class UniversalAdId:
    """§3.7.1: the creative's identity in a registry."""

    registry: str
    value: str


@dataclass(frozen=True, slots=True)
class Creative:
    """§3.7: one creative; in a Wrapper, the tracking to add to the wrapped ad's creatives of the same kind."""

    id: str | None = None
    ad_id: str | None = None
    sequence: int | None = None
    api_framework: str | None = None
    universal_ad_ids: tuple[UniversalAdId, ...] = ()
    linear: Linear | None = None
    nonlinears: tuple[NonLinear, ...] = ()
    nonlinear_tracking: tuple[Tracking, ...] = ()
    companions: tuple[Companion, ...] = ()
    companions_required: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """§3.17: third-party measurement code; also read from the ``AdVerifications`` extension of VAST 2 and 3."""

    vendor: str | None
    resources: tuple[Resource, ...]
    tracking: tuple[Tracking, ...]
    parameters: str | None


@dataclass(frozen=True, slots=True)
class ViewableImpression:
    """§3.5: addresses for the publisher's own viewability verdict."""

    id: str | None = None
    viewable: tuple[str, ...] = ()
    not_viewable: tuple[str, ...] = ()
    undetermined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Category:
    """§3.4.5 and §3.19.2: one category code or label of an authority's list."""

    value: str
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class Pricing:
    """§3.4.8: a price as written; never used as money here."""

    value: str
    model: str | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Extension:
    """§3.18: what a vendor added, as XML text."""

    type: str | None
    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ad:
    """§3.3: what InLine and Wrapper ads share. *sequence* is None for a stand-alone ad.

    *conditional* ads may end without having been shown, which only their own code knows (VAST 4.0).
    *xml_bytes* is the length of the XML that it was read from: what it weighs wherever it is repeated.
    """

    id: str | None = None
    sequence: int | None = None
    ad_type: str | None = None
    conditional: bool = False
    ad_system: str | None = None
    impressions: tuple[Impression, ...] = ()
    errors: tuple[str, ...] = ()
    creatives: tuple[Creative, ...] = ()
    viewable_impression: ViewableImpression | None = None
    verifications: tuple[Verification, ...] = ()
    pricing: Pricing | None = None
    extensions: tuple[Extension, ...] = ()
    xml_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InLine(Ad):
    """§3.4: an ad that can be played."""

    title: str | None = None
    description: str | None = None
    advertiser: str | None = None
    ad_serving_id: str | None = None
    expires_s: int | None = None
    survey: str | None = None
    categories: tuple[Category, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper(Ad):
    """§3.19: an ad that another document holds; *tag_uri* is None when the address is missing."""

    tag_uri: str | None = None
    follow_additional_wrappers: bool = True
    allow_multiple_ads: bool = False
    fallback_on_no_ad: bool | None = None
    blocked_categories: tuple[Category, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenAd(Ad):
    """An ``Ad`` element with neither InLine nor Wrapper in it (error 101)."""


@dataclass(frozen=True, slots=True)
class VastDocument:
    """§3.2: one VAST response. *errors* are the root's, for a response without ads."""

    version: str | None
    major_version: int
    ads: tuple[InLine | Wrapper | BrokenAd, ...]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
