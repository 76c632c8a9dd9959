"""Pacing and exactness over a day of bursty traffic: `python -m tests.bench pacing`.

Every run sends one account day of ad requests through the machines (`core.direct`: four user shards, one treasury each)
and shows what was won. Traffic comes in bursts of minutes on five daily shapes. Demand is four times the budget, at
least 6,000 requests, so beyond 5,000 ads a day one simulated ad stands for many: the price is that many impressions'.
Nothing in the rules depends on more than the ratio of budget and price, so this changes only how coarse the run is.

The ideal curve is computed apart, in floating point and steps of a minute: the mode's curve; where traffic was not
enough for it, what is missing beyond a 200th of the budget is spread over what remains. A deviation is measured at
every full hour, against the greater of 1 % of the daily budget and one price a shard. In the runs with late impressions
one in twenty is never shown, and one in ten comes evenly up to 30 minutes late.

What is promised of every run: no hour deviates by more than that; at least 99.9 % of the budget is spent; on time
every ad is billed, and with late impressions all but one in a thousand (of fewer than 10,000 ads: all but one). The
figures say which runs break it, under ``promise``.
"""

from __future__ import annotations

import heapq
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from adgovernor.contracts import topics
from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

SEED: Final = 2_026
SHARDS: Final = 4
DAY_START_MS: Final = 1_772_323_200_000
"""2026-03-01 00:00 UTC."""
MINUTES: Final = 1_440
PRICE: Final = 1_000
BUDGETS: Final = (10, 100, 300, 1_000, 5_000, 10_000, 10_000_000)
SEEDS: Final = 1
"""Runs of each kind and shape with late impressions."""
MOST_ADS: Final = 5_000
LATEST_S: Final = 1_800
_CARRY: Final = 1 / 200

SHAPES: Final[dict[str, Callable[[float], float]]] = {
    "flat": lambda hour: 1.0,
    "two peaks": lambda hour: (
        0.35 + math.exp(-((hour - 8) ** 2) / 4) + 1.6 * math.exp(-((hour - 20) ** 2) / 5)
    ),
    "working day": lambda hour: 1.0 if 8 <= hour < 19 else 0.3,
    "silent night": lambda hour: 0.0 if 1 <= hour < 6 else 1.0,
    "one great hour": lambda hour: 8.0 if 13 <= hour < 14 else 0.7,
}
HOURLY: Final = (1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 6, 6, 5, 5, 5, 6, 7, 8, 8, 6, 3, 2)
MODES: Final[dict[str, dict[str, Any]]] = {
    "even": {"mode": "even"},
    "front loaded": {"mode": "front_loaded", "lead_percent": 20},
    "hourly": {"mode": "hourly", "hourly_weights": list(HOURLY)},
}


@dataclass(frozen=True, slots=True)
class Result:
    """One run. Amounts are in budgets, deviations in the tolerance of the deviation."""

    name: str
    ads: int
    late: bool
    most_unbilled: int
    worst: float
    spent_ads: int
    unbilled_ads: int

    @property
    def usable(self) -> float:
        """Percent."""
        return 100 * self.spent_ads / self.ads

    def broken(self) -> list[str]:
        """What of the promise it breaks."""
        words = []
        if self.worst > 1:
            words.append(f"{self.name}: {self.worst:.3f} of the tolerance at an hour")
        if 1_000 * self.spent_ads < 999 * self.ads:
            words.append(f"{self.name}: {self.ads - self.spent_ads} of {self.ads} ads unspent")
        if self.unbilled_ads > self.most_unbilled:
            words.append(f"{self.name}: {self.unbilled_ads} of {self.ads} ads unbilled")
        return words


def curve(mode: str, share: float) -> float:
    """How much of the budget a mode has released after a share of the day."""
    if mode == "front loaded":
        return share + 4 * 0.2 * share * (1 - share)
    if mode == "hourly":
        hour = min(share * 24, 24.0)
        whole = int(hour)
        part = sum(HOURLY[:whole]) + (HOURLY[whole] * (hour - whole) if whole < 24 else 0)
        return part / sum(HOURLY)
    return share


def ideal(mode: str, ads: int, demand: list[int]) -> list[float]:
    """Ads at each full hour, given how many were asked for in each minute."""
    spent, since, base = 0.0, 0.0, 0.0
    hours = []
    for minute in range(MINUTES):
        done = curve(mode, (minute + 1) / MINUTES)
        plan = ads if since >= 1 else base + (ads - base) * (done - since) / (1 - since)
        carried = spent + max(1.0, ads * _CARRY)
        if plan > carried:
            since, base, plan = done, carried, carried
        spent += min(demand[minute], max(0.0, plan - spent))
        if minute % 60 == 59:
            hours.append(spent)
    return hours


def traffic(shape: str, requests: int, rng: random.Random) -> list[int]:
    """How many requests come in each minute: the shape, in bursts."""
    weights = [
        SHAPES[shape](minute / 60) * rng.choice((0.3, 0.6, 1.0, 1.0, 2.5)) for minute in range(MINUTES)
    ]
    total = sum(weights)
    counts, carried = [], 0.0
    for weight in weights:
        carried += requests * weight / total
        counts.append(int(carried))
        carried -= int(carried)
    return counts


