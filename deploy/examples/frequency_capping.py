"""Frequency caps without a log: a creative, a campaign and an advertiser, by hour and day.

    python deploy/examples/frequency_capping.py                       in memory
    python deploy/examples/frequency_capping.py redis://HOST:PORT     or postgresql+asyncpg://…, sqlite+aiosqlite:///FILE

Two campaigns of one advertiser are offered in turn to one person. A refusal names every cap that blocked.
"""

from __future__ import annotations

import asyncio
import sys
import uuid

from adgovernor.library import CampaignLimits, FrequencyCapper, limits, open_backend

CAMPAIGNS = [
    CampaignLimits(
        "coffee",
        advertiser_id="roastery",
        caps=(
            *limits(hour=3),  # at most three times in any hour,
            *limits(day=2, scope="creative"),  # each creative at most twice a day,
            *limits(day=4, scope="advertiser"),  # and all of the advertiser's at most four times.
        ),
    ),
    CampaignLimits("tea", advertiser_id="roastery", caps=limits(day=4, scope="advertiser")),
]

PAGE_VIEWS = [
    ("coffee", "a"),
    ("coffee", "a"),
    ("coffee", "a"),
    ("coffee", "b"),
    ("coffee", "c"),
    ("tea", "t"),
    ("tea", "t"),
    ("coffee", "b"),
]


async def main(address: str) -> None:
    """One person, eight page views."""
    backend = open_backend(address)
    try:
        await backend.ping()
        capper = FrequencyCapper(backend, CAMPAIGNS)
        person = f"viewer-{uuid.uuid4()}"
        for campaign, creative in PAGE_VIEWS:
            answer = await capper.record(person, campaign, creative_id=creative)
            left = await capper.remaining(person, campaign, creative_id=creative)
            if answer.allowed:
                print(f"{campaign}/{creative}: shown, {left} left")
            else:
                causes = ", ".join(f"{cap.scope} {cap.count} of {cap.limit}" for cap in answer.reasons)
                print(f"{campaign}/{creative}: capped by {causes}")
        await capper.forget(person)
    finally:
        await backend.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["memory"]))
