"""What publishers and advertisers do in a run: requests, impressions, opt-outs, commands; in order and out of it,
once and twice, well formed and not.

Budgets are a few prices and people are few, so that caps, exhaustion, recalls and episodes are met within seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
from tests.simulation.minds import Minds
from tests.simulation.themes import BROAD, Theme

from adgovernor.contracts import topics
from adgovernor.contracts.routing import partition_of
from adgovernor.core.rules import Rules
from adgovernor.runtime.ports import RawEvent

LOAD_S: Final = 24.0
"""For how long people act."""
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
_CATEGORIES: Final = ("IAB1", "IAB2", "IAB3")
_LABELS: Final = ("sport", "news")
_PLACEMENTS: Final = ("preroll", "midroll")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that somebody outside writes to a topic."""

    at_s: float
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class Workload:
    """All that one run is given."""

    rng: random.Random
    partitions: int
    epoch_ms: int
    rules: Rules
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    campaigns: list[dict[str, Any]] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    people: list[dict[str, str]] = field(default_factory=list)
    zone: str = "UTC"
    """Where most accounts are."""
    midnight: bool = False
    """Whether a day ends there within the run."""
    rich: bool = False
    """Whether accounts have budgets, and there are pods, prices by click and view, and days that roll over."""
    minds: Minds = field(default_factory=lambda: Minds(random.Random(0)))
    theme: Theme = BROAD
    _seen: dict[int, int] = field(default_factory=dict)
    """Partition of ``decisions`` → the last number taken by the client below."""
    _requests: list[tuple[float, dict[str, Any], bytes]] = field(default_factory=list)

    # --- The client: sees decisions, shows ads ----------------------------------------------------------------

    def react(self, topic: str, partition: int, event: RawEvent, now_s: float) -> list[Arrival]:
        """What a player does with a message that has just landed on an output topic."""
        if topic != topics.DECISIONS:
            return []
        body = orjson.loads(event.value or b"")
        if body["dn"] != self._seen.get(partition, 0) + 1:
            return []
        self._seen[partition] = body["dn"]
        found: list[Arrival] = []
        for slot in body["slots"]:
            if slot.get("winner") is not None:
                found += self._show(body, slot, now_s)
        return found

    def _show(self, body: dict[str, Any], slot: dict[str, Any], now_s: float) -> list[Arrival]:
        rng, theme = self.rng, self.theme
        draw = rng.random() - theme.not_shown
        if draw < 0:
            return []
        if draw < theme.shown_soon:
            delay_s = rng.uniform(0.05, 2.0)
        elif draw < theme.shown_soon + theme.shown_late:
            delay_s = rng.uniform(*theme.late_s)
        else:
            delay_s = rng.uniform(9.0, 20.0)
        routing, price = body["routing_id"], slot["winner"]["price_micros"]
        billable = slot["winner"].get("billable")
        event: dict[str, Any] = {
            "decision_id": body["decision_id"],
            "slot": slot["slot"],
            "routing_id": routing,
            "time_ms": self._event_ms(now_s + delay_s),
        }
        draw = rng.random()
        if draw < 0.1:
            event["price_micros"] = rng.randint(0, price)
        elif draw < 0.13:
            event["price_micros"] = price + 300
        if rng.random() < 0.1:
            event["slot"] += rng.choice((0, 5))
        found = [self._arrival(now_s + delay_s, topics.IMPRESSIONS, routing, event)]
        if billable is not None and rng.random() < 0.7:
            # Now and then before the impression, and long after it.
            paid_s = now_s + max(0.05, delay_s + rng.uniform(-0.3, 3.0))
            paid = {**event, "type": billable, "time_ms": self._event_ms(paid_s)}
            found += [
                self._arrival(paid_s + again, topics.IMPRESSIONS, routing, paid)
                for again in (0.0, rng.uniform(0, 4))[: 1 + (rng.random() < 0.2)]
            ]
        if rng.random() < 0.2:
            found.append(
                self._arrival(now_s + delay_s + rng.uniform(0, 4), topics.IMPRESSIONS, routing, event)
            )
        if rng.random() < 0.1:
            click = {**event, "type": rng.choice(("click", "view"))}
            click.pop("price_micros", None)
            found.append(self._arrival(now_s + delay_s + 0.1, topics.IMPRESSIONS, routing, click))
        return found

    def _event_ms(self, at_s: float) -> int:
        """The event time of what arrives at ``at_s``: a little before, sometimes much."""
        late_s = self.rng.uniform(0, 0.8) if self.rng.random() < 0.9 else self.rng.uniform(1, 5)
        return self.epoch_ms + int((at_s - late_s) * 1000)

    def _arrival(self, at_s: float, topic: str, key: str, body: dict[str, Any]) -> Arrival:
        raw = key.encode()
        partition = partition_of(raw, self.partitions)
        if self.rng.random() < 0.01:
            partition = self.rng.randrange(self.partitions)
        return Arrival(at_s, topic, partition, raw, orjson.dumps(body))

    # --- What is planned ahead --------------------------------------------------------------------------------

    def plan(self) -> None:
        """Draws accounts, campaigns, people, and everything that they do of their own accord."""
        rng = self.rng
        self._plan_campaigns()
        self._plan_people()
        requests = rng.randint(*self.theme.requests)
        for number in range(requests):
            self._plan_request(number)
        for _ in range(rng.randint(0, 8)):
            self._plan_opt_out()
        for _ in range(rng.randint(0, 6)):
            self._plan_poison()
        self._plan_commands()
        self._plan_wishes()
        self.arrivals.sort(key=lambda arrival: arrival.at_s)

    def _plan_campaigns(self) -> None:
        rng = self.rng
        for number in range(rng.randint(1, 2)):
            zone = self.zone if rng.random() < self.theme.at_home else rng.choice(_ZONES)
            account: dict[str, Any] = {"account_id": f"a{number}", "time_zone": zone}
            if self.rich and rng.random() < self.theme.account_budgets:
                account["budget_micros"] = 1000 * rng.choice(self.theme.account_prices) + rng.choice((0, 300))
            if self.rich and rng.random() < (0.5 if self.midnight else 0.2):
                account["daily_budget_micros"] = 1000 * rng.choice((4, 8, 20)) + rng.choice((0, 300))
            self.accounts[f"a{number}"] = account
        for name, account in self.accounts.items():
            self._command(0.05, name, "account", account=account)
        for number in range(rng.randint(*self.theme.campaigns)):
            campaign = self._draw_campaign(f"c{number}")
            self.campaigns.append(campaign)
            self._command(rng.uniform(0.1, 1.5), campaign["account_id"], "upsert", campaign=campaign)

    def _draw_campaign(self, name: str) -> dict[str, Any]:
        rng, theme = self.rng, self.theme
        price = rng.choice((1, 700, 1000, 1000, 1300))
        budget = price * rng.choice(theme.prices) + rng.choice((0, 0, rng.randint(0, price)))
        campaign: dict[str, Any] = {
            "campaign_id": name,
            "account_id": rng.choice(sorted(self.accounts)),
            "budget_micros": budget,
            "price_micros": price,
            "thresholds_percent": [50, 100],
        }
        if rng.random() < 0.3:
            campaign["min_price_micros"] = max(1, price // 2)
        if rng.random() < (max(0.7, theme.daily) if self.midnight else theme.daily):
            campaign["daily_budget_micros"] = price * rng.choice(theme.daily_prices) + rng.choice(
                (0, price // 3)
            )
            if self.rich and rng.random() < 0.5:
                campaign["daily_policy"] = "rollover"
        if self.rich and rng.random() < 0.4:
            campaign["pricing"] = rng.choice(("cpc", "cpcv"))
            campaign["expected_rate_ppm"] = rng.choice((300_000, 1_000_000))
        if self.rich and rng.random() < 0.3:
            campaign["reservation_ms"] = rng.choice((2_000, 3_500, 9_000))
        if rng.random() < 0.2:
            campaign["start_ms"] = self.epoch_ms + rng.randint(-5_000, 3_000)
            campaign["end_ms"] = self.epoch_ms + rng.randint(12_000, 40_000)
        if rng.random() < 0.2:
            campaign["pacing"] = {"mode": rng.choice(("even", "front_loaded"))}
        if rng.random() < 0.4:
            campaign["categories"] = rng.sample(_CATEGORIES, rng.randint(1, 2))
        campaign["caps"] = [self._draw_cap() for _ in range(rng.choice(theme.caps))]
        if rng.random() < 0.5:
            campaign["policies"] = {
                "no_identity": rng.choice(("skip", "session")),
                "degraded": rng.choice(("open", "closed", "bounded")),
                "degraded_limit": rng.randint(0, 2),
            }
        self.minds.campaign(campaign)
        return campaign

    def _draw_cap(self) -> dict[str, Any]:
        rng = self.rng
        scope = rng.choice(("campaign", "campaign", "creative", "advertiser", "category", "label"))
        cap: dict[str, Any] = {"scope": scope}
        if scope == "label":
            cap["label"] = rng.choice((*_LABELS, "placement:preroll"))
        elif scope == "category" and rng.random() < 0.5:
            cap["label"] = rng.choice(_CATEGORIES)
        window = rng.choice(("rolling", "rolling", "rolling", "calendar", "lifetime", "pod", "stream"))
        cap["window"] = window
        cap["limit"] = rng.randint(1, 3)
        if window == "rolling":
            cap["length_ms"] = rng.choice((1_000, 3_000, 6_000, 12_000))
        elif window == "calendar":
            cap["length_ms"] = rng.choice((86_400_000, 604_800_000, 2_592_000_000))
            cap["limit"] = rng.randint(2, 6)
        elif window == "lifetime":
            cap["limit"] = rng.randint(3, 10)
        self.minds.cap(cap)
        return cap

    def _plan_people(self) -> None:
        rng = self.rng
        for number in range(rng.randint(*self.theme.people)):
            person: dict[str, str] = {}
            draw = rng.random()
            if draw < 0.2:
                person["household_id"] = f"home{number}"
            if draw < 0.7:
                person["user_id"] = f"ann{number}"
            elif draw < 0.85:
                person["device_id"] = f"tv{number}"
            self.people.append(person)

    def _plan_request(self, number: int) -> None:
        rng = self.rng
        at_s = rng.uniform(1.2, self.theme.until_s)
        request: dict[str, Any] = {"request_id": f"r{number}", **rng.choice(self.people)}
        draw = rng.random()
        if draw < 0.02:
            request["time_ms"] = self.epoch_ms + int((at_s + 8) * 1000)
        else:
            request["time_ms"] = self._event_ms(at_s)
        if rng.random() < 0.5:
            request["session_id"] = f"s{rng.randint(0, 4)}"
        if rng.random() < 0.5:
            request["placement"] = rng.choice(_PLACEMENTS)
        if rng.random() < 0.4:
            request["labels"] = rng.sample(_LABELS, rng.randint(1, 2))
        if rng.random() < 0.03:
            request["deadline_ms"] = request["time_ms"] - 10
        if rng.random() < 0.2:
            request["slots"] = rng.randint(1, 3)
        if self.rich and rng.random() < self.theme.pods:
            request["pod"] = {
                "total_duration_ms": rng.choice((30_000, 60_000)),
                "max_ads": rng.randint(1, 4),
                "floor_micros": rng.choice((0, 0, 900)),
                "separate_advertisers": rng.random() < 0.5,
                "separate_categories": rng.random() < 0.3,
            }
        request["candidates"] = [
            self._draw_candidate() for _ in range(rng.randint(1, 4 + 4 * ("pod" in request)))
        ]
        self.minds.request(request)
        key = self._routing(request)
        first = self._arrival(at_s, topics.AD_REQUESTS, key, request)
        self.arrivals.append(first)
        while rng.random() < 0.15:
            again_s = at_s + (rng.uniform(0, 3) if rng.random() < 0.7 else rng.uniform(3, 20))
            self.arrivals.append(Arrival(again_s, first.topic, first.partition, first.key, first.value))

    def _routing(self, request: dict[str, Any]) -> str:
        for name in ("household_id", "user_id", "device_id", "session_id", "request_id"):
            if name in request:
                return str(request[name])
        raise AssertionError("every request has an id")

    def _draw_candidate(self) -> dict[str, Any]:
        rng = self.rng
        campaign = rng.choice(self.campaigns)
        name = campaign["campaign_id"] if rng.random() < 0.98 else "nobody"
        candidate: dict[str, Any] = {"campaign_id": name, "creative_id": f"{name}-{rng.randint(0, 2)}"}
        draw = rng.random()
        if draw < 0.15:
            candidate["price_micros"] = campaign["price_micros"] + rng.randint(0, 500)
        elif draw < 0.2:
            candidate["price_micros"] = campaign["price_micros"] // 2
        if rng.random() < 0.2:
            candidate["categories"] = [rng.choice(_CATEGORIES)]
        if self.rich:
            number = int(candidate["creative_id"][-1])
            candidate["duration_ms"] = (2_000, 15_000, 30_000)[number]
            candidate["advertiser_domain"] = f"{number % 2}.example"
        return candidate

    def _plan_opt_out(self) -> None:
        rng = self.rng
        at_s = rng.uniform(2, LOAD_S)
        key = self._routing({**rng.choice(self.people), "request_id": "x", "session_id": "s0"})
        event: dict[str, Any] = {
            "type": rng.choice(("opt-out", "opt-in")),
            "routing_id": key,
            "time_ms": self._event_ms(at_s),
            "scope": rng.choice(("advertiser", "category")),
        }
        event["value"] = rng.choice(sorted(self.accounts) if event["scope"] == "advertiser" else _CATEGORIES)
        self.arrivals.append(self._arrival(at_s, topics.USER_EVENTS, key, event))

    def _plan_wishes(self) -> None:
        people = [self._routing({**person, "request_id": "x", "session_id": "s0"}) for person in self.people]
        sessions = [f"s{number}" for number in range(5)]
        wishes = self.minds.events(LOAD_S, people, sessions, sorted(self.accounts), _CATEGORIES)
        for at_s, event in wishes:
            late_ms = int(self.minds.late_s() * 1000)
            event["time_ms"] = self.epoch_ms + int(at_s * 1000) - late_ms
            self.arrivals.append(self._arrival(at_s, topics.USER_EVENTS, event["routing_id"], event))

    def _plan_poison(self) -> None:
        rng = self.rng
        topic = rng.choice(topics.PUBLIC_INPUTS)
        value = rng.choice((b"{", b"", None, b'{"time_ms":5}', b"\xff\xfe", b"[1,\n2]", b'{"a":NaN}'))
        key = rng.choice((None, b"k", b"\xfe\xff"))
        at_s = rng.uniform(1, LOAD_S)
        self.arrivals.append(Arrival(at_s, topic, rng.randrange(self.partitions), key, value))

    def _plan_account_commands(self) -> None:
        rng = self.rng
        for name, account in self.accounts.items():
            for _ in range(rng.randint(0, 3)):
                at_s = rng.uniform(3, LOAD_S)
                kind = rng.choice(("top-up", "credit", "decrease", "account"))
                if kind != "account":
                    amount = rng.choice((1000, 5000, 300, 100_000 if kind == "decrease" else 2000))
                    self._command(at_s, name, kind, amount_micros=amount)
                    continue
                changed = dict(account)
                for budget in [name for name in ("daily_budget_micros", "budget_micros") if name in changed]:
                    changed[budget] = max(1000, changed[budget] + 1000 * rng.randint(-4, 6))
                self._command(at_s, name, "account", account=changed)

    def _plan_commands(self) -> None:
        rng = self.rng
        if self.rich:
            self._plan_account_commands()
        for _ in range(rng.randint(*self.theme.commands)):
            campaign = rng.choice(self.campaigns)
            at_s = rng.uniform(3, LOAD_S)
            price = campaign["price_micros"]
            name, account = campaign["campaign_id"], campaign["account_id"]
            kind = rng.choice(self.theme.command_words)
            if kind in ("top-up", "credit", "decrease"):
                amount = rng.choice((price, price * rng.randint(2, 10), rng.randint(1, 2 * price)))
                if kind == "decrease" and rng.random() < 0.4:
                    amount = 100 * price  # All that is left.
                self._command(at_s, account, kind, campaign_id=name, amount_micros=amount)
            elif kind == "upsert":
                changed = {
                    **campaign,
                    "budget_micros": campaign["budget_micros"] + rng.randint(-5, 5) * price,
                }
                changed["budget_micros"] = max(price, changed["budget_micros"])
                self._command(at_s, account, "upsert", campaign=changed)
            else:
                self._command(at_s, account, "pause", campaign_id=name)
                if rng.random() < 0.8:
                    self._command(at_s + rng.uniform(0.1, 8), account, "resume", campaign_id=name)
        if rng.random() < 0.1:
            campaign = rng.choice(self.campaigns)
            self._command(
                rng.uniform(8, LOAD_S), campaign["account_id"], "archive", campaign_id=campaign["campaign_id"]
            )
        if rng.random() < 0.2:
            self._command(rng.uniform(2, LOAD_S), "a0", "top-up", campaign_id="nobody", amount_micros=5)

    def _command(self, at_s: float, account_id: str, command: str, **body: Any) -> None:
        rng = self.rng
        message = {
            "command_id": f"{command}-{rng.getrandbits(40):010x}",
            "command": command,
            "account_id": account_id,
            "time_ms": self.epoch_ms + int(at_s * 1000),
            **body,
        }
        first = self._arrival(at_s, topics.CAMPAIGNS, account_id, message)
        self.arrivals.append(first)
        if rng.random() < 0.15:
            again_s = at_s + rng.uniform(0, 5)
            self.arrivals.append(Arrival(again_s, first.topic, first.partition, first.key, first.value))


def draw_workload(rng: random.Random, minds: Minds, theme: Theme = BROAD) -> Workload:
    """The workload of one seed; two broad runs in five cross a midnight of some account."""
    day = datetime(2026, 3, 1, tzinfo=ZoneInfo("UTC")) + timedelta(days=rng.randint(0, 300))
    zone = rng.choice(_ZONES)
    midnight = rng.random() < theme.midnight
    if midnight:
        start = day.replace(tzinfo=ZoneInfo(zone))
        epoch_ms = int(start.timestamp() * 1000) - rng.randint(*theme.midnight_ms)
    else:
        epoch_ms = int(day.timestamp() * 1000) + rng.randint(0, 86_400_000)
    partitions = rng.choice(theme.partitions)
    rules = Rules(
        partitions=partitions,
        lateness_ms=1_500,
        skew_ms=2_000,
        reservation_ms=4_000,
        late_grace_ms=6_000,
        dedupe_ms=rng.choice((11_500, 15_000)),
        history_ms=rng.choice((0, 20_000)),
        ask_cooldown_ms=rng.choice((300, 1_000)),
        report_interval_ms=1_000,
        early_lease_ms=rng.choice((0, 2_000)),
        lease_divisor=rng.choice((1, 2, 3)),
        day_grace_ms=rng.choice((0, 14_000)),
    )
    chosen = {name: rng.choice(values) for name, values in theme.rules.items()}
    rules = Rules.from_dict({**rules.as_dict(), **chosen})
    rich = rng.random() < theme.rich
    workload = Workload(
        rng,
        partitions,
        epoch_ms,
        rules,
        zone=zone,
        midnight=midnight,
        rich=rich,
        minds=minds,
        theme=theme,
    )
    workload.plan()
    return workload
