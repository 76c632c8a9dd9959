"""Resolves a VAST chain: follows Wrappers, gathers ads, and says which Error addresses are told what.

The rules about documents are :mod:`adgovernor.video`'s; here is the walk. Wrappers of one document are followed at
the same time, and the outcome is put together in document order, so that it is the same however fast each was.
Nothing is cached: an address may be asked again, and a loop ends at the Wrapper limit.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from adgovernor.sessions.errors import FetchError
from adgovernor.sessions.fetch import Fetched, Fetcher
from adgovernor.sessions.transport import Headers
from adgovernor.video import (
    BrokenAd,
    Expectations,
    Hop,
    InLine,
    MacroValue,
    ResolvedAd,
    TrackedUri,
    VastDocument,
    VastError,
    VastFormatError,
    VmapError,
    Wrapper,
    Yield,
    allowed_ads,
    expand,
    expand_error,
    parse_vast,
    play_order,
    resolve_uri,
    unmet_expectation,
)

MacroSource = Callable[[], Mapping[str, MacroValue]]
"""The macro values of the next request: constant ones, and the time and random number of the moment."""

# The first version that has allowMultipleAds; before it every ad of a response counts.
_ALLOW_MULTIPLE_ADS_SINCE = 3
# What an ad weighs at least: even an empty one is a failure to report.
_LEAST_AD_BYTES = 1_024


@dataclass(frozen=True, slots=True)
class ChainLimits:
    """Bounds of one resolution: Wrapper follow-ups in a row, documents in all, what its ads hold, and its time.

    Every ad repeats what the Wrappers above it hold, so a few large documents multiply; *max_xml_bytes* bounds the
    product: the XML of all ads together, that of their Wrappers counted for each. *max_breaks* bounds how many breaks
    of a playlist are followed; each is a resolution of its own.
    """

    max_wrappers: int = 5
    max_documents: int = 64
    max_xml_bytes: int = 4 * 1024 * 1024
    max_breaks: int = 64
    total_timeout_ms: int = 20_000
    max_concurrent: int = 8

    def __post_init__(self) -> None:
        positive = (
            self.max_documents,
            self.max_xml_bytes,
            self.max_breaks,
            self.total_timeout_ms,
            self.max_concurrent,
        )
        if self.max_wrappers < 0 or min(positive) < 1:
            raise ValueError("chain limits are positive (max_wrappers may be 0)")


@dataclass(frozen=True, slots=True)
class FiredError:
    """One error: its code, what happened, and the Error addresses that are told, outermost Wrapper first."""

    code: VastError | VmapError
    message: str
    uris: tuple[TrackedUri, ...] = ()

    @property
    def written_urls(self) -> tuple[str, ...]:
        """The addresses as written, with the error code filled in."""
        return tuple(expand_error(uri.uri, self.code) for uri in self.uris)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What an ad tag came to.

    *requested* holds the address of every document asked for, the first included, in document order. *ads* are in
    document order, *play* in play order; an ad of *ads* that is not in *play* is a spare. *cause* is set when the
    first document could not be fetched, *unreadable* when it was fetched and is no VAST.
    """

    requested: tuple[str, ...]
    ads: tuple[ResolvedAd, ...] = ()
    play: tuple[ResolvedAd, ...] = ()
    errors: tuple[FiredError, ...] = ()
    warnings: tuple[str, ...] = ()
    cause: FetchError | None = None
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class _Errors:
    """The Error addresses of one element, and the number that is its own in one resolution."""

    element: int
    uris: tuple[str, ...]
    base_url: str


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error, and whose Error addresses it is for, outermost first."""

    code: VastError
    message: str
    told: tuple[_Errors, ...] = ()


@dataclass(frozen=True, slots=True)
class _Branch:
    """What one Ad element, or one document, came to."""

    ads: tuple[ResolvedAd, ...] = ()
    play: tuple[ResolvedAd, ...] = ()
    failures: tuple[_Failure, ...] = ()
    requested: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unreadable: bool = False


@dataclass(slots=True)
class _Walk:
    """One resolution's shared state: what is left of its bounds, and where its macros come from."""

    deadline_s: float
    documents_left: int
    xml_bytes_left: int
    gate: asyncio.Semaphore
    macros: MacroSource


