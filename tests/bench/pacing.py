"""Pacing and exactness over a day of bursty traffic: `python -m tests.bench pacing`.

Every run sends an account day of ad requests through the machines (`core.direct`: four user shards, four treasuries)
and shows what was won. Traffic comes in bursts of minutes on five daily shapes. Demand is four times the budget, at
least 6,000 requests, so beyond 5,000 ads a day one simulated ad stands for many: the price is that many impressions'.
Nothing in the rules depends on more than the ratio of budget and price, so this changes only how coarse the run is.
Budgets of up to 1,000 ads are run in all four modes, each greater one in two of them. The runs named ``zones`` have
accounts of four zones at once, on days of 23, 23.5, 24 and 25 hours.

The ideal curve is computed apart, in floating point and steps of a minute: the mode's curve, or what is asked for where
all is released at once; where traffic was not enough for it, what is missing beyond a 200th of the budget is spread
over what remains. What is spent is compared with it at every full hour of the account's day, against the greater of 1 %
of the daily budget and one price a shard. In the runs with late impressions one in twenty is never shown, and one in
ten comes evenly up to 30 minutes late. There, what is sold (spent and reserved) is compared, and not within the last
hour, which is sold faster; where all is released at once they have no ideal.

What is promised of every run: no hour deviates by more than that; at least 99.9 % of the budget is spent; on time
every ad is billed, and with late impressions all but one in a thousand (of fewer than 10,000 ads: all but one). The
figures say which runs break it, under ``promise``.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from adgovernor.contracts import topics
from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

SEED: Final = 2_026
SHARDS: Final = 4
PRICE: Final = 1_000
SMALL: Final = (10, 100, 300, 1_000)
GREAT: Final = {5_000: ("even", "asap"), 10_000: ("front loaded", "hourly"), 10_000_000: ("even", "asap")}
MOST_ADS: Final = 5_000
LEAST_REQUESTS: Final = 6_000
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
    "asap": {"mode": "asap"},
    "even": {"mode": "even"},
    "front loaded": {"mode": "front_loaded", "lead_percent": 20},
    "hourly": {"mode": "hourly", "hourly_weights": list(HOURLY)},
}
PLAIN_DAY: Final = ("UTC", date(2026, 3, 1))
ZONES: Final = (
    ("Europe/Berlin", date(2026, 3, 29)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Asia/Kathmandu", date(2026, 6, 1)),
)
"""Of 23, 25, 23.5 and 24 hours."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to simulate: an account day, or with ``zones`` one in each of `ZONES`."""

    budget: int
    mode: str
    shape: str
    late: bool
    seed: int = 0
    zones: bool = False

    @property
    def name(self) -> str:
        """With which its random numbers begin."""
        words = [str(self.budget), self.mode, self.shape, "late" if self.late else "on time", str(self.seed)]
        return " ".join([*words, "zones"] if self.zones else words)

    @property
    def ads(self) -> int:
        """So many are simulated."""
        return min(self.budget, MOST_ADS)


@dataclass(frozen=True, slots=True)
class Result:
    """One account day. Amounts are in ads, deviations in the tolerance of the deviation."""

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


@dataclass(slots=True)
class Day:
    """One campaign's account day."""

    campaign: str
    start_ms: int
    hour_of_minute: list[float]
    """What the account's clock shows, in hours, at the start of each of its minutes."""
    expected: list[float] = field(default_factory=list)
    worst: float = 0.0
    hour: int = 0

    @property
    def minutes(self) -> int:
        """How many it has."""
        return len(self.hour_of_minute)

    @classmethod
    def of(cls, campaign: str, zone: str, day: date) -> Day:
        """A day of a zone, from the standard library's own calendar."""
        tz = ZoneInfo(zone)
        start, end = (
            int(datetime(each.year, each.month, each.day, tzinfo=tz).timestamp())
            for each in (day, day + timedelta(days=1))
        )
        clocks = [datetime.fromtimestamp(at, tz) for at in range(start, end, 60)]
        return cls(campaign, start * 1_000, [clock.hour + clock.minute / 60 for clock in clocks])

    def curve(self, mode: str) -> list[float]:
        """How much of the budget a mode has released at the end of each minute."""
        if mode == "asap":
            return [1.0] * self.minutes
        if mode == "hourly":
            weights = [HOURLY[int(hour)] for hour in self.hour_of_minute]
            total, done, reached = sum(weights), 0, []
            for weight in weights:
                done += weight
                reached.append(done / total)
            return reached
        shares = [(minute + 1) / self.minutes for minute in range(self.minutes)]
        lead = 4 * 0.2 if mode == "front loaded" else 0.0
        return [share + lead * share * (1 - share) for share in shares]