def simulate(shape: str, mode: str, budget: int, *, late: bool, seed: int = 0) -> Result:
    """One day."""
    label = f"{budget} {mode} {shape} {'late' if late else 'on time'} {seed}"
    rng = random.Random(f"{SEED} {label}")
    ads = min(budget, MOST_ADS)
    price = PRICE * (budget // ads)
    direct = Direct(Rules(partitions=SHARDS))
    campaign: dict[str, Any] = {"campaign_id": "c1", "account_id": "a1", "price_micros": price}
    campaign |= {"budget_micros": 3 * price * ads, "daily_budget_micros": price * ads}
    if mode in MODES:
        campaign["pacing"] = MODES[mode]
    command = {"command_id": "k1", "account_id": "a1", "time_ms": DAY_START_MS, "command": "upsert"}
    _feed(direct, topics.CAMPAIGNS, "a1", command | {"campaign": campaign})
    demand = traffic(shape, max(6_000, 4 * ads), rng)
    expected = ideal(mode, ads, demand)
    events: list[tuple[int, int, str, dict[str, Any]]] = []
    number = 0
    for minute, count in enumerate(demand):
        for time_ms in sorted(rng.randrange(60_000) for _ in range(count)):
            number += 1
            body: dict[str, Any] = {
                "request_id": f"r{number}",
                "time_ms": DAY_START_MS + minute * 60_000 + time_ms,
            }
            body["candidates"] = [{"campaign_id": "c1", "creative_id": "x"}]
            events.append(
                (body["time_ms"], number, topics.AD_REQUESTS, body | {"user_id": f"u{number % 997}"})
            )
    for second in range(0, LATEST_S + 120, 5):
        # Somebody else's traffic, so that time goes on after midnight.
        number += 1
        body = {
            "request_id": f"r{number}",
            "time_ms": DAY_START_MS + 86_400_000 + second * 1_000,
            "candidates": [],
        }
        events.append((body["time_ms"], number, topics.AD_REQUESTS, body | {"user_id": f"u{number % 997}"}))
    heapq.heapify(events)
    worst, hour = 0.0, 0
    tolerance = max(ads / 100, SHARDS)
    while events:
        time_ms, _, topic, body = heapq.heappop(events)
        while hour < 24 and time_ms >= DAY_START_MS + (hour + 1) * 3_600_000:
            if not late and mode != "asap":
                worst = max(worst, abs(_spent(direct) / price - expected[hour]) / tolerance)
            hour += 1
        key = body.get("routing_id") or body["user_id"]
        for name, output in _feed(direct, topic, key, body):
            if name != topics.DECISIONS or "winner" not in output["slots"][0]:
                continue
            draw, delay_ms = rng.random(), rng.randrange(100, 3_000)
            if late and draw < 0.15:
                if draw < 0.05:
                    continue
                delay_ms = rng.randrange(LATEST_S * 1_000)
            number += 1
            shown: dict[str, Any] = {"decision_id": output["decision_id"], "routing_id": output["routing_id"]}
            shown["time_ms"] = output["time_ms"] + delay_ms
            heapq.heappush(events, (shown["time_ms"], number, topics.IMPRESSIONS, shown))
    shares = [user.shares["c1"] for user in direct.users]
    unbilled = sum(share.unfunded_micros + sum(entry[3] for entry in share.owed) for share in shares)
    most_unbilled = 0 if not late else 1 if budget < 10_000 else ads // 1_000
    return Result(label, ads, late, most_unbilled, worst, _spent(direct) // price, unbilled // price)


def _feed(direct: Direct, topic: str, key: str, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return direct.feed(topic, key, orjson.dumps(body))


def _spent(direct: Direct) -> int:
    return sum(book.spent for user in direct.users for book in user.shares["c1"].books.values())


def run() -> dict[str, Any]:
    """The worst figures over all shapes, by budget in impressions. ADGOVERNOR_BENCH_BUDGETS (such as "10,1000") takes
    only these budgets, ADGOVERNOR_BENCH_SEEDS another number of runs with late impressions."""
    chosen = os.environ.get("ADGOVERNOR_BENCH_BUDGETS")
    budgets = tuple(map(int, chosen.split(","))) if chosen else BUDGETS
    seeds = range(int(os.environ.get("ADGOVERNOR_BENCH_SEEDS", SEEDS)))
    figures: dict[str, Any] = {}
    results: list[Result] = []
    for budget in budgets:
        on_time = [simulate(shape, "even", budget, late=False) for shape in SHAPES]
        results += on_time
        figures[f"{budget}: worst deviation at an hour (1 = tolerance)"] = round(
            max(result.worst for result in on_time), 3
        )
        for mode in ("even", "asap"):
            late = [simulate(shape, mode, budget, late=True, seed=seed) for shape in SHAPES for seed in seeds]
            results += late
            for word, runs in (("on time", on_time), ("late", late)):
                if mode == "asap" and word == "on time":
                    continue
                least = round(min(result.usable for result in runs), 3)
                figures[f"{budget}, {mode}: usable budget, {word} (%)"] = least
                most = max(result.unbilled_ads for result in runs)
                figures[f"{budget}, {mode}: unbilled ads, {word} (of {runs[0].ads})"] = most
    for mode in ("front loaded", "hourly"):
        runs = [simulate("working day", mode, 10_000, late=late) for late in (False, True)]
        results += runs
        figures[f"{mode}: worst deviation at an hour (1 = tolerance)"] = round(runs[0].worst, 3)
        figures[f"{mode}: usable budget, on time / late (%)"] = " / ".join(
            f"{result.usable:.3f}" for result in runs
        )
        figures[f"{mode}: unbilled ads, late (of {runs[1].ads})"] = runs[1].unbilled_ads
    broken = [word for result in results for word in result.broken()]
    figures["promise"] = {"kept": not broken, "runs": len(results), "broken": broken}
    return figures
