"""A resolved ad: an InLine and the Wrappers above it, and what they say together (VAST 4.3 §2.3.5).

Pure: which documents to fetch is decided elsewhere; here is what a chain means once it is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

from adgovernor.video.model import (
    Ad,
    Category,
    Companion,
    Creative,
    InLine,
    Linear,
    NonLinear,
    Tracking,
    Verification,
    Wrapper,
)


@dataclass(frozen=True, slots=True)
class TrackedUri:
    """An address as written, and the address of the document that wrote it."""

    uri: str
    base_url: str

    def absolute(self) -> str | None:
        """The address resolved by RFC 3986 §5; None when it cannot be read as one."""
        return resolve_uri(self.base_url, self.uri)


def resolve_uri(base_url: str, uri: str) -> str | None:
    """*uri* resolved against *base_url* by RFC 3986 §5; None when it cannot be read as an address."""
    try:
        return urljoin(base_url, uri)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Hop:
    """One Wrapper of a chain, the document it came from, and a number that is its own in one resolution.

    The same address may be fetched twice; *element* tells the two apart, so that each Error element is called once.
    """

    wrapper: Wrapper
    base_url: str
    element: int


@dataclass(frozen=True, slots=True)
class ResolvedAd:
    """An InLine ad with the Wrappers above it, outermost first.

    *sequence* is the ad's place in its pod: the InLine's own, or that of the sequenced Wrapper that yielded it alone.
    """

    inline: InLine
    base_url: str
    element: int
    hops: tuple[Hop, ...] = ()
    sequence: int | None = None

    def _gather(self, read: Callable[[Ad], Sequence[str]]) -> tuple[TrackedUri, ...]:
        """What *read* finds in the InLine and then in the Wrappers, nearest first."""
        parts: list[tuple[Ad, str]] = [(self.inline, self.base_url)]
        parts += [(hop.wrapper, hop.base_url) for hop in reversed(self.hops)]
        return tuple(TrackedUri(uri, base) for ad, base in parts for uri in read(ad))

    @property
    def impressions(self) -> tuple[TrackedUri, ...]:
        """Every Impression of the chain."""
        return self._gather(lambda ad: [impression.uri for impression in ad.impressions])

    @property
    def errors(self) -> tuple[TrackedUri, ...]:
        """Every Error of the chain."""
        return self._gather(lambda ad: ad.errors)

    @property
    def click_tracking(self) -> tuple[TrackedUri, ...]:
        """Every linear ClickTracking of the chain."""
        return self._gather(
            lambda ad: [uri for linear in _linears(ad) for uri in linear.clicks.click_tracking]
        )

    @property
    def custom_clicks(self) -> tuple[TrackedUri, ...]:
        """Every linear CustomClick of the chain."""
        return self._gather(
            lambda ad: [uri for linear in _linears(ad) for uri in linear.clicks.custom_clicks]
        )

    @property
    def viewable(self) -> tuple[TrackedUri, ...]:
        """Every ViewableImpression/Viewable of the chain."""
        return self._gather(lambda ad: ad.viewable_impression.viewable if ad.viewable_impression else ())

    @property
    def not_viewable(self) -> tuple[TrackedUri, ...]:
        """Every ViewableImpression/NotViewable of the chain."""
        return self._gather(lambda ad: ad.viewable_impression.not_viewable if ad.viewable_impression else ())

    @property
    def view_undetermined(self) -> tuple[TrackedUri, ...]:
        """Every ViewableImpression/ViewUndetermined of the chain."""
        return self._gather(lambda ad: ad.viewable_impression.undetermined if ad.viewable_impression else ())

    @property
    def tracking(self) -> dict[str, tuple[TrackedUri, ...]]:
        """Every linear tracking address of the chain, by event key (``progress@00:00:10``)."""
        return self._by_event(lambda ad: (found for linear in _linears(ad) for found in linear.tracking))

    @property
    def nonlinear_tracking(self) -> dict[str, tuple[TrackedUri, ...]]:
        """Every nonlinear tracking address of the chain, by event."""
        return self._by_event(
            lambda ad: (found for creative in ad.creatives for found in creative.nonlinear_tracking)
        )

    @property
    def tracking_counts(self) -> dict[str, int]:
        """How many linear tracking addresses each event has."""
        ads = (self.inline, *(hop.wrapper for hop in reversed(self.hops)))
        return dict(Counter(found.key for ad in ads for linear in _linears(ad) for found in linear.tracking))

    def tracking_for(self, key: str) -> tuple[TrackedUri, ...]:
        """The linear tracking addresses of the event *key*."""
        return self._gather(
            lambda ad: [found.uri for linear in _linears(ad) for found in linear.tracking if found.key == key]
        )

    def _by_event(self, read: Callable[[Ad], Iterable[Tracking]]) -> dict[str, tuple[TrackedUri, ...]]:
        """What *read* finds along the chain, nearest the InLine first, in one pass however many events there are."""
        parts: list[tuple[Ad, str]] = [(self.inline, self.base_url)]
        parts += [(hop.wrapper, hop.base_url) for hop in reversed(self.hops)]
        found: dict[str, list[TrackedUri]] = {}
        for ad, base_url in parts:
            for tracking in read(ad):
                found.setdefault(tracking.key, []).append(TrackedUri(tracking.uri, base_url))
        return {key: tuple(uris) for key, uris in found.items()}

    @property
    def click_through(self) -> TrackedUri | None:
        """The ClickThrough nearest the InLine (§2.3.5.2)."""
        found = self._gather(
            lambda ad: [linear.clicks.click_through for linear in _linears(ad) if linear.clicks.click_through]
        )
        return found[0] if found else None

    @property
    def companions(self) -> tuple[Companion, ...]:
        """The companions nearest the InLine (§2.3.5.2): its own, else those of the nearest Wrapper with any."""
        for ad in (self.inline, *(hop.wrapper for hop in reversed(self.hops))):
            found = tuple(companion for creative in ad.creatives for companion in creative.companions)
            if any(companion.resources for companion in found):
                return found
        return ()

    @property
    def verifications(self) -> tuple[Verification, ...]:
        """Every Verification of the chain; all are to be run (§2.4.2)."""
        ads = (self.inline, *(hop.wrapper for hop in reversed(self.hops)))
        return tuple(verification for ad in ads for verification in ad.verifications)

    @property
    def linear(self) -> Linear | None:
        """The InLine's first linear creative."""
        return next(_linears(self.inline), None)

    @property
    def conditional(self) -> bool:
        """Whether the ad, or a Wrapper above it, is conditional."""
        return self.inline.conditional or any(hop.wrapper.conditional for hop in self.hops)

    @property
    def duration_ms(self) -> int | None:
        """The first linear creative's duration; None when there is none or it is unreadable."""
        return self.linear.duration_ms if self.linear is not None else None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The InLine's linear creatives."""
        return tuple(_linears(self.inline))

    @property
    def inline_companions(self) -> tuple[Companion, ...]:
        """The InLine's own companions."""
        return tuple(companion for creative in self.inline.creatives for companion in creative.companions)

    @property
    def inline_nonlinears(self) -> tuple[NonLinear, ...]:
        """The InLine's own overlays."""
        return tuple(overlay for creative in self.inline.creatives for overlay in creative.nonlinears)

    @property
    def blocked_category(self) -> str | None:
        """The InLine category that a Wrapper above it blocks (§3.19.2), if any.

        Categories are compared within one authority's list; one that names no authority is taken at its word.
        """
        blocked: dict[str, set[str | None]] = {}
        for hop in self.hops:
            for category in hop.wrapper.blocked_categories:
                blocked.setdefault(category.value, set()).add(_authority(category))
        for category in self.inline.categories:
            lists = blocked.get(category.value)
            if lists and (None in lists or _authority(category) is None or _authority(category) in lists):
                return category.value
        return None


def _authority(category: Category) -> str | None:
    return None if category.authority is None else category.authority.rstrip("/").lower()


def _linears(ad: Ad) -> Iterator[Linear]:
    creatives: tuple[Creative, ...] = ad.creatives
    for creative in creatives:
        if creative.linear is not None:
            yield creative.linear
