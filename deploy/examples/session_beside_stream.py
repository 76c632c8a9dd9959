"""A viewer's session whose ads count for caps and money through the ledger.

    python deploy/examples/session_beside_stream.py                                    in one process, without servers
    python deploy/examples/session_beside_stream.py HOST:PORT redis://HOST:PORT PREFIX on a deployment whose workers run

The ad server is this program's own, on a free loopback port. The viewer may see the campaign twice a day, its budget is
enough for three impressions. What the session counts nobody counts by hand: each spend is a request that the stream
decides and an impression, and the session's state is part of its shard's.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from adgovernor import subscribe
from adgovernor.app.embedded import Embedded
from adgovernor.contracts.campaigns import DAY_MS, Campaign, Cap, UpsertCampaign
from adgovernor.publish import Publisher
from adgovernor.sessions import AddressPolicy, HttpxTransport, LimitError, SessionContext, UpstreamSession
from adgovernor.sessions.decider import StreamDecider
from adgovernor.sessions.stream_governor import StreamGovernor
from adgovernor.stores.base import Store
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

PRICE_MICROS = 20_000  # 0.02 EUR an impression
VAST = b"""<VAST version="4.2"><Ad id="brand-1"><InLine><AdSystem>brand</AdSystem><AdTitle>Ten seconds</AdTitle>
  <Impression><![CDATA[/impression?cb=[CACHEBUSTING]]]></Impression>
  <Creatives><Creative><Linear><Duration>00:00:10</Duration><MediaFiles>
    <MediaFile type="video/mp4" width="1280" height="720" delivery="progressive">https://cdn.example/ten.mp4</MediaFile>
  </MediaFiles></Linear></Creative></Creatives></InLine></Ad></VAST>"""


class AdServer(BaseHTTPRequestHandler):
    """Answers every request with one ad."""

    def do_GET(self) -> None:
        """Answer one request."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(VAST)))
        self.end_headers()
        self.wfile.write(VAST)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


async def define(log: str | Embedded, prefix: str, publisher: Publisher) -> str:
    """A campaign of this run; its id."""
    name = f"coffee-{uuid.uuid4()}"
    campaign = Campaign(
        campaign_id=name,
        account_id="roastery",
        currency="EUR",
        price_micros=PRICE_MICROS,
        budget_micros=3 * PRICE_MICROS,
        caps=(Cap(length_ms=DAY_MS, limit=2),),
    )
    command = UpsertCampaign(command="upsert", command_id=name, account_id="roastery", campaign=campaign)
    async with subscribe.campaign_changes(log, prefix=prefix) as changes:
        await publisher.command(command)
        async for change in changes:
            if change.command_id == name:
                return name
    raise AssertionError("changes have no end")


async def view(url: str, governor: StreamGovernor, campaign: str) -> None:
    """Two viewers, three page views each."""
    async with HttpxTransport(AddressPolicy(allow_private=True)) as transport:
        for viewer in ("ann", "bob"):
            context = SessionContext.create(user_id=f"{viewer}-{uuid.uuid4()}")
            async with UpstreamSession(f"{url}/vast", transport=transport, governor=governor) as session:
                await session.create_session(context)
                for _ in range(3):
                    pod = await session.fetch_pod()
                    try:
                        await session.track_budget(campaign, PRICE_MICROS)
                    except LimitError as limit:
                        print(f"{viewer}: {type(limit).__name__}")
                        continue
                    session.fire_impression(pod.ads[0])
                    print(f"{viewer}: plays {pod.ads[0].inline.id}")
                state = await session.get_session_state()
                assert state is not None
                print(f"{viewer}: {state.request_count} requests, {state.impressions} impressions")


async def run(url: str, log: str | Embedded, store: Store, prefix: str) -> None:
    """On a deployment, wherever it is."""
    async with (
        Publisher(log, prefix=prefix) as publisher,
        subscribe.decisions(log, prefix=prefix) as decisions,
        StreamDecider(publisher, decisions) as decider,
    ):
        campaign = await define(log, prefix, publisher)
        governor = StreamGovernor(store, decider)
        await view(url, governor, campaign)
        # The store trails the ledger by a moment.
        async with asyncio.timeout(30):
            while (budget := await governor.get_budget(campaign)) is None or budget.reserved_micros:  # noqa: ASYNC110 - a poll of servers
                await asyncio.sleep(0.1)
        print(f"spent: {budget.spent_micros / 1e6:.2f} EUR")


async def main(url: str, *where: str) -> None:
    """On Kafka and Redis where they are named, else in this process."""
    if where:
        kafka, redis, prefix = where
        store = RedisStore(RedisConfig.from_url(redis), prefix)
        try:
            await run(url, kafka, store, prefix)
        finally:
            await store.close()
    else:
        async with Embedded(partitions=2) as governor:
            await run(url, governor, governor.store, "")


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), AdServer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        asyncio.run(main(f"http://127.0.0.1:{server.server_port}", *sys.argv[1:]))
    finally:
        server.shutdown()
        server.server_close()
