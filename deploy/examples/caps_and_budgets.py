"""Frequency caps and a budget, in one process and without servers.

    python deploy/examples/caps_and_budgets.py

One campaign: each person sees it twice an hour at most, and its money is enough for five impressions. The last line
is the proof: everything decided again from the ledger, and every cent found.
"""

from __future__ import annotations

import asyncio
import time

from adgovernor import subscribe
from adgovernor.app.embedded import Embedded
from adgovernor.contracts.campaigns import Campaign, Cap, UpsertCampaign
from adgovernor.contracts.requests import AdRequest, Candidate

COFFEE = Campaign(
    campaign_id="coffee",
    account_id="roastery",
    currency="EUR",
    price_micros=20_000,  # 0.02 EUR an impression
    budget_micros=100_000,
    caps=(Cap(scope="campaign", window="rolling", length_ms=3_600_000, limit=2),),
)


def request(number: int, person: str) -> AdRequest:
    """What a page asks when somebody opens it."""
    return AdRequest(
        request_id=f"page-view-{number}",
        time_ms=time.time_ns() // 1_000_000,
        user_id=person,
        candidates=(Candidate(campaign_id="coffee", creative_id="coffee-1"),),
    )


async def main() -> None:
    """Three people, three page views each."""
    async with Embedded(partitions=1) as governor, asyncio.timeout(30):
        await governor.command(
            UpsertCampaign(command="upsert", command_id="1", account_id="roastery", campaign=COFFEE)
        )
        for number, person in enumerate(["ann", "ann", "ann", "bob", "bob", "bob", "cy", "cy", "cy"]):
            decision = await governor.decide(request(number, person))
            await governor.shown(decision)
            await governor.settle()  # Money moves between shards in messages; give them time to arrive.
            reasons = [reason.code.value for loser in decision.losers for reason in loser.reasons]
            print(f"{person}: {'coffee' if decision.slots[0].winner else 'nothing, ' + ' + '.join(reasons)}")
        async with subscribe.budget_exhausted(governor) as exhausted:
            event = await anext(aiter(exhausted))
            print(
                f"budget-exhausted: {event.campaign_id}, {event.topped_up_micros / 1e6:.2f} {event.currency}"
            )
        await governor.settle()
    report = await governor.audit()
    spent = report.campaigns["coffee"]["spent_micros"]
    print(f"audit: {'green' if report.green else report.findings}, spent {spent / 1e6:.2f} EUR")


if __name__ == "__main__":
    asyncio.run(main())
