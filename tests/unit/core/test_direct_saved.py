"""Machines joined directly can be put away and taken up again between any two inputs."""

from __future__ import annotations

import random

import orjson

from adgovernor.contracts import topics
from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

RULES = Rules(partitions=2, lateness_ms=0, report_interval_ms=0)
T0 = 1_700_000_000_000


def history(seed: int) -> list[tuple[str, str, bytes]]:
    """Commands, requests and impressions, some repeated, some late."""
    rng = random.Random(seed)
    caps = [{"length_ms": 60_000, "limit": 3}, {"window": "lifetime", "limit": 9}]
    inputs = [
        (
            topics.CAMPAIGNS,
            f"a{number}",
            {
                "command": "upsert",
                "command_id": "1",
                "account_id": f"a{number}",
                "time_ms": T0,
                "campaign": {
                    "campaign_id": f"c{number}",
                    "account_id": f"a{number}",
                    "budget_micros": 400,
                    "price_micros": 10,
                    "caps": caps,
                }
                | ({"daily_budget_micros": 150} if number else {}),
            },
        )
        for number in range(2)
    ]
    time_ms = T0
    asked: list[tuple[str, str]] = []
    for number in range(120):
        time_ms += rng.randrange(20_000)
        person = f"u{rng.randrange(6)}"
        if rng.random() < 0.55:
            name = rng.choice(asked)[0] if asked and rng.random() < 0.1 else f"r{number}"
            asked.append((name, person))
            candidates = [{"campaign_id": f"c{n}", "creative_id": f"x{n}"} for n in range(2)]
            body = {"request_id": name, "time_ms": time_ms, "user_id": person, "candidates": candidates}
            inputs.append((topics.AD_REQUESTS, person, body))
        elif asked:
            name, person = rng.choice(asked)
            inputs.append(
                (topics.IMPRESSIONS, person, {"decision_id": name, "routing_id": person, "time_ms": time_ms})
            )
    return [(topic, key, orjson.dumps(body)) for topic, key, body in inputs]


def test_what_was_saved_goes_on_as_if_nothing_had_happened() -> None:
    """Saved and restored before every input, the machines give the same outputs as when they are left alone."""
    for seed in range(5):
        whole, saved = Direct(RULES), Direct(RULES).save()
        outputs = 0
        for topic, key, value in history(seed):
            resumed = Direct.restore(RULES, saved)
            expected = whole.feed(topic, key, value)
            assert resumed.feed(topic, key, value) == expected
            saved = resumed.save()
            outputs += len(expected)
        assert outputs > 40
        spent = [sum(b.spent for b in s.books.values()) for u in whole.users for s in u.shares.values()]
        assert sum(spent) > 0
