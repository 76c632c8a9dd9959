"""A viewer's session whose ads count for caps and money, without a log.

    python deploy/examples/session_with_caps.py                       in memory
    python deploy/examples/session_with_caps.py redis://HOST:PORT     or postgresql+asyncpg://…, sqlite+aiosqlite:///FILE

The ad server is this program's own, on a free loopback port. The viewer may see the campaign twice, its budget is
enough for three impressions; a second viewer gets the last one. What a session has done survives its process.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from decimal import Decimal

from upstream_server import ONE_AD, upstream_server

from adgovernor.library import BudgetTracker, CampaignLimits, FrequencyCapper, limits, open_backend
from adgovernor.sessions.addresses import AddressPolicy
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.errors import LimitError
from adgovernor.sessions.httpx_transport import HttpxTransport
from adgovernor.sessions.library_governor import LibraryGovernor
from adgovernor.sessions.states import SessionStates
from adgovernor.sessions.upstream import UpstreamSession

PRICE = Decimal("0.02")


async def main(url: str, address: str) -> None:
    """Two viewers, four page views each."""
    backend = open_backend(address)
    try:
        await backend.ping()
        run = uuid.uuid4()
        campaign = f"coffee-{run}"
        tracker = BudgetTracker(backend)
        await tracker.set_budget(campaign, 3 * PRICE, "EUR")
        capper = FrequencyCapper(backend, [CampaignLimits(campaign, caps=limits(hour=2))])
        governor = LibraryGovernor(capper, tracker, SessionStates(backend))
        async with HttpxTransport(AddressPolicy(allow_private=True)) as transport:
            for viewer in ("ann", "bob"):
                context = SessionContext.create(user_id=f"{viewer}-{run}")
                async with UpstreamSession(f"{url}/vast", transport=transport, governor=governor) as session:
                    await session.create_session(context)
                    for _ in range(4):
                        pod = await session.fetch_pod()
                        try:
                            await session.track_budget(campaign, int(PRICE * 1_000_000))
                        except LimitError as limit:
                            print(f"{viewer}: {type(limit).__name__}")
                            continue
                        session.fire_impression(pod.ads[0])
                        print(f"{viewer}: plays {pod.ads[0].inline.id}")
                    state = await session.get_session_state()
                    assert state is not None
                    print(f"{viewer}: {state.request_count} requests, {state.impressions} impressions")
        print(f"spent: {(await tracker.status(campaign)).spent} EUR")
    finally:
        await backend.close()


if __name__ == "__main__":
    with upstream_server({"/vast": ONE_AD}) as upstream:
        asyncio.run(main(upstream.url, *sys.argv[1:] or ["memory"]))
