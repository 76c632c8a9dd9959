"""Ads of the topic `ads` for playback, and somebody who takes what it publishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adgovernor.contracts.ads import Ad, PlayableAd


def shown_ad(decision_id: str, shown: PlayableAd, session_id: str = "u") -> Ad:
    """An ad of the topic with one playable ad in it."""
    body = {
        "decision_id": decision_id,
        "slot": 0,
        "routing_id": "u",
        "time_ms": 1,
        "deadline_ms": 1,
        "campaign_id": "c",
        "creative_id": "x",
        "tag_url": "http://ads.example/tag",
        "session_id": session_id,
        "resolved_ms": 1,
        "ads": [shown],
    }
    return Ad.model_validate(body)


class Deaf:
    """Takes every impression."""

    async def impression(self, event: object) -> None: ...


async def until(condition: Callable[[], bool]) -> None:
    """Until a condition on other tasks' state holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a poll of others, without an event
            await asyncio.sleep(0.01)
