"""Random days of everything that moves money at once: pacing, days, flights, accounts, prices by event, commands in
mid-day, late events, few people or many. Whatever comes, the same few sentences hold."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest
from core_kit import DAY, HOUR, MINUTE, T0, World, state_of
from test_account_budgets import check_accounts

from adgovernor.contracts import topics

START = T0 // DAY * DAY
PRICE = 1_000
KINDS = {"cpm": "impression", "cpc": "click", "cpcv": "view"}
PACINGS: tuple[dict[str, Any], ...] = (
    {"mode": "asap"},
    {"mode": "even"},
    {"mode": "front_loaded", "lead_percent": 20},
    {"mode": "hourly", "hourly_weights": [1, 0, 2] * 8},
)


class Walk:
    """One run; `World` with a queue of what is to come."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(f"walk {seed}")
        self.world = World(rng.randint(1, 8), now_ms=START, lateness_ms=10_000, late_prior_ppm=1_000_000)
        self.todo: list[tuple[int, int, Any]] = []
        self.late = rng.random() < 0.7
        self.pricing = rng.choice(("cpm", "cpm", "cpc", "cpcv"))
        self.by_hand: set[str] = set()
        self.seen = 0
        self.paused: dict[str, int] = {}
        if rng.random() < 0.6:
            account: dict[str, Any] = {"account_id": "a1", "time_zone": rng.choice(("UTC", "Europe/Berlin"))}
            account |= rng.choice(({}, {"budget_micros": PRICE * rng.choice((7, 60))}))
            account |= rng.choice(({}, {"daily_budget_micros": PRICE * rng.choice((5, 40))}))
            self.world.command("account", time_ms=START, account=account)
        self.campaigns = {f"c{number}": self._definition() for number in range(rng.choice((1, 1, 2, 3)))}
        for name, fields in self.campaigns.items():
            self.world.campaign(name, **fields)
        people = rng.choice((1, 2, 300, 300))
        for number in range(rng.choice((150, 400))):
            # Bursts, and most of it in the evening.
            at = (
                START + int(DAY * rng.random() ** 0.5)
                if rng.random() < 0.5
                else START + rng.randrange(24) * HOUR
            )
            self.put(at, ("request", f"r{number}", f"user{rng.randrange(people)}"))
        for _ in range(rng.choice((0, 4, 10))):
            self.put(START + rng.randrange(DAY), ("command", rng.choice(sorted(self.campaigns))))

    def put(self, at_ms: int, what: Any) -> None:
        """Something is to come."""
        heapq.heappush(self.todo, (at_ms, len(self.todo) + 10_000 * self.seen, what))
        self.seen += 1

    def _definition(self) -> dict[str, Any]:
        rng = self.rng
        ads = rng.choice((1, 3, 10, 60))
        fields: dict[str, Any] = {"budget_micros": PRICE * ads + rng.choice((0, 500)), "price_micros": PRICE}
        fields |= {"pricing": self.pricing, "pacing": rng.choice(PACINGS)}
        if rng.random() < 0.6:
            fields |= {"budget_micros": 2 * PRICE * ads, "daily_budget_micros": PRICE * ads}
            fields["daily_policy"] = rng.choice(("hard", "rollover"))
        if rng.random() < 0.5:
            fields["end_ms"] = START + rng.randrange(DAY // 2, DAY)
        return fields

    def run(self) -> None:
        """The day and the hours after it."""
        while self.todo:
            at_ms, _, (kind, *what) = heapq.heappop(self.todo)
            getattr(self, "_" + kind)(max(at_ms, self.world.now_ms - MINUTE), *what)
            check_accounts(self.world)
            self._look_at_episodes()
        self.world.settle(START + DAY + 4 * HOUR)
        check_accounts(self.world)

    def _request(self, at_ms: int, request_id: str, user: str) -> None:
        rng = self.rng
        bid = PRICE * rng.choice((1, 1, 1, 2))
        candidates = [{"campaign_id": name, "price_micros": bid} for name in self.campaigns]
        rng.shuffle(candidates)
        for slot in self.world.request(request_id, at_ms, *candidates, user=user)["slots"]:
            if "winner" not in slot:
                continue
            assert slot["winner"]["campaign_id"] not in self.by_hand, "it was paused by hand"
            draw = rng.random()
            if draw < 0.05:
                continue
            delay_ms = rng.randrange(30 * MINUTE) if self.late and draw < 0.2 else rng.randrange(3_000)
            self.put(at_ms + delay_ms, ("event", request_id, user))

    def _event(self, at_ms: int, decision_id: str, user: str) -> None:
        value = {"decision_id": decision_id, "slot": 0, "routing_id": user, "time_ms": at_ms}
        kind = KINDS[self.pricing]
        self.world.put(topics.IMPRESSIONS, user, value if kind == "impression" else {**value, "type": kind})

    def _command(self, at_ms: int, name: str) -> None:
        rng, world = self.rng, self.world
        what = rng.choice(("pause", "resume", "resume", "top-up", "credit", "decrease", "upsert"))
        if what == "upsert":
            fields = self.campaigns[name]
            fields["budget_micros"] = max(0, fields["budget_micros"] + PRICE * rng.choice((-20, -1, 1, 20)))
            world.campaign(name, time_ms=at_ms, **fields)
        elif what in {"pause", "resume"}:
            world.command(what, campaign_id=name, time_ms=at_ms)
            (self.by_hand.add if what == "pause" else self.by_hand.discard)(name)
        else:
            amount = PRICE * rng.choice((1, 5, 30))
            world.command(what, campaign_id=name, time_ms=at_ms, amount_micros=amount)

    def _look_at_episodes(self) -> None:
        for name in self.campaigns:
            paused = [event["episode"] for event in self.world.of(topics.CAMPAIGN_PAUSED, name)]
            resumed = [event["episode"] for event in self.world.of(topics.CAMPAIGN_RESUMED, name)]
            assert paused == list(range(1, len(paused) + 1)), "an episode is paused once"
            assert resumed == list(range(2, len(resumed) + 2)), "an episode begins once"
            assert len(paused) - 1 <= len(resumed) <= len(paused)
            for topic, key in ((topics.BUDGET_EXHAUSTED, "scope"), (topics.BUDGET_THRESHOLDS, "percent")):
                told = [(event["episode"], event[key]) for event in self.world.of(topic, name)]
                assert len(told) == len(set(told)), f"{topic} is told once an episode"


@pytest.mark.parametrize("seed", range(8))
def test_money_adds_up_whatever_comes(seed: int) -> None:
    """No money is made, lost or spent twice, no day or account spends more than it has, who is paused by hand is not
    shown, every episode is told once, next to nothing stays unbilled, and the ledger proves all of it."""
    walk = Walk(seed)
    walk.run()
    world = walk.world
    for name in walk.campaigns:
        assert world.money(name)["unfunded"] <= 2 * PRICE, "at most one ad, at the dearest bid, is not billed"
        assert world.money(name)["reserved"] == 0
    for shard, machine in world.machines.items():
        assert state_of(world.folded(shard)) == state_of(machine)