def ideal(released: list[float], ads: int, demand: list[int]) -> list[float]:
    """Ads at each full hour, given how many were asked for in each minute."""
    spent, since, base = 0.0, 0.0, 0.0
    hours = []
    for minute, done in enumerate(released):
        plan = ads if since >= 1 else base + (ads - base) * (done - since) / (1 - since)
        carried = spent + max(1.0, ads * _CARRY)
        if plan > carried and released[0] < 1:
            since, base, plan = done, carried, carried
        spent += min(demand[minute], max(0.0, plan - spent))
        if minute % 60 == 59:
            hours.append(spent)
    return hours


def traffic(shape: str, requests: int, hours: list[float], rng: random.Random) -> list[int]:
    """How many requests come in each minute: the shape, in bursts."""
    weights = [SHAPES[shape](hour) * rng.choice((0.3, 0.6, 1.0, 1.0, 2.5)) for hour in hours]
    total = sum(weights)
    counts, carried = [], 0.0
    for weight in weights:
        carried += requests * weight / total
        counts.append(int(carried))
        carried -= int(carried)
    return counts


Event = tuple[int, int, str, dict[str, Any]]
"""Time, a number that makes the order of equal times certain, topic, body."""


def simulate(run: Run) -> list[Result]:
    """The result of each account day."""
    rng = random.Random(f"{SEED} {run.name}")
    price = PRICE * (run.budget // run.ads)
    direct = Direct(Rules(partitions=SHARDS))
    places = ZONES if run.zones else (PLAIN_DAY,)
    days = {name: Day.of(name, *place) for number, place in enumerate(places) if (name := f"c{number}")}
    events: list[Event] = []
    for (zone, _), day in zip(places, days.values(), strict=True):
        account = "a" + day.campaign
        campaign: dict[str, Any] = {"campaign_id": day.campaign, "account_id": account, "price_micros": price}
        campaign |= {"budget_micros": 3 * price * run.ads, "daily_budget_micros": price * run.ads}
        campaign["pacing"] = MODES[run.mode]
        for word, what in (("account", {"account_id": account, "time_zone": zone}), ("upsert", campaign)):
            command = {"command_id": word, "account_id": account, "time_ms": day.start_ms, "command": word}
            _feed(direct, topics.CAMPAIGNS, account, {**command, word.replace("upsert", "campaign"): what})
        demand = traffic(run.shape, max(LEAST_REQUESTS, 4 * run.ads), day.hour_of_minute, rng)
        day.expected = ideal(day.curve(run.mode), run.ads, demand)
        for minute, count in enumerate(demand):
            for at_ms in sorted(rng.randrange(60_000) for _ in range(count)):
                _ask(events, day.start_ms + minute * 60_000 + at_ms, day.campaign)
        for second in range(0, LATEST_S + 120, 5):
            # Somebody else's traffic, so that time goes on after midnight.
            _ask(events, day.start_ms + day.minutes * 60_000 + second * 1_000, None)
    _play(run, direct, events, days, price)
    most_unbilled = 0 if not run.late else 1 if run.budget < 10_000 else run.ads // 1_000
    results = []
    for name, day in days.items():
        shares = [user.shares[name] for user in direct.users]
        unbilled = sum(share.unfunded_micros + sum(entry[3] for entry in share.owed) for share in shares)
        spent, label = _spent(direct, name) // price, f"{run.name} {name}" if run.zones else run.name
        results.append(Result(label, run.ads, run.late, most_unbilled, day.worst, spent, unbilled // price))
    return results


def _play(run: Run, direct: Direct, events: list[Event], days: dict[str, Day], price: int) -> None:
    rng = random.Random(f"{SEED} shown {run.name}")
    tolerance = max(run.ads / 100, SHARDS)
    heapq.heapify(events)
    number = len(events)
    while events:
        time_ms, _, topic, body = heapq.heappop(events)
        for name, day in days.items():
            while day.hour < len(day.expected) and time_ms >= day.start_ms + (day.hour + 1) * 3_600_000:
                left = day.minutes - 60 * (day.hour + 1)
                if not run.late or (run.mode != "asap" and (left == 0 or left >= 60)):
                    used = _spent(direct, name) + (_reserved(direct, name) if run.late else 0)
                    deviation = abs(used / price - day.expected[day.hour]) / tolerance
                    day.worst = max(day.worst, deviation)
                day.hour += 1
        for name, output in _feed(direct, topic, body.get("routing_id") or body["user_id"], body):
            if name != topics.DECISIONS or "winner" not in output["slots"][0]:
                continue
            draw, delay_ms = rng.random(), rng.randrange(100, 3_000)
            if run.late and draw < 0.15:
                if draw < 0.05:
                    continue
                delay_ms = rng.randrange(LATEST_S * 1_000)
            number += 1
            shown: dict[str, Any] = {"decision_id": output["decision_id"], "routing_id": output["routing_id"]}
            shown["time_ms"] = output["time_ms"] + delay_ms
            heapq.heappush(events, (shown["time_ms"], number, topics.IMPRESSIONS, shown))


def _ask(events: list[Event], time_ms: int, campaign: str | None) -> None:
    number = len(events) + 1
    body: dict[str, Any] = {"request_id": f"r{number}", "time_ms": time_ms, "user_id": f"u{number % 997}"}
    body["candidates"] = [] if campaign is None else [{"campaign_id": campaign, "creative_id": "x"}]
    events.append((time_ms, number, topics.AD_REQUESTS, body))


def _feed(direct: Direct, topic: str, key: str, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return direct.feed(topic, key, orjson.dumps(body))


def _spent(direct: Direct, campaign: str) -> int:
    return sum(book.spent for user in direct.users for book in user.shares[campaign].books.values())


def _reserved(direct: Direct, campaign: str) -> int:
    return sum(book.reserved for user in direct.users for book in user.shares[campaign].books.values())


def runs(budgets: Iterable[int], seeds: int) -> list[Run]:
    """All runs of some budgets; ``seeds``: of each with late impressions."""
    found = []
    for budget in budgets:
        for mode in GREAT.get(budget, MODES):
            for shape in SHAPES:
                found.append(Run(budget, mode, shape, late=False))
                found += [Run(budget, mode, shape, late=True, seed=seed) for seed in range(seeds)]
    return found


def run() -> dict[str, Any]:
    """The worst figures by budget in impressions and mode. ADGOVERNOR_BENCH_BUDGETS (such as "10,1000") takes only
    these budgets, ADGOVERNOR_BENCH_SEEDS another number of runs with late impressions."""
    chosen = os.environ.get("ADGOVERNOR_BENCH_BUDGETS")
    budgets = tuple(map(int, chosen.split(","))) if chosen else (*SMALL, *GREAT)
    every = runs(budgets, int(os.environ.get("ADGOVERNOR_BENCH_SEEDS", "1")))
    if not chosen:
        every += [Run(1_000, mode, "two peaks", late, zones=True) for mode in MODES for late in (False, True)]
    # The longest first, so that no processor waits for one of them in the end.
    every.sort(key=lambda one: (one.zones, one.ads), reverse=True)
    results: dict[Run, list[Result]] = {}
    with ProcessPoolExecutor() as pool:
        for one, found in zip(every, pool.map(simulate, every), strict=True):
            results[one] = found
            for word in [word for day in found for word in day.broken()]:
                print(word, file=sys.stderr, flush=True)
            if len(results) % 10 == 0:
                print(f"{len(results)} of {len(every)} runs", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {}
    for group in sorted({(one.zones, one.budget, one.mode) for one in every}):
        zones, budget, mode = group
        title = f"{budget} {mode}{' in zones' if zones else ''}"
        of_group = [
            one
            for key, found in results.items()
            if (key.zones, key.budget, key.mode) == group
            for one in found
        ]
        figures[f"{title}: worst deviation at an hour (1 = tolerance)"] = round(
            max(one.worst for one in of_group), 3
        )
        for late, word in ((False, "on time"), (True, "late")):
            some = [one for one in of_group if one.late == late]
            if some:
                figures[f"{title}: usable budget, {word} (%)"] = round(min(one.usable for one in some), 3)
                most = max(one.unbilled_ads for one in some)
                figures[f"{title}: unbilled ads, {word} (of {some[0].ads})"] = most
    days = [one for found in results.values() for one in found]
    broken = [word for one in days for word in one.broken()]
    figures["worst deviation at an hour (1 = tolerance)"] = round(max(one.worst for one in days), 3)
    figures["promise"] = {"kept": not broken, "runs": len(results), "days": len(days), "broken": broken}
    return figures
