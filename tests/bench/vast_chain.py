"""Our own CPU for a VAST chain, a hop: `python -m tests.bench vast-chain`.

Five Wrappers above an InLine, all of the size that ad servers send (a pod's worth of trackers in each). The answers
come from a table, so that no HTTP client is counted; everything else of a hop is: macros, address resolution and
checks, cookies, parsing, gathering, and the report's counts.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.fetch import Fetcher
from adgovernor.sessions.request_macros import RequestMacros
from adgovernor.sessions.resolver import ChainResolver
from adgovernor.sessions.transport import HttpRequest, HttpResponse

HOPS = 5
ROUNDS = 30
CHAINS_A_ROUND = 20
LIMIT_US_PER_HOP = 1_000
_EVENTS = (
    "start",
    "firstQuartile",
    "midpoint",
    "thirdQuartile",
    "complete",
    "mute",
    "unmute",
    "pause",
    "resume",
)
_HOST = "http://ads{}.example"


def _tracking(owner: str) -> str:
    return "".join(
        f'<Tracking event="{event}"><![CDATA[https://track.example/{owner}/{event}?cb=[CACHEBUSTING]&t=[TIMESTAMP]'
        f"&id=0123456789abcdef]]></Tracking>"
        for event in _EVENTS
        for _ in range(2)
    )


def _wrapper(number: int) -> bytes:
    tag = f"{_HOST.format(number + 1)}/vast?cb=[CACHEBUSTING]&page=[PAGEURL]&correlator="
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<VAST version="4.2" xmlns="http://www.iab.com/VAST"><Ad id="w{number}"><Wrapper followAdditionalWrappers="true">
<AdSystem version="1">server {number}</AdSystem><VASTAdTagURI><![CDATA[{tag}]]></VASTAdTagURI>
<Error><![CDATA[https://track.example/e?[ERRORCODE]]]></Error>
<Impression><![CDATA[https://track.example/w{number}/i1?[CACHEBUSTING]]]></Impression>
<Impression><![CDATA[https://track.example/w{number}/i2?[CACHEBUSTING]]]></Impression>
<Creatives><Creative><Linear><TrackingEvents>{_tracking(f"w{number}")}</TrackingEvents><VideoClicks>
<ClickTracking><![CDATA[https://track.example/w{number}/click]]></ClickTracking></VideoClicks></Linear></Creative>
</Creatives><Extensions><Extension type="x"><Price>1</Price></Extension></Extensions></Wrapper></Ad></VAST>""".encode()


def _inline() -> bytes:
    files = "".join(
        f'<MediaFile delivery="progressive" type="video/mp4" width="{width}" height="{width * 9 // 16}" bitrate="900">'
        f"<![CDATA[https://cdn.example/{width}.mp4]]></MediaFile>"
        for width in (640, 854, 1280, 1920)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<VAST version="4.2" xmlns="http://www.iab.com/VAST"><Ad id="ad"><InLine><AdSystem>last</AdSystem><AdTitle>t</AdTitle>
<AdServingId>a-1</AdServingId><Error><![CDATA[https://track.example/e?[ERRORCODE]]]></Error>
<Impression><![CDATA[https://track.example/i]]></Impression><Creatives><Creative id="1"><UniversalAdId
idRegistry="ad-id.org">X1</UniversalAdId><Linear><Duration>00:00:30</Duration><TrackingEvents>{_tracking("ad")}
</TrackingEvents><VideoClicks><ClickThrough>https://brand.example</ClickThrough></VideoClicks>
<MediaFiles>{files}</MediaFiles></Linear></Creative><Creative><CompanionAds><Companion width="300" height="250">
<StaticResource creativeType="image/png">https://cdn.example/c.png</StaticResource></Companion></CompanionAds>
</Creative></Creatives></InLine></Ad></VAST>""".encode()


class _Table:
    """Answers at once with the document of each host, and a cookie."""

    def __init__(self) -> None:
        self._bodies = {_HOST.format(number): _wrapper(number) for number in range(HOPS)}
        self._bodies[_HOST.format(HOPS)] = _inline()
        self.bytes_a_chain = sum(len(body) for body in self._bodies.values())

    async def send(self, request: HttpRequest, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
        host = request.url[: request.url.index("/", 8)]
        headers = (("Content-Type", "application/xml; charset=utf-8"), ("Set-Cookie", "id=1; Path=/"))
        return HttpResponse(200, headers, self._bodies[host])

    async def aclose(self) -> None:
        """Nothing is open."""


async def _chains(table: _Table, count: int) -> float:
    """CPU seconds for *count* chains, each in a session of its own."""
    began_s = time.process_time()
    for _ in range(count):
        context = SessionContext.create(
            content_url="https://video.example/1", metadata={"PAGEURL": "https://p.example"}
        )
        resolver = ChainResolver(Fetcher(table))
        found = await resolver.resolve(_HOST.format(0) + "/vast", RequestMacros(context))
        (ad,) = found.play
        assert len(ad.hops) == HOPS
        assert len(ad.impressions) == 1 + 2 * HOPS
        assert ad.tracking_counts["start"] == 2 * (HOPS + 1)
    return time.process_time() - began_s


def run() -> dict[str, Any]:
    """Figures: CPU microseconds a hop (median and 95th percentile of the rounds), and whether the limit holds."""
    table = _Table()
    asyncio.run(_chains(table, CHAINS_A_ROUND))
    rounds_us = sorted(
        asyncio.run(_chains(table, CHAINS_A_ROUND)) / CHAINS_A_ROUND / HOPS * 1e6 for _ in range(ROUNDS)
    )
    median_us = statistics.median(rounds_us)
    return {
        "hops": HOPS,
        "bytes_a_document": table.bytes_a_chain // (HOPS + 1),
        "cpu_us_per_hop_p50": round(median_us, 1),
        "cpu_us_per_hop_p95": round(rounds_us[int(len(rounds_us) * 0.95)], 1),
        "limit_us_per_hop": LIMIT_US_PER_HOP,
        "within_limit": median_us < LIMIT_US_PER_HOP,
    }


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:24} {value}")
