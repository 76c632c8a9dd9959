"""Seeded, realistic traffic: campaigns, ad requests and what follows decisions, with the faults of real streams.

The same `Traffic` gives the same bytes on every machine. A few people are seen very often and most hardly ever
(Zipf); some messages repeat, come out of order, come late or are no events at all.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Final, Literal

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import (
    DAY_MS,
    Account,
    Campaign,
    Cap,
    Command,
    Pacing,
    UpsertAccount,
    UpsertCampaign,
)
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.events import Click, CompletedView, Impression
from adgovernor.publish.publisher import Bulk, Publisher

SOURCE: Final = "/adgovernor/loadgen"
HOUR_MS: Final = 3_600_000
_REPEATABLE: Final = 500
"""How far back a repetition reaches, in messages: a client repeats what it has just sent."""
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe")
_CATEGORIES: Final = ("IAB1", "IAB2", "IAB3-1", "IAB7", "IAB9-30", "IAB17", "IAB19", "IAB22")
_PLACEMENTS: Final = ("preroll", "midroll", "postroll", "feed")
_PACING: Final[tuple[Literal["asap", "even", "front_loaded"], ...]] = ("asap", "even", "front_loaded")
_POISON: Final = (
    b"",
    b"{",
    b"\xff\xfe\x00not text",
    b"null",
    b"[]",
    b'{"request_id":"","time_ms":1}',
    b'{"request_id":"p","time_ms":"soon"}',
    b'{"request_id":"p","time_ms":1,"slots":0}',
    b'{"time_ms":1,"candidates":[{"campaign_id":"c0"}]}',
)

Kind = Literal["request", "repeated", "out_of_order", "late", "poison", "impression", "click", "view"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What traffic looks like. Percentages are of all messages; times are event time."""

    seed: int = 1
    accounts: int = 10
    campaigns: int = 50
    users: int = 10_000
    zipf: float = 1.0
    """How unequally often people are seen: the n-th has weight 1 / n^zipf."""
    candidates: int = 5
    """Of each request; all of different campaigns."""
    caps: int = 2
    """Of each campaign."""
    creatives: int = 3
    """Of each campaign."""
    price_micros: int = 2_000
    """The middle of the campaigns' prices of one impression; the cheapest costs half, the dearest three halves."""
    budget_impressions: int = 1_000
    """The middle of the campaigns' budgets, in impressions; they go from a tenth of it to ten times it."""
    paced: bool = False
    """Some campaigns have a daily budget and release it over the day; else all spend as fast as they can."""
    start_ms: int = 1_767_225_600_000
    """Of the first request: 2026-01-01 00:00 UTC, for traffic that has no other time."""
    requests_per_s: float = 1_000.0
    """In event time."""
    repeated_percent: float = 0.0
    out_of_order_percent: float = 0.0
    out_of_order_ms: int = 5_000
    """Out of order: up to so much older than its neighbours. Below the allowed lateness, or it counts as late."""
    late_percent: float = 0.0
    late_ms: int = 60_000
    """Late: so much older than its neighbours, up to twice that."""
    poison_percent: float = 0.0
    shown_percent: float = 90.0
    """How many of the filled slots are shown."""
    click_percent: float = 2.0
    """How many of the shown ads are clicked; of these half are seen to their end, too."""
    shown_after_ms: int = 20_000
    """An ad is shown up to so long after its request."""
    late_impression_percent: float = 0.0
    """How many impressions come after their reservation's deadline."""

    def __post_init__(self) -> None:
        if not 0 < self.candidates <= self.campaigns:
            raise ValueError(
                f"candidates is {self.candidates}; it must be 1 to {self.campaigns}, the number of campaigns"
            )
        faults = self.repeated_percent + self.out_of_order_percent + self.late_percent + self.poison_percent
        if faults > 100:
            raise ValueError(
                f"the shares of faulty messages add up to {faults} percent; at most 100 is possible"
            )


@dataclass(frozen=True, slots=True)
class Message:
    """A message ready to be published."""

    topic: str
    kind: Kind
    key: bytes
    value: bytes
    event_id: str
    time_ms: int
    """Event time; for poison that of its neighbours."""


