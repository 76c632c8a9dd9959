"""Mutated documents: whatever arrives, the answer is a value or a refusal with a code, never another exception.

The seed is printed; the full run is 100,000 documents (marked slow), the ordinary one a sample of it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Iterator

import pytest
from lxml import etree
from vast_documents import inline, vast, wrapper

from adgovernor.app.video_report import document_json, resolution_json, vmap_json
from adgovernor.sessions.fetch import Fetched, Fetcher
from adgovernor.sessions.pods import as_read, follow_breaks
from adgovernor.sessions.resolver import ChainLimits, ChainResolver
from adgovernor.sessions.transport import HttpRequest, HttpResponse
from adgovernor.video import VastFormatError, VmapFormatError, expand, parse_vast, parse_vmap

SEED = 20_260_301
SAMPLE = 3_000
FULL = 100_000

_RICH = (
    '<Category authority="a">c</Category><ViewableImpression id="v"><Viewable>http://v</Viewable></ViewableImpression>'
    '<AdVerifications><Verification vendor="v"><JavaScriptResource>http://j</JavaScriptResource></Verification>'
    '</AdVerifications><Extensions><Extension type="AdVerifications"><AdVerifications/></Extension></Extensions>'
)
_CREATIVES = (
    '<Creative AdID="x" sequence="1"><Linear skipoffset="00:00:05"><Duration>00:00:10.500</Duration><TrackingEvents>'
    '<Tracking event="progress" offset="10%"><![CDATA[http://p?[CACHEBUSTING]]]></Tracking></TrackingEvents><MediaFiles>'
    '<MediaFile type="video/mp4" width="1" height="2">http://m</MediaFile></MediaFiles><VideoClicks><ClickThrough>/c'
    '</ClickThrough></VideoClicks></Linear></Creative><Creative><CompanionAds><Companion width="3" height="4">'
    "<HTMLResource><![CDATA[<b>]]></HTMLResource></Companion></CompanionAds></Creative><Creative><NonLinearAds>"
    '<NonLinear width="5" height="6"><StaticResource>http://s</StaticResource></NonLinear></NonLinearAds></Creative>'
)
_VAST = vast(
    inline("1", 1, creatives=_CREATIVES, extra=_RICH),
    wrapper("w", "b.xml?[TIMESTAMP]&correlator=", 'fallbackOnNoAd="true" allowMultipleAds="1"', 2),
    inline("spare"),
    errors=("http://root/[ERRORCODE]",),
)
_VMAP = (
    b'<vmap:VMAP xmlns:vmap="http://www.iab.net/videosuite/vmap" version="1.0"><vmap:AdBreak timeOffset="00:10:23.125"'
    b' breakType="linear,nonlinear" breakId="b" repeatAfter="00:01:00"><vmap:AdSource id="1" allowMultipleAds="false">'
    b"<vmap:VASTAdData>"
    + _VAST
    + b"</vmap:VASTAdData></vmap:AdSource><vmap:TrackingEvents><vmap:Tracking event="
    b'"error">http://e/[ERROR_CODE]</vmap:Tracking></vmap:TrackingEvents></vmap:AdBreak><vmap:AdBreak timeOffset="50%"'
    b' breakType="display"><vmap:AdSource><vmap:AdTagURI templateType="vast3">b.xml</vmap:AdTagURI></vmap:AdSource>'
    b'</vmap:AdBreak><vmap:AdBreak timeOffset="end" breakType="linear"><vmap:AdSource><vmap:CustomAdData'
    b' templateType="vast2"><![CDATA[<VAST version="2.0"><Ad id="t"><InLine/></Ad></VAST>]]></vmap:CustomAdData>'
    b"</vmap:AdSource></vmap:AdBreak></vmap:VMAP>"
)
_SEEDS = (_VAST, _VMAP, vast(wrapper("w", "b.xml"), version="2.0"), vast())
_TOKENS = (
    *(b"< > </ /> <![CDATA[ ]]> <!-- --> <? ?> & &amp; &#0; &#x110000; &x; [ ] [IFA] http://[ //".split()),
    *(
        b"VAST Ad Wrapper InLine Creatives x: xmlns='x' version='9' version='' sequence='1' -1 #0 101%".split()
    ),
    *(b"<!DOCTYPE x>", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\r\n", b"\x85", b"\\", b"9" * 30),
)
_TEXTS = (
    *(
        [
            "",
            "about:blank",
            " ",
            "http://[",
            "http://[::1",
            "//",
            "\\\\h",
            "javascript:1",
            "file:///x",
            "http://h:99999/",
            "http://h:x/",
            "-1",
            "0",
            "99999999999",
        ]
    ),
    *(
        [
            "999999999999999999999",
            "00:00:75",
            "-00:00:01",
            "00:00:00.9999999999",
            "1e9",
            "NaN",
            "true",
            "FALSE",
            "start",
            "#0",
            "#99",
            "101%",
            "50.5%",
        ]
    ),
    *(
        [
            "[ERRORCODE]",
            "[TIMESTAMP][[IFA]",
            "http://h/?correlator=&x",
            "%zz",
            "é\u2028😀",
            "vast9",
            "a,b,,c",
            "\t\n",
        ]
    ),
    "x" * 20_000,
)
_NAMES = (
    "VAST",
    "Ad",
    "InLine",
    "Wrapper",
    "URL",
    "AdSource",
    "Error",
    "MediaFile",
    "{http://x}Ad",
    "Linear",
)


def _break_tree(data: bytes, rng: random.Random) -> bytes:
    """A well-formed document whose elements, attributes and texts are not what they were."""
    root = etree.fromstring(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        element, other = rng.choice(list(root.iter())), rng.choice(list(root.iter()))
        parent = element.getparent()
        match rng.randrange(7):
            case 0 if parent is not None:
                parent.remove(element)
            case 1:
                other.append(copy.deepcopy(element)) if len(etree.tostring(root)) < 50_000 else None
            case 2:
                element.tag = rng.choice(_NAMES)
            case 3 | 4 if element.attrib:
                element.set(rng.choice(list(element.attrib)), rng.choice(_TEXTS))
            case 5 if len(element) > 1:
                element.append(element[0])
            case _:
                element.text = rng.choice(_TEXTS)
    return etree.tostring(root)


def _break_bytes(data: bytes, rng: random.Random) -> bytes:
    """A document some cuts, repeats, flips and insertions away from *data*."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8, 30))):
        at, to = sorted((rng.randrange(len(broken) + 1), rng.randrange(len(broken) + 1)))
        match rng.randrange(7):
            case 0:
                broken[at:at] = rng.choice(_TOKENS)
            case 1:
                del broken[at : min(to, at + 40)]
            case 2:
                broken[at:at] = broken[at : min(to, at + 200)]
            case 3 if at < len(broken):
                broken[at] = rng.randrange(256)
            case 4 if at < len(broken):
                broken[at] ^= 1 << rng.randrange(8)
            case 5:
                broken[at : at + 8] = rng.choice(_TOKENS)
            case _ if rng.random() < 0.1:
                del broken[at:]
        broken = broken[:60_000]
    return bytes(broken)


