"""What a player requires of an ad, and the error code of an ad that does not meet it (VAST 4.3 §2.3.6.3, 200-406)."""

from __future__ import annotations

from dataclasses import dataclass

from adgovernor.video.chain import ResolvedAd
from adgovernor.video.codes import VastError


@dataclass(frozen=True, slots=True)
class Expectations:
    """A placement's requirements; the default accepts every ad that no Wrapper above it forbids.

    *linearity* is ``linear`` or ``nonlinear``; *max_duration_ms* is inclusive; *media_types* are MIME types of which
    one must be offered; *max_width* and *max_height* bound overlays, in pixels. Whoever stitches ads into a stream
    cannot take conditional ones and sets *accept_conditional* to False.
    """

    linearity: str | None = None
    max_duration_ms: int | None = None
    media_types: frozenset[str] = frozenset()
    max_width: int | None = None
    max_height: int | None = None
    require_category: bool = False
    require_mezzanine: bool = False
    honour_blocked_categories: bool = True
    accept_conditional: bool = True


def unmet_expectation(ad: ResolvedAd, expected: Expectations) -> VastError | None:
    """The code of the first requirement that *ad* does not meet; None when it can be played."""
    if expected.require_category and not ad.inline.categories:
        return VastError.CATEGORY_REQUIRED
    if expected.honour_blocked_categories and ad.blocked_category is not None:
        return VastError.CATEGORY_BLOCKED
    if not expected.accept_conditional and ad.conditional:
        return VastError.CONDITIONAL_REJECTED
    if expected.linearity == "linear" and ad.linear is None:
        return VastError.LINEARITY
    if expected.linearity == "nonlinear":
        if not ad.inline_nonlinears:
            return VastError.LINEARITY
        if not any(_fits(overlay.width, overlay.height, expected) for overlay in ad.inline_nonlinears):
            return VastError.SIZE
    return _unmet_by_linear(ad, expected)


def _fits(width: int | None, height: int | None, expected: Expectations) -> bool:
    wide = width is not None and expected.max_width is not None and width > expected.max_width
    high = height is not None and expected.max_height is not None and height > expected.max_height
    return not (wide or high)


def _unmet_by_linear(ad: ResolvedAd, expected: Expectations) -> VastError | None:
    linear = ad.linear
    if linear is None:
        return None
    too_long = (
        expected.max_duration_ms is not None
        and linear.duration_ms is not None
        and linear.duration_ms > expected.max_duration_ms
    )
    if too_long:
        return VastError.DURATION
    if expected.require_mezzanine and not linear.mezzanines:
        return VastError.MEZZANINE_REQUIRED
    if expected.media_types and not any(file.type in expected.media_types for file in linear.media_files):
        return VastError.MEDIA_UNSUPPORTED
    return None
