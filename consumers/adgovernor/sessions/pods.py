"""VMAP with its ads: each break's source followed to the ads that play in it (VMAP 1.0.1 §2.3-2.5)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from adgovernor.sessions.errors import FetchTimeoutError
from adgovernor.sessions.fetch import Fetched
from adgovernor.sessions.resolver import ChainResolver, FiredError, MacroSource, Resolution
from adgovernor.video import (
    BrokenAd,
    InLine,
    ResolvedAd,
    TrackedUri,
    VastDocument,
    VastError,
    VmapError,
    Wrapper,
    expand,
    resolve_uri,
)
from adgovernor.video.vast import is_vast_root
from adgovernor.video.vmap import (
    AdBreak,
    AdSource,
    AdTag,
    BreakFault,
    CustomData,
    VastData,
    VmapDocument,
    parse_xml_of_vmap,
    read_vmap,
)


@dataclass(frozen=True, slots=True)
class BreakOutcome:
    """One break: as read, and once its source was followed, what it came to or what went wrong."""

    ad_break: AdBreak
    resolution: Resolution | None = None
    fault: BreakFault | None = None

    @property
    def offered(self) -> tuple[InLine | Wrapper | BrokenAd, ...]:
        """The ads of the VAST response inside the break, as far as the source accepts them."""
        source = self.ad_break.source
        document = None if source is None else embedded(source)
        if source is None or document is None:
            return ()
        ads = document.ads
        if source.allow_multiple_ads or len(ads) < 2:
            return ads
        # §2.3.2: a single ad; the first that stands alone, or of a pod the one that plays first.
        single = next((ad for ad in ads if ad.sequence is None), None)
        return (single or min(ads, key=lambda ad: ad.sequence or 0),)


def embedded(source: AdSource) -> VastDocument | None:
    """The VAST response that the playlist itself holds, if any."""
    return source.content.document if isinstance(source.content, VastData | CustomData) else None


@dataclass(frozen=True, slots=True)
class VmapOutcome:
    """A VMAP document's breaks in document order, or the *fault* of a document that could not be read."""

    version: str | None = None
    breaks: tuple[BreakOutcome, ...] = ()
    warnings: tuple[str, ...] = ()
    fault: BreakFault | None = None
    base_url: str = ""

    @property
    def errors(self) -> tuple[FiredError, ...]:
        """Every error of every break: those of its ads first, then the break's own to its error trackers."""
        errors: list[FiredError] = []
        for found in self.breaks:
            if found.resolution is not None:
                errors += found.resolution.errors
            if found.fault is not None:
                told = tuple(TrackedUri(uri, self.base_url) for uri in found.ad_break.trackers("error"))
                errors.append(FiredError(found.fault.code, found.fault.message, told))
        return tuple(errors)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that was fetched: a VAST *resolution*, or a VMAP *playlist* with the ads of its breaks."""

    resolution: Resolution | None = None
    playlist: VmapOutcome | None = None

    @property
    def ads(self) -> tuple[ResolvedAd, ...]:
        """The ads to play, in play order, break after break."""
        if self.resolution is not None:
            return self.resolution.play
        breaks = self.playlist.breaks if self.playlist is not None else ()
        return tuple(ad for found in breaks if found.resolution is not None for ad in found.resolution.play)

    @property
    def errors(self) -> tuple[FiredError, ...]:
        """The errors that came up, with the addresses to tell."""
        if self.resolution is not None:
            return self.resolution.errors
        return self.playlist.errors if self.playlist is not None else ()


async def read_pod(fetched: Fetched, resolver: ChainResolver, macros: MacroSource) -> Pod:
    """The pod in *fetched*, VAST or VMAP, with every Wrapper and ad tag followed.

    Raises :class:`~adgovernor.video.VmapFormatError` for a document that is neither.
    """
    if fetched.status == 204:
        return Pod(await resolver.resolve_fetched(fetched, macros))
    tree = parse_xml_of_vmap(fetched.body, fetched.charset)
    if is_vast_root(tree.root):
        return Pod(await resolver.resolve_fetched(fetched, macros))
    return Pod(playlist=await follow_breaks(read_vmap(tree), fetched.url, resolver, macros))


def as_read(document: VmapDocument) -> VmapOutcome:
    """The document without asking for anything."""
    breaks = tuple(BreakOutcome(found, fault=found.fault) for found in document.breaks)
    return VmapOutcome(document.version, breaks, document.warnings)


async def follow_breaks(
    document: VmapDocument, base_url: str, resolver: ChainResolver, macros: MacroSource
) -> VmapOutcome:
    """The document with every source followed, several at a time; one break's failure leaves the others alone.

    Breaks beyond the resolver's limit are not followed, and say so.
    """
    limits = resolver.limits
    gate = asyncio.Semaphore(limits.max_concurrent)

    async def follow(found: AdBreak) -> BreakOutcome:
        async with gate:
            return await follow_break(found, base_url, resolver, macros)

    followed = await asyncio.gather(*map(follow, document.breaks[: limits.max_breaks]))
    left = BreakFault(VmapError.UNDEFINED, f"not followed: it is beyond the first {limits.max_breaks} breaks")
    beyond = (
        BreakOutcome(found, fault=found.fault or left) for found in document.breaks[limits.max_breaks :]
    )
    return VmapOutcome(document.version, (*followed, *beyond), document.warnings, base_url=base_url)


async def follow_break(
    found: AdBreak, base_url: str, resolver: ChainResolver, macros: MacroSource
) -> BreakOutcome:
    """Follow one break's source; a relative AdTagURI is resolved against *base_url*."""
    source = found.source
    if found.fault is not None or source is None or source.content is None:
        return BreakOutcome(found, fault=found.fault)
    if isinstance(source.content, AdTag):
        return await _follow_tag(found, source, source.content, base_url, resolver, macros)
    document = embedded(source)
    if document is not None:
        if not document.ads and not document.errors:
            # An empty response inside the document is the playlist's own way of saying that the break has no ad; one
            # with Error addresses wants to be told.
            return BreakOutcome(found)
        resolution = await resolver.resolve_document(
            document, base_url, macros, wrappers=source.follow_redirects
        )
        return _outcome(found, source, resolution)
    assert isinstance(source.content, CustomData)
    message = f"template type {source.content.template_type!r} cannot be played; VAST can"
    return BreakOutcome(found, fault=BreakFault(VmapError.TEMPLATE_TYPE, message))