def mutants(count: int, seed: int = SEED) -> Iterator[bytes]:
    """*count* documents that were good: half broken as trees, half as bytes, some as both."""
    rng = random.Random(seed)
    for _ in range(count):
        data = rng.choice(_SEEDS)
        kind = rng.random()
        if kind < 0.6:
            data = _break_tree(data, rng)
        yield data if kind < 0.5 else _break_bytes(data, rng)


class _Echo:
    """Answers every request with the document under test, so that mutated Wrappers are followed into it."""

    def __init__(self) -> None:
        self.body = b""

    async def send(self, request: HttpRequest, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
        return HttpResponse(200, (("Content-Type", "text/xml; charset=utf-8"),), self.body)

    async def aclose(self) -> None:
        """Nothing is open."""


async def try_all(count: int) -> dict[str, int]:
    """Read, resolve and report *count* mutants; returns how they came out."""
    echo = _Echo()
    limits = ChainLimits(max_wrappers=2, max_documents=6)
    outcomes = {"vast": 0, "vast refused": 0, "vmap": 0, "vmap refused": 0, "ads": 0}
    for data in mutants(count):
        echo.body = data
        resolver = ChainResolver(Fetcher(echo), limits)
        try:
            document = parse_vast(data)
        except VastFormatError as error:
            outcomes["vast refused"] += error.code in (100, 101, 102)
        else:
            outcomes["vast"] += 1
            json.dumps(document_json("x", document))
            fetched = Fetched("http://ads.example/a.xml", 200, data)
            resolution = await resolver.resolve_fetched(fetched, dict)
            json.dumps(resolution_json("x", resolution))
            outcomes["ads"] += len(resolution.ads)
            for ad in resolution.ads:
                for uri in (
                    *ad.impressions,
                    *ad.errors,
                    *(u for group in ad.tracking.values() for u in group),
                ):
                    uri.absolute()
                    expand(uri.uri, {})
        try:
            playlist = parse_vmap(data)
        except VmapFormatError as error:
            outcomes["vmap refused"] += error.code in (1000, 1001, 1002)
        else:
            outcomes["vmap"] += 1
            json.dumps(vmap_json("x", as_read(playlist)))
            outcome = await follow_breaks(playlist, "http://ads.example/v.xml", resolver, dict)
            json.dumps(vmap_json("x", outcome))
    return outcomes


def check(count: int) -> None:
    """Run *count* mutants and see that the mutations are neither all fatal nor all harmless."""
    outcomes = asyncio.run(try_all(count))
    print(f"seed {SEED}: {outcomes}")
    assert outcomes["vast"] + outcomes["vast refused"] == count
    assert outcomes["vmap"] + outcomes["vmap refused"] == count
    assert min(outcomes.values()) > count / 20


def test_a_sample_of_mutated_documents_crashes_nothing() -> None:
    """Three thousand mutants are read, resolved and reported without an exception that is not a refusal."""
    check(SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_hundred_thousand_mutated_documents_crash_nothing() -> None:
    """The full run of the same."""
    check(FULL)
