"""A viewer's session with an ad server: a VAST tag, followed through its Wrapper, and its impressions fired.

    python deploy/examples/session_vast_chain.py

Both ad servers are this program's own, on a free loopback port, so it needs nothing else. Against real ones leave out
the address policy: then only public addresses are contacted.
"""

from __future__ import annotations

import asyncio

from upstream_server import upstream_server

from adgovernor.sessions.addresses import AddressPolicy
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.httpx_transport import HttpxTransport
from adgovernor.sessions.upstream import UpstreamSession

DOCUMENTS = {
    "/exchange": """<VAST version="4.2"><Ad id="exchange-7"><Wrapper>
      <AdSystem>exchange</AdSystem>
      <VASTAdTagURI><![CDATA[/brand?page=[PAGEURL]&cb=[CACHEBUSTING]&correlator=]]></VASTAdTagURI>
      <Error><![CDATA[/exchange/error?code=[ERRORCODE]]]></Error>
      <Impression><![CDATA[/exchange/impression?t=[TIMESTAMP]]]></Impression>
    </Wrapper></Ad></VAST>""",
    "/brand": """<VAST version="4.2"><Ad id="brand-1"><InLine>
      <AdSystem>brand</AdSystem><AdTitle>Thirty seconds</AdTitle><AdServingId>brand-0001</AdServingId>
      <Impression><![CDATA[/brand/impression?ad=[ADSERVINGID]&tx=[TRANSACTIONID]]]></Impression>
      <Creatives><Creative><Linear><Duration>00:00:30</Duration>
        <TrackingEvents><Tracking event="start"><![CDATA[/brand/start]]></Tracking></TrackingEvents>
        <MediaFiles><MediaFile type="video/mp4" width="1280" height="720" delivery="progressive">
          <![CDATA[https://cdn.example/thirty.mp4]]></MediaFile></MediaFiles>
      </Linear></Creative></Creatives>
    </InLine></Ad></VAST>""",
}


async def watch(url: str) -> None:
    """One viewer asks for an ad and watches its beginning."""
    viewer = SessionContext.create(
        user_id="viewer-1",
        ip_address="203.0.113.9",
        user_agent="ExampleTV/1.0",
        metadata={"PAGEURL": "https://video.example/watch?v=1"},
    )
    async with (
        HttpxTransport(AddressPolicy(allow_private=True)) as transport,
        UpstreamSession(f"{url}/exchange", transport=transport) as session,
    ):
        await session.create_session(viewer)
        pod = await session.fetch_pod()
        for ad in pod.ads:
            assert ad.linear is not None
            print(f"{ad.inline.id}: {ad.duration_ms} ms behind {len(ad.hops)} wrapper, plays")
            print(f"  {ad.linear.media_files[0].uri}")
            session.fire_impression(ad)
            session.fire_event(ad, "start")


def main() -> None:
    """Serve the documents, watch, and show what the ad servers were told."""
    with upstream_server(DOCUMENTS) as upstream:
        asyncio.run(watch(upstream.url))
    print("the ad servers were told:")
    for path in sorted(upstream.heard):
        print(f"  {path}")


if __name__ == "__main__":
    main()