async def _follow_tag(
    found: AdBreak,
    source: AdSource,
    tag: AdTag,
    base_url: str,
    resolver: ChainResolver,
    macros: MacroSource,
) -> BreakOutcome:
    if not tag.is_vast:
        message = f"template type {tag.template_type!r} cannot be played; VAST can"
        return BreakOutcome(found, fault=BreakFault(VmapError.TEMPLATE_TYPE, message))
    url = resolve_uri(base_url, expand(tag.uri, macros()))
    if url is None:
        message = f"AdTagURI {tag.uri!r} cannot be read as an address"
        return BreakOutcome(found, fault=BreakFault(VmapError.RESPONSE_RETRIEVAL, message))
    resolution = await resolver.resolve(url, macros, wrappers=source.follow_redirects)
    if resolution.cause is not None:
        timed_out = isinstance(resolution.cause, FetchTimeoutError)
        code = VmapError.RESPONSE_TIMEOUT if timed_out else VmapError.RESPONSE_RETRIEVAL
        return BreakOutcome(found, resolution, BreakFault(code, str(resolution.cause)))
    first = resolution.errors[0] if resolution.errors else None
    if resolution.unreadable and first is not None and first.code != VastError.VERSION:
        return BreakOutcome(found, resolution, BreakFault(VmapError.RESPONSE_PARSING, first.message))
    return _outcome(found, source, resolution)


def _outcome(found: AdBreak, source: AdSource, resolution: Resolution) -> BreakOutcome:
    if not source.allow_multiple_ads:
        resolution = replace(resolution, play=_single(resolution.play, resolution.ads))
    if resolution.play:
        return BreakOutcome(found, resolution)
    # §2.5: an error of the VAST response is reported with VAST's own code.
    first = resolution.errors[0] if resolution.errors else None
    fault = BreakFault(VastError.NO_AD, "no ad") if first is None else BreakFault(first.code, first.message)
    return BreakOutcome(found, resolution, fault)


def _single(play: Sequence[ResolvedAd], ads: Sequence[ResolvedAd]) -> tuple[ResolvedAd, ...]:
    """§2.3.2: one ad only; the first that stands alone, or of a pod the one that plays first."""
    alone = next((ad for ad in ads if ad.sequence is None), None)
    return (alone,) if alone is not None else tuple(play[:1])
