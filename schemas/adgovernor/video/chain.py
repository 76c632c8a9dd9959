"""A resolved ad: an InLine and the Wrappers above it, and what they say together (VAST 4.3 §2.3.5).

Pure: which documents to fetch is decided elsewhere; here is what a chain means once it is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urljoin

from adgovernor.video.model import (
    Ad,
    Category,
    Companion,
    Creative,
    Icon,
    InLine,
    Linear,
    NonLinear,
    Tracking,
    UniversalAdId,
    Verification,
    Wrapper,
)

_T_co = TypeVar("_T_co", covariant=True)


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
class Sourced(Generic[_T_co]):
    """What a document says, and the address of that document."""

    value: _T_co
    base_url: str

    def absolute(self, uri: str) -> str:
        """*uri* of the value resolved by RFC 3986 §5; as written when it cannot be read as an address."""
        return resolve_uri(self.base_url, uri) or uri


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

    @property
    def _parts(self) -> tuple[tuple[Ad, str], ...]:
        """The InLine and then the Wrappers, nearest first, each with its document's address."""
        return (
            (self.inline, self.base_url),
            *((hop.wrapper, hop.base_url) for hop in reversed(self.hops)),
        )

    def _gather(self, read: Callable[[Ad], Iterable[str]]) -> tuple[TrackedUri, ...]:
        """What *read* finds in the InLine and then in the Wrappers, nearest first."""
        return tuple(TrackedUri(uri, base) for ad, base in self._parts for uri in read(ad))

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
        return dict(
            Counter(
                found.key for ad, _ in self._parts for linear in _linears(ad) for found in linear.tracking
            )
        )

    def tracking_for(self, key: str) -> tuple[TrackedUri, ...]:
        """The linear tracking addresses of the event *key*."""
        return self._gather(
            lambda ad: [found.uri for linear in _linears(ad) for found in linear.tracking if found.key == key]
        )

    def _by_event(self, read: Callable[[Ad], Iterable[Tracking]]) -> dict[str, tuple[TrackedUri, ...]]:
        """What *read* finds along the chain, nearest the InLine first, in one pass however many events there are."""
        found: dict[str, list[TrackedUri]] = {}
        for ad, base_url in self._parts:
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
    def companions(self) -> tuple[Sourced[Companion], ...]:
        """The companions nearest the InLine (§2.3.5.2): its own, else those of the nearest Wrapper with any."""
        for ad, base_url in self._parts:
            found = tuple(companion for creative in ad.creatives for companion in creative.companions)
            if any(companion.resources for companion in found):
                return tuple(Sourced(companion, base_url) for companion in found)
        return ()

    @property
    def icons(self) -> tuple[Sourced[Icon], ...]:
        """The icons of the chain; of a program that several parts of it name, those nearest the InLine (§3.11)."""
        shown: list[Sourced[Icon]] = []
        programs: set[str] = set()
        for ad, base_url in self._parts:
            icons = [icon for linear in _linears(ad) for icon in linear.icons]
            shown += [
                Sourced(icon, base_url) for icon in icons if (icon.program or "").lower() not in programs
            ]
            programs |= {icon.program.lower() for icon in icons if icon.program is not None}
        return tuple(shown)

    @property
    def overlay_click_tracking(self) -> tuple[TrackedUri, ...]:
        """The NonLinearClickTracking of the Wrappers, which counts for every overlay beside its own."""
        return tuple(
            TrackedUri(uri, hop.base_url)
            for hop in reversed(self.hops)
            for creative in hop.wrapper.creatives
            for overlay in creative.nonlinears
            for uri in overlay.click_tracking
        )

    @property
    def verifications(self) -> tuple[Sourced[Verification], ...]:
        """Every Verification of the chain; all are to be run (§2.4.2)."""
        return tuple(Sourced(found, base_url) for ad, base_url in self._parts for found in ad.verifications)

    @property
    def linear(self) -> Linear | None:
        """The InLine's first linear creative."""
        return next(_linears(self.inline), None)

    @property
    def universal_ad_ids(self) -> tuple[UniversalAdId, ...]:
        """The registered identities of the InLine's first linear creative."""
        return next(
            (found.universal_ad_ids for found in self.inline.creatives if found.linear is not None), ()
        )

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
