"""VAST chains of small documents, followed, and what they come to."""

from __future__ import annotations

from vast_documents import Reply, TableTransport

from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.resolver import ChainLimits, ChainResolver, Resolution
from adgovernor.video import Expectations

A = "http://ads.example/a.xml"


async def resolve(
    replies: dict[str, Reply],
    entry: str = A,
    *,
    limits: ChainLimits | None = None,
    expected: Expectations | None = None,
    delays_s: dict[str, float] | None = None,
) -> Resolution:
    """Resolve *entry*; relative keys of *replies* are below the same host."""
    table = {key if "://" in key else f"http://ads.example/{key}": reply for key, reply in replies.items()}
    resolver = ChainResolver(Fetcher(TableTransport(table, delays_s)), limits, expected=expected)
    return await resolver.resolve(entry, dict)


def ids(resolution: Resolution) -> tuple[list[str | None], list[str | None]]:
    """The ids of the ads, and of those that play."""
    return [ad.inline.id for ad in resolution.ads], [ad.inline.id for ad in resolution.play]


def fired(resolution: Resolution) -> list[tuple[int, list[str]]]:
    """The codes fired and whom they told."""
    return [(int(error.code), list(error.written_urls)) for error in resolution.errors]
