"""A history to prove."""

from __future__ import annotations

from engine_kit import Deployment

from adgovernor.contracts import topics


async def a_history(partitions: int = 2) -> Deployment:
    """Requests, impressions, duplicates, poison and an exhausted campaign."""
    world = Deployment(partitions)
    world.start()
    world.campaign("c1", budget=20_000)
    world.campaign("c2", budget=1_000_000, caps=[{"scope": "campaign", "length_ms": 60_000, "limit": 2}])
    await world.settle()
    for n in range(60):
        user = f"user-{n % 9}"
        world.clock.time_ms += 700
        world.request(f"r{n}", user, ("c1", "c2"))
        if n % 5 == 0:
            world.request(f"r{n}", user, ("c1", "c2"))
        if n % 13 == 0:
            world.broker.produce(topics.AD_REQUESTS, None, user.encode(), b'{"request_id": 5}\n')
        await world.settle()
        if n % 3:
            world.impression(f"r{n}", user)
    await world.settle()
    world.clock.time_ms += 200_000
    await world.settle()
    await world.stop()
    return world
