"""What a campaign costs where there are many: `python -m tests.bench many-campaigns`.

The cores of eight user shards and eight treasuries, with nothing around them: campaigns are defined, each known to all
user shards, then requests of five of them are decided. The yardstick is the same with a tenth of the campaigns: what is
linear in their number has a ratio of about one.
"""

from __future__ import annotations

import gc
import os
import random
import time
from pathlib import Path
from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

FEW, MANY = 500, 5_000
PARTITIONS = 8
REQUESTS = 3_000
_START_MS = 1_800_000_000_000


def run() -> dict[str, Any]:
    """Microseconds a definition and a request, bytes a campaign and shard, and the ratios of many to few."""
    few, many = _measure(FEW), _measure(MANY)
    return {
        "campaigns": MANY,
        **{name: round(value, 1) for name, value in many.items()},
        "definition_of_few": round(many["definition_us"] / few["definition_us"], 2),
        "request_of_few": round(many["request_us"] / few["request_us"], 2),
    }


def _measure(count: int) -> dict[str, float]:
    rng = random.Random(count)
    direct = Direct(Rules(partitions=PARTITIONS))
    commands = [_upsert(number, count) for number in range(count)]
    gc.collect()
    before = _resident_bytes()
    began = time.perf_counter()
    for account, command in commands:
        direct.feed(topics.CAMPAIGNS, account, command)
    defined_s = time.perf_counter() - began
    gc.collect()
    taken = _resident_bytes() - before
    requests = [_request(rng, number, count) for number in range(2 * REQUESTS)]
    # The first of them have every campaign's first report, and the treasuries' answers, among them.
    for person, request in requests[:REQUESTS]:
        direct.feed(topics.AD_REQUESTS, person, request)
    began = time.perf_counter()
    for person, request in requests[REQUESTS:]:
        direct.feed(topics.AD_REQUESTS, person, request)
    decided_s = time.perf_counter() - began
    return {
        "definition_us": 1e6 * defined_s / count,
        "request_us": 1e6 * decided_s / REQUESTS,
        "bytes_a_campaign_and_shard": taken / count / PARTITIONS,
    }


def _upsert(number: int, count: int) -> tuple[str, bytes]:
    account = f"account-{number % 200}"
    campaign = {
        "campaign_id": f"campaign-{number}-of-{count}",
        "account_id": account,
        "budget_micros": 10**12,
        "daily_budget_micros": 10**10 if number % 2 else None,
        "price_micros": 1_000,
        "caps": [
            {"scope": "campaign", "window": "rolling", "length_ms": 86_400_000, "limit": 5},
            {"scope": "creative", "window": "rolling", "length_ms": 3_600_000, "limit": 2},
        ],
    }
    command = {
        "command": "upsert",
        "command_id": f"define-{number}",
        "account_id": account,
        "time_ms": _START_MS,
        "campaign": {name: value for name, value in campaign.items() if value is not None},
    }
    return account, orjson.dumps(command)


def _request(rng: random.Random, number: int, count: int) -> tuple[str, bytes]:
    person = f"user-{rng.randrange(1_000)}"
    request = {
        "request_id": f"request-{number}",
        "time_ms": _START_MS + 1_000 + number,
        "user_id": person,
        "candidates": [
            {
                "campaign_id": f"campaign-{rng.randrange(count)}-of-{count}",
                "creative_id": f"creative-{rng.randrange(200)}",
            }
            for _ in range(5)
        ],
    }
    return person, orjson.dumps(request)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
