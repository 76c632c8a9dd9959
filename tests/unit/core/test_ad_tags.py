"""A candidate that is a tag: the winner says where the ad is fetched from."""

from __future__ import annotations

import orjson

from adgovernor.contracts import topics
from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

CAMPAIGN = {"campaign_id": "c", "account_id": "a", "budget_micros": 1_000, "price_micros": 10}


def test_the_winner_carries_the_candidates_tag() -> None:
    """Of two candidates only the winner's tag is in the decision, and a winner without one has none."""
    direct = Direct(Rules(partitions=1))
    command = {"command": "upsert", "command_id": "1", "account_id": "a", "campaign": CAMPAIGN}
    direct.feed(topics.CAMPAIGNS, "a", orjson.dumps(command))
    winners = []
    offered: list[list[str | None]] = [
        ["https://one.example/", "https://two.example/"],
        [None, "https://two.example/"],
    ]
    for number, tags in enumerate(offered):
        candidates = [
            {"campaign_id": "c", "creative_id": f"x{place}"} | ({"tag_url": tag} if tag else {})
            for place, tag in enumerate(tags)
        ]
        request = {"request_id": f"r{number}", "time_ms": 1_000, "user_id": "u", "candidates": candidates}
        outputs = direct.feed(topics.AD_REQUESTS, "u", orjson.dumps(request))
        winners += [body["slots"][0]["winner"] for topic, body in outputs if topic == topics.DECISIONS]
    assert winners[0]["tag_url"] == "https://one.example/"
    assert "tag_url" not in winners[1]
