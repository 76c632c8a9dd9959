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
import uuid

from upstream_server import ONE_AD, upstream_server

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
    with upstream_server({"/vast": ONE_AD}) as upstream:
        asyncio.run(main(upstream.url, *sys.argv[1:]))