class ChainResolver:
    """Resolves ad tags with *fetcher*; *headers* go with every request, *expected* is what the placement accepts."""

    def __init__(
        self,
        fetcher: Fetcher,
        limits: ChainLimits | None = None,
        *,
        headers: Headers = (),
        expected: Expectations | None = None,
    ) -> None:
        self._fetcher = fetcher
        self.limits = limits or ChainLimits()
        self._headers = headers
        self._expected = expected or Expectations()
        # Ad elements are numbered through the resolver's life, so that the same ad fetched twice is two ads.
        self._elements = itertools.count()

    async def resolve(
        self, url: str, macros: MacroSource, headers: Headers = (), *, wrappers: bool = True
    ) -> Resolution:
        """Resolve the ad tag *url*, macros and an empty ``correlator=`` filled in.

        *wrappers* False ignores Wrappers in the answer. Never raises for a bad upstream: that is an error to report.
        """
        walk = self._walk(macros)
        address = expand(url, macros())
        walk.documents_left -= 1
        try:
            fetched = await self._fetch(address, walk, headers)
        except FetchError as error:
            failure = _Failure(VastError.WRAPPER_UNAVAILABLE, str(error))
            return replace(_conclude(_Branch(failures=(failure,), requested=(address,))), cause=error)
        branch = await self._fetched(fetched, (), walk, multiple=True, wrappers=wrappers)
        return _conclude(replace(branch, requested=(address, *branch.requested)))

    async def resolve_fetched(self, fetched: Fetched, macros: MacroSource) -> Resolution:
        """Resolve a document that was fetched (or read from a file) already."""
        branch = await self._fetched(fetched, (), self._walk(macros), multiple=True, wrappers=True)
        return _conclude(replace(branch, requested=(fetched.url, *branch.requested)))

    async def resolve_document(
        self,
        document: VastDocument,
        base_url: str,
        macros: MacroSource,
        *,
        multiple: bool = True,
        wrappers: bool = True,
    ) -> Resolution:
        """Resolve a document that is read already; *multiple* and *wrappers* say what is accepted of it."""
        walk = self._walk(macros)
        return _conclude(
            await self._document(document, base_url, (), walk, multiple=multiple, wrappers=wrappers)
        )

    def _walk(self, macros: MacroSource) -> _Walk:
        return _Walk(
            deadline_s=asyncio.get_running_loop().time() + self.limits.total_timeout_ms / 1000,
            documents_left=self.limits.max_documents,
            xml_bytes_left=self.limits.max_xml_bytes,
            gate=asyncio.Semaphore(self.limits.max_concurrent),
            macros=macros,
        )

    async def _fetch(self, url: str, walk: _Walk, headers: Headers = ()) -> Fetched:
        async with walk.gate:
            left_s = walk.deadline_s - asyncio.get_running_loop().time()
            return await self._fetcher.fetch(url, (*self._headers, *headers), timeout_s=left_s)

    async def _fetched(
        self, fetched: Fetched, hops: tuple[Hop, ...], walk: _Walk, *, multiple: bool, wrappers: bool
    ) -> _Branch:
        if fetched.status == 204:
            # No content is how many servers say that they have no ad.
            return _failed(VastError.NO_AD, f"{fetched.url} answered 204, no ad", hops)
        try:
            document = parse_vast(fetched.body, fetched.charset)
        except VastFormatError as error:
            return replace(_failed(error.code, f"{fetched.url}: {error}", hops), unreadable=True)
        return await self._document(document, fetched.url, hops, walk, multiple=multiple, wrappers=wrappers)

    async def _document(
        self,
        document: VastDocument,
        base_url: str,
        hops: tuple[Hop, ...],
        walk: _Walk,
        *,
        multiple: bool,
        wrappers: bool,
    ) -> _Branch:
        warnings = tuple(f"{base_url}: {warning}" for warning in document.warnings)
        if not document.ads:
            roots = _Errors(next(self._elements), document.errors, base_url)
            failure = _Failure(VastError.NO_AD, f"{base_url} has no ad", (*_chain_errors(hops), roots))
            return _Branch(failures=(failure,), warnings=warnings)
        ads = allowed_ads(document, multiple=multiple, wrappers=wrappers)
        if not ads:
            return replace(
                _failed(VastError.NO_AD, f"{base_url} has no ad that its Wrapper accepts", hops),
                warnings=warnings,
            )
        repeated = sum(hop.wrapper.xml_bytes for hop in hops)
        walk.xml_bytes_left -= sum(max(ad.xml_bytes, _LEAST_AD_BYTES) + repeated for ad in ads)
        if walk.xml_bytes_left < 0:
            message = (
                f"{base_url}: with its Wrappers more than {self.limits.max_xml_bytes} bytes for one ad tag"
            )
            return replace(_failed(VastError.UNDEFINED, message, hops), warnings=warnings)
        numbers = [next(self._elements) for _ in ads]
        branches = await asyncio.gather(
            *(
                self._ad(ad, number, document, base_url, hops, walk)
                for ad, number in zip(ads, numbers, strict=True)
            )
        )
        yields = [Yield(ad, branch.ads, branch.play) for ad, branch in zip(ads, branches, strict=True)]
        joined = _join(branches)
        return replace(joined, play=play_order(yields), warnings=(*warnings, *joined.warnings))

    async def _ad(
        self,
        ad: InLine | Wrapper | BrokenAd,
        number: int,
        document: VastDocument,
        base_url: str,
        hops: tuple[Hop, ...],
        walk: _Walk,
    ) -> _Branch:
        if isinstance(ad, InLine):
            return self._inline(ResolvedAd(ad, base_url, number, hops, ad.sequence))
        if isinstance(ad, Wrapper):
            return await self._wrapper(Hop(ad, base_url, number), document.major_version, hops, walk)
        own = _Errors(number, ad.errors, base_url)
        message = f"{base_url}: ad {ad.id!r} has neither InLine nor Wrapper"
        return _Branch(failures=(_Failure(VastError.SCHEMA, message, (*_chain_errors(hops), own)),))

    def _inline(self, ad: ResolvedAd) -> _Branch:
        if not ad.inline.creatives:
            code, reason = VastError.SCHEMA, "has no creative"
        else:
            unmet = unmet_expectation(ad, self._expected)
            if unmet is None:
                return _Branch(ads=(ad,), play=(ad,))
            code, reason = unmet, f"is not accepted here ({unmet.name.lower()})"
        return _Branch(failures=(_ad_failure(ad, code, f"{ad.base_url}: ad {ad.inline.id!r} {reason}"),))

    async def _wrapper(self, hop: Hop, major_version: int, above: tuple[Hop, ...], walk: _Walk) -> _Branch:
        hops = (*above, hop)
        wrapper = hop.wrapper
        if len(hops) > self.limits.max_wrappers:
            return _failed(
                VastError.WRAPPER_LIMIT, f"more than {self.limits.max_wrappers} Wrappers in a row", hops
            )
        if walk.documents_left < 1:
            message = f"more than {self.limits.max_documents} documents for one ad tag"
            return _failed(VastError.WRAPPER_LIMIT, message, hops)
        if wrapper.tag_uri is None:
            return _failed(
                VastError.SCHEMA, f"{hop.base_url}: Wrapper {wrapper.id!r} has no VASTAdTagURI", hops
            )
        values = dict(walk.macros())
        blocked = tuple(
            dict.fromkeys(category.value for each in hops for category in each.wrapper.blocked_categories)
        )
        if blocked:
            values["BLOCKEDADCATEGORIES"] = blocked
        address = resolve_uri(hop.base_url, expand(wrapper.tag_uri, values))
        if address is None:
            return _failed(
                VastError.WRAPPER_UNAVAILABLE, f"{wrapper.tag_uri!r} cannot be read as an address", hops
            )
        walk.documents_left -= 1
        try:
            fetched = await self._fetch(address, walk)
        except FetchError as error:
            return replace(_failed(VastError.WRAPPER_UNAVAILABLE, str(error), hops), requested=(address,))
        branch = await self._fetched(
            fetched,
            hops,
            walk,
            multiple=wrapper.allow_multiple_ads or major_version < _ALLOW_MULTIPLE_ADS_SINCE,
            wrappers=wrapper.follow_additional_wrappers,
        )
        if wrapper.sequence is not None and len(branch.ads) == 1:
            alone = replace(branch.ads[0], sequence=wrapper.sequence)
            branch = replace(branch, ads=(alone,), play=(alone,) if branch.play else ())
        return replace(branch, requested=(address, *branch.requested), unreadable=False)


