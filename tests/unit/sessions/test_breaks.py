"""A playlist's breaks, each source followed as it says (VMAP 1.0.1 §2.3-2.5)."""

from __future__ import annotations

import pytest
from vast_documents import Reply, TableTransport, inline, vast, wrapper

from adgovernor.sessions.errors import FetchTimeoutError, UnreachableError
from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.pods import BreakOutcome, as_read, follow_breaks
from adgovernor.sessions.resolver import ChainLimits, ChainResolver
from adgovernor.video import parse_vmap

BASE = "http://ads.example/list.xml"
TAG = "http://ads.example/tag"


async def follow(reply: Reply, attributes: str = "") -> BreakOutcome:
    """The one break of a playlist whose tag is answered so."""
    playlist = (
        f'<VMAP version="1.0"><AdBreak timeOffset="start" breakType="linear"><AdSource {attributes}>'
        f"<AdTagURI>{TAG}</AdTagURI></AdSource></AdBreak></VMAP>"
    )
    transport = TableTransport({TAG: reply, "http://ads.example/next": vast(inline("1"))})
    document = parse_vmap(playlist.encode())
    (outcome,) = (await follow_breaks(document, BASE, ChainResolver(Fetcher(transport)), dict)).breaks
    return outcome


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (FetchTimeoutError("late"), 1007),
        (UnreachableError("gone"), 1008),
        (500, 1008),
        (b"no XML", 1006),
        (b"<html/>", 1006),
        (vast(version="1.0"), 102),
        (vast(), 303),
        (204, 303),
    ],
)
async def test_a_tag_that_comes_to_nothing_has_a_code(reply: Reply, code: int) -> None:
    """1007 in time, 1008 in retrieval, 1006 in reading; an error of a VAST response has VAST's own code."""
    outcome = await follow(reply)
    assert outcome.fault is not None
    assert outcome.fault.code == code


@pytest.mark.parametrize(
    ("attributes", "plays"), [("", ["1"]), ('followRedirects="true"', ["1"]), ('followRedirects="0"', [])]
)
async def test_wrappers_are_followed_unless_the_source_forbids_it(attributes: str, plays: list[str]) -> None:
    """followRedirects="false" takes no ad from behind a Wrapper."""
    outcome = await follow(vast(wrapper("w", "/next")), attributes)
    assert outcome.resolution is not None
    assert [ad.inline.id for ad in outcome.resolution.play] == plays
    assert (outcome.fault is None) == bool(plays)


@pytest.mark.parametrize(
    ("ads", "plays"),
    [((("1", 1), ("alone", None)), ["alone"]), ((("2", 2), ("1", 1)), ["1"])],
    ids=["beside a pod", "of a pod"],
)
async def test_a_source_of_a_single_ad_takes_what_stands_alone(
    ads: tuple[tuple[str, int | None], ...], plays: list[str]
) -> None:
    """allowMultipleAds="false" leaves the first ad that stands alone, or of a pod the one that plays first; the same
    where the playlist itself holds the ads."""
    response = vast(*(inline(name, place) for name, place in ads))
    outcome = await follow(response, 'allowMultipleAds="false"')
    assert outcome.resolution is not None
    assert [ad.inline.id for ad in outcome.resolution.play] == plays
    held = f'<AdSource allowMultipleAds="false"><VASTAdData>{response.decode()}</VASTAdData></AdSource>'
    playlist = f'<VMAP version="1.0"><AdBreak timeOffset="start" breakType="linear">{held}</AdBreak></VMAP>'
    (read,) = as_read(parse_vmap(playlist.encode())).breaks
    assert [ad.id for ad in read.offered] == plays


@pytest.mark.parametrize(
    ("errors", "told"),
    [("", []), ("<Error>http://e/?[ERRORCODE]</Error>", ["http://e/?303", "http://b/?303"])],
)
async def test_an_embedded_response_without_ads_is_told_where_it_asks(errors: str, told: list[str]) -> None:
    """An empty response inside the playlist says that the break has no ad; its Error addresses are told, if any."""
    playlist = (
        '<VMAP version="1.0"><AdBreak timeOffset="start" breakType="linear"><AdSource><VASTAdData>'
        f'<VAST version="4.0">{errors}</VAST></VASTAdData></AdSource><TrackingEvents>'
        '<Tracking event="error">http://b/?[ERROR_CODE]</Tracking></TrackingEvents></AdBreak></VMAP>'
    )
    resolver = ChainResolver(Fetcher(TableTransport({})))
    outcome = await follow_breaks(parse_vmap(playlist.encode()), BASE, resolver, dict)
    assert [url for error in outcome.errors for url in error.written_urls] == told


async def test_breaks_beyond_the_limit_are_not_followed() -> None:
    """The first breaks are followed at the same time and answered in their order; the others say why they are not."""
    tags = [f"http://ads.example/{number}" for number in range(5)]
    breaks = "".join(
        f'<AdBreak timeOffset="start" breakType="linear"><AdSource><AdTagURI>{tag}</AdTagURI></AdSource></AdBreak>'
        for tag in tags
    )
    answers: dict[str, Reply] = {tag: vast(inline(tag[-1])) for tag in tags}
    transport = TableTransport(answers, {tags[0]: 0.05})
    resolver = ChainResolver(Fetcher(transport), ChainLimits(max_breaks=3))
    document = parse_vmap(f'<VMAP version="1.0">{breaks}</VMAP>'.encode())
    outcome = await follow_breaks(document, BASE, resolver, dict)
    ids = [[ad.inline.id for ad in found.resolution.play] for found in outcome.breaks if found.resolution]
    assert (ids, sorted(transport.urls)) == ([["0"], ["1"], ["2"]], tags[:3])
    assert [found.fault and found.fault.code for found in outcome.breaks] == [None] * 3 + [900] * 2
