"""Which ads of a response are played, and in which order (VAST 4.3 §3.3.1, §3.19).

A document's sequenced ads are a pod and play by sequence; its stand-alone ads are spares beside a pod, and all play
in document order without one. A Wrapper's place is taken by what it yielded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adgovernor.video.chain import ResolvedAd
from adgovernor.video.model import BrokenAd, InLine, VastDocument, Wrapper


@dataclass(frozen=True, slots=True)
class Yield:
    """What one Ad element came to: its ads in document order, and those of them to play, in play order."""

    ad: InLine | Wrapper | BrokenAd
    ads: tuple[ResolvedAd, ...] = ()
    play: tuple[ResolvedAd, ...] = ()


def allowed_ads(
    document: VastDocument, *, multiple: bool, wrappers: bool
) -> tuple[InLine | Wrapper | BrokenAd, ...]:
    """The ads of *document* that the Wrapper above it accepts.

    *wrappers* False (followAdditionalWrappers) ignores Wrappers; *multiple* False (allowMultipleAds) takes the first
    stand-alone ad of what is left, and nothing where all are sequenced.
    """
    ads = tuple(ad for ad in document.ads if wrappers or not isinstance(ad, Wrapper))
    if multiple:
        return ads
    return next(((ad,) for ad in ads if ad.sequence is None), ())


def play_order(yields: Sequence[Yield]) -> tuple[ResolvedAd, ...]:
    """The ads of one document in the order in which they play.

    A place in the pod that came to nothing takes the first unused spare: a Wrapper's only when it says
    fallbackOnNoAd="true" (§3.19), any other ad's always (§3.3.1).
    """
    pod = sorted(
        (found for found in yields if found.ad.sequence is not None), key=lambda found: found.ad.sequence or 0
    )
    stand_alone = [found.play for found in yields if found.ad.sequence is None and found.play]
    if not pod:
        return tuple(ad for play in stand_alone for ad in play)
    spares = iter(stand_alone)
    order: list[ResolvedAd] = []
    for place in pod:
        if place.play:
            order += place.play
        elif not isinstance(place.ad, Wrapper) or place.ad.fallback_on_no_ad is True:
            order += next(spares, ())
    return tuple(order)