def report(ad: ResolvedAd, code: VastError, message: str = "") -> FiredError:
    """The error *code* for an ad that was resolved and could not be played (200-206, 4xx and so on).

    All Error addresses of its chain are told, outermost Wrapper first.
    """
    failure = _ad_failure(ad, code, message or code.name.lower().replace("_", " "))
    return FiredError(code, failure.message, tuple(itertools.chain(*map(_tracked, failure.told))))


def _tracked(errors: _Errors) -> tuple[TrackedUri, ...]:
    return tuple(TrackedUri(uri, errors.base_url) for uri in errors.uris)


def _chain_errors(hops: Sequence[Hop]) -> tuple[_Errors, ...]:
    return tuple(_Errors(hop.element, hop.wrapper.errors, hop.base_url) for hop in hops)


def _ad_failure(ad: ResolvedAd, code: VastError, message: str) -> _Failure:
    own = _Errors(ad.element, ad.inline.errors, ad.base_url)
    return _Failure(code, message, (*_chain_errors(ad.hops), own))


def _failed(code: VastError, message: str, hops: Sequence[Hop]) -> _Branch:
    return _Branch(failures=(_Failure(code, message, _chain_errors(hops)),))


def _join(branches: Sequence[_Branch]) -> _Branch:
    return _Branch(
        ads=tuple(ad for branch in branches for ad in branch.ads),
        failures=tuple(failure for branch in branches for failure in branch.failures),
        requested=tuple(url for branch in branches for url in branch.requested),
        warnings=tuple(warning for branch in branches for warning in branch.warnings),
    )


def _conclude(branch: _Branch) -> Resolution:
    """The branch as an outcome: each Error element is called for the first error that reaches it."""
    called: set[int] = set()
    errors = []
    for failure in branch.failures:
        fresh = [told for told in failure.told if told.element not in called]
        called.update(told.element for told in fresh)
        uris = tuple(itertools.chain(*map(_tracked, fresh)))
        errors.append(FiredError(failure.code, failure.message, uris))
    return Resolution(
        requested=branch.requested,
        ads=branch.ads,
        play=branch.play,
        errors=tuple(errors),
        warnings=branch.warnings,
        unreadable=branch.unreadable,
    )
