"""A budget without a log: many tasks spend it at once, and not a cent more than there is.

    python deploy/examples/budget_tracking.py                       in memory
    python deploy/examples/budget_tracking.py redis://HOST:PORT     or postgresql+asyncpg://…, sqlite+aiosqlite:///FILE

Twenty page views want 0.25 EUR each, the budget is 2 EUR. Some of them are never shown: their money is released, and
others get it.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections import Counter
from decimal import Decimal

from adgovernor.library import BudgetTracker, open_backend

PRICE = Decimal("0.25")


async def page_view(tracker: BudgetTracker, campaign: str, number: int) -> str:
    """Set the price aside, show the ad, spend it; every fifth ad is not shown after all."""
    reserved = await tracker.reserve(campaign, PRICE)
    if not reserved.accepted:
        return reserved.reason
    if number % 5 == 0:
        await tracker.release(campaign, reserved.name)
        return "not shown"
    await tracker.spend(campaign, None, reserved.name)
    return "shown"


async def main(address: str) -> None:
    """Twenty at once, then one after the other until nothing is left."""
    backend = open_backend(address)
    try:
        await backend.ping()
        tracker = BudgetTracker(backend)
        campaign = f"coffee-{uuid.uuid4()}"
        await tracker.set_budget(campaign, Decimal(2), "EUR", least=PRICE)
        told = Counter(await asyncio.gather(*(page_view(tracker, campaign, number) for number in range(20))))
        while (await tracker.spend(campaign, PRICE)).accepted:
            told["shown"] += 1
        status = await tracker.status(campaign)
        print(f"shown: {told['shown']}")
        print(
            f"spent {status.spent} of {status.budget} {status.currency} on {status.impressions} impressions"
        )
        print(f"remaining: {status.remaining}, paused: {', '.join(status.paused)}")
        status = await tracker.top_up(campaign, Decimal(1))
        print(f"after a top-up: {status.remaining}, paused: {', '.join(status.paused) or 'no'}")
    finally:
        await backend.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["memory"]))