def campaign_commands(traffic: Traffic) -> list[Command]:
    """The accounts and campaigns that the traffic's candidates belong to, as commands."""
    commands: list[Command] = []
    for number in range(traffic.accounts):
        account = Account(account_id=f"a{number}", time_zone=_ZONES[number % len(_ZONES)])
        commands.append(
            UpsertAccount(
                command="account",
                command_id=f"account-{account.account_id}",
                account_id=account.account_id,
                time_ms=traffic.start_ms,
                account=account,
            )
        )
    for number in range(traffic.campaigns):
        campaign = _campaign(traffic, number)
        commands.append(
            UpsertCampaign(
                command="upsert",
                command_id=f"upsert-{campaign.campaign_id}",
                account_id=campaign.account_id,
                time_ms=traffic.start_ms,
                campaign=campaign,
            )
        )
    return commands


def _campaign(traffic: Traffic, number: int) -> Campaign:
    rng = random.Random(f"{traffic.seed}:campaign:{number}")  # noqa: S311
    price = max(1, int(traffic.price_micros * rng.uniform(0.5, 1.5)))
    budget = price * max(1, int(traffic.budget_impressions * 10 ** rng.uniform(-1, 1)))
    paced = traffic.paced and number % 3 != 0
    return Campaign(
        campaign_id=f"c{number}",
        account_id=f"a{number % traffic.accounts}",
        currency="USD" if number % traffic.accounts % 2 == 0 else "EUR",
        budget_micros=budget,
        daily_budget_micros=max(price, budget // 5) if paced else None,
        price_micros=price,
        caps=tuple(_cap(rng, (number + place) % 6) for place in range(traffic.caps)),
        categories=(_CATEGORIES[number % len(_CATEGORIES)],),
        pacing=Pacing(mode=_PACING[number % 3]) if paced else Pacing(),
    )


def _cap(rng: random.Random, kind: int) -> Cap:
    if kind == 0:
        return Cap(scope="campaign", window="rolling", length_ms=HOUR_MS, limit=rng.randint(2, 6))
    if kind == 1:
        return Cap(scope="creative", window="rolling", length_ms=10 * 60_000, limit=rng.randint(1, 3))
    if kind == 2:
        return Cap(scope="advertiser", window="calendar", length_ms=DAY_MS, limit=rng.randint(10, 30))
    if kind == 3:
        return Cap(scope="campaign", window="lifetime", limit=rng.randint(20, 60))
    if kind == 4:
        return Cap(scope="category", window="rolling", length_ms=6 * HOUR_MS, limit=rng.randint(10, 20))
    return Cap(
        scope="label",
        window="rolling",
        length_ms=HOUR_MS,
        limit=rng.randint(5, 15),
        label="placement:preroll",
    )


def ad_requests(
    traffic: Traffic, offers: Sequence[Sequence[dict[str, Any]]] | None = None
) -> Iterator[Message]:
    """Ad requests without end, faults included; take as many as you need.

    ``offers``: for each campaign the candidates that its creatives are; left out, those of `campaign_commands`.
    """
    rng = random.Random(f"{traffic.seed}:requests")  # noqa: S311
    people = _People(traffic, rng)
    offers = _offers(traffic) if offers is None else offers
    recent: deque[Message] = deque(maxlen=_REPEATABLE)
    bounds = list(
        accumulate(
            (
                traffic.repeated_percent,
                traffic.out_of_order_percent,
                traffic.late_percent,
                traffic.poison_percent,
            )
        )
    )
    step_ms = 1000.0 / traffic.requests_per_s
    number = 0
    while True:
        time_ms = traffic.start_ms + int(number * step_ms)
        number += 1
        draw = rng.random() * 100.0
        kind: Kind = "request"
        if draw < bounds[0] and recent:
            again = recent[int(rng.random() * len(recent))]
            yield Message(again.topic, "repeated", again.key, again.value, again.event_id, again.time_ms)
            continue
        key, identity = people.next()
        if bounds[2] <= draw < bounds[3]:
            value = _POISON[number % len(_POISON)]
            yield Message(topics.AD_REQUESTS, "poison", key, value, f"p{number}", time_ms)
            continue
        if bounds[0] <= draw < bounds[1]:
            kind, time_ms = "out_of_order", time_ms - int(rng.random() * traffic.out_of_order_ms)
        elif bounds[1] <= draw < bounds[2]:
            kind, time_ms = "late", time_ms - int((1 + rng.random()) * traffic.late_ms)
        chosen = rng.sample(offers, traffic.candidates)
        request: dict[str, Any] = {
            "request_id": f"{traffic.seed}-{number}",
            "time_ms": time_ms,
            **identity,
            "placement": _PLACEMENTS[int(rng.random() * len(_PLACEMENTS))],
            "candidates": [creatives[int(rng.random() * len(creatives))] for creatives in chosen],
        }
        message = Message(
            topics.AD_REQUESTS, kind, key, orjson.dumps(request), request["request_id"], time_ms
        )
        recent.append(message)
        yield message


def _offers(traffic: Traffic) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "campaign_id": f"c{campaign}",
                "creative_id": f"c{campaign}-k{creative}",
                "advertiser_domain": f"a{campaign % traffic.accounts}.example",
                "duration_ms": 15_000 if creative % 2 else 30_000,
            }
            for creative in range(traffic.creatives)
        ]
        for campaign in range(traffic.campaigns)
    ]


class _People:
    """Draws people: a household has up to three users, and every tenth person is known by a device only."""

    def __init__(self, traffic: Traffic, rng: random.Random) -> None:
        self._rng = rng
        self._weights = list(accumulate(1.0 / (n + 1) ** traffic.zipf for n in range(traffic.users)))

    def next(self) -> tuple[bytes, dict[str, str]]:
        """The key and the identity fields of a request."""
        rank = bisect_left(self._weights, self._rng.random() * self._weights[-1])
        # Scattered, so that the most seen people are not neighbours in one household.
        person = rank * 7919 % len(self._weights)
        if person % 10 == 9:
            return f"d{person}".encode(), {"device_id": f"d{person}"}
        if person % 10 < 3:
            household = f"h{person // 10}"
            return household.encode(), {"household_id": household, "user_id": f"u{person}"}
        return f"u{person}".encode(), {"user_id": f"u{person}", "session_id": f"s{person}"}


def follow_ups(traffic: Traffic, decision: Decision) -> list[Message]:
    """What follows a decision: impressions of its filled slots, clicks and views. The same decision always has
    the same."""
    winners = [(slot.slot, slot.winner) for slot in decision.slots if slot.winner is not None]
    if not winners:
        return []
    rng = random.Random(f"{traffic.seed}:{decision.decision_id}")  # noqa: S311
    result: list[Message] = []
    for slot, winner in winners:
        if rng.random() * 100.0 >= traffic.shown_percent:
            continue
        time_ms = decision.time_ms + int(rng.random() * traffic.shown_after_ms)
        if rng.random() * 100.0 < traffic.late_impression_percent:
            time_ms = winner.deadline_ms + 1 + int(rng.random() * traffic.late_ms)
        shown = Impression(
            decision_id=decision.decision_id, slot=slot, routing_id=decision.routing_id, time_ms=time_ms
        )
        result.append(_engagement(shown, "impression"))
        if rng.random() * 100.0 < traffic.repeated_percent:
            result.append(_engagement(shown, "repeated"))
        if rng.random() * 100.0 < traffic.click_percent:
            fields = shown.model_dump(exclude={"type", "price_micros", "time_ms"})
            result.append(_engagement(Click(type="click", time_ms=time_ms + 1_000, **fields), "click"))
            view = CompletedView(type="view", time_ms=time_ms + (winner.duration_ms or 15_000), **fields)
            if rng.random() < 0.5:
                result.append(_engagement(view, "view"))
    return result


def _engagement(event: Impression | Click | CompletedView, kind: Kind) -> Message:
    contract = contract_of(topics.IMPRESSIONS)
    assert contract.event_id is not None
    return Message(
        topics.IMPRESSIONS,
        kind,
        contract.key(event).encode(),
        contract.encode(event),
        contract.event_id(event),
        event.time_ms,
    )


async def publish_messages(
    publisher: Publisher, messages: Iterable[Message], *, per_s: float | None = None
) -> Counter[str]:
    """Publishes generated messages, at most ``per_s`` a second of real time; how many of each kind."""
    counts: Counter[str] = Counter()
    bulk = Bulk(publisher, topics.AD_REQUESTS)
    clock = asyncio.get_running_loop().time
    began = clock()
    sent = 0
    # Paced in steps of a hundredth of a second: a timer for each message would cost more than the message.
    step = max(1, int(per_s / 100)) if per_s else 1_000
    stream = iter(messages)
    try:
        while chunk := list(islice(stream, step)):
            for message in chunk:
                headers = topics.cloud_headers(message.topic, SOURCE, message.event_id)
                await bulk.put(message.key, message.value, headers, topic=message.topic)
                counts[message.kind] += 1
            sent += len(chunk)
            if per_s is not None:
                await asyncio.sleep(max(0.0, began + sent / per_s - clock()))
        await bulk.finish()
    finally:
        bulk.abandon()
    return counts
