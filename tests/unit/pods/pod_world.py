"""Random streams of pod requests through the machines, and the rules of a pod read once more in the plainest way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import orjson
from hypothesis import strategies as st

from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

T0 = 1_700_000_000_000
PRICE = 1_000
DURATIONS = (10_000, 15_000, 30_000)
DOMAINS = ("a.example", "A.example", "shop.a.example", "b.example")
Decision = dict[str, Any]
Request = dict[str, Any]


@dataclass
class Story:
    """What happened: each request with its decision, and the events of `pods`, in order."""

    campaigns: dict[str, dict[str, Any]]
    direct: Direct
    turns: list[tuple[Request, Decision]] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=list)
    shown: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True)
class Played:
    """One ad of a pod, with what the request says of it."""

    slot: int
    position: int
    place: dict[str, Any]
    ad: dict[str, Any]
    price: int

    @property
    def domain(self) -> str:
        return (self.ad.get("advertiser_domain") or "").lower()

    @property
    def categories(self) -> set[str]:
        return set(self.ad.get("categories", ()))


_limits = st.fixed_dictionaries(
    {},
    optional={
        "min_duration_ms": st.just(15_000),
        "max_duration_ms": st.sampled_from((15_000, 30_000)),
        "allowed_durations_ms": st.just([10_000, 30_000]),
        "floor_micros": st.sampled_from((0, 1_500, 2_500)),
        "floors_by_duration": st.lists(
            st.fixed_dictionaries(
                {
                    "max_duration_ms": st.sampled_from(DURATIONS),
                    "floor_micros": st.sampled_from((1_000, 3_000)),
                }
            ),
            max_size=2,
        ),
        "floor_cpm_micros_per_second": st.sampled_from((0, 100_000, 150_000)),
    },
)
_place = st.tuples(
    st.sampled_from(({}, {"position": "first"}, {"position": "last"}, {"position": "first_or_last"})),
    st.one_of(st.just({}), _limits),
).map(lambda both: {**both[0], **both[1]})
_ad = st.fixed_dictionaries(
    {
        "campaign_id": st.sampled_from(("c0", "c1", "c2")),
        "creative_id": st.sampled_from(("k0", "k1", "k2", "k3", "k4", "k5")),
        "price_micros": st.integers(PRICE, 4 * PRICE),
        "duration_ms": st.sampled_from(DURATIONS),
        "categories": st.sampled_from(([], ["IAB1"], ["IAB7-3"], ["IAB9", "IAB1"])),
        "advertiser_domain": st.sampled_from(DOMAINS),
        "in_pod": st.sampled_from(
            (
                {},
                {"media_url": "m0"},
                {"media_url": "m0", "floor_micros": 3_000},
                {"floor_micros": 1_000},
                {"position": "first"},
                {"position": "last"},
                {"position": "first_or_last"},
            )
        ),
    }
)
_cap = st.one_of(
    st.fixed_dictionaries({"window": st.sampled_from(("pod", "stream")), "limit": st.integers(1, 2)}),
    st.fixed_dictionaries({"length_ms": st.just(60_000), "limit": st.integers(1, 3)}),
    st.fixed_dictionaries(
        {
            "window": st.sampled_from(("pod", "stream")),
            "scope": st.sampled_from(("creative", "advertiser", "category")),
            "limit": st.integers(1, 2),
        }
    ),
)
_rules = st.fixed_dictionaries(
    {},
    optional={
        "sequence": st.sampled_from(("any", "first", "last")),
        "dedupe": st.sampled_from(([1], [2], [3], [4], [1, 2], [2, 4], [3, 1], [5])),
        "blocked_categories": st.sampled_from((["IAB7"], ["IAB1"])),
        "blocked_advertisers": st.sampled_from((["A.example"], ["b.example"])),
        "total_duration_ms": st.sampled_from((30_000, 45_000)),
    },
)
_part = st.tuples(
    _place,
    st.fixed_dictionaries(
        {"total_duration_ms": st.sampled_from((30_000, 60_000))},
        optional={
            "max_ads": st.integers(1, 3),
            "separate_advertisers": st.booleans(),
            "separate_categories": st.booleans(),
        },
    ),
).map(lambda both: {**both[0], **both[1]})


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Slots, time to fill, both, or rules alone."""
    asked: dict[str, Any] = {}
    if draw(st.booleans()):
        asked["slots"] = draw(st.lists(_place, min_size=2, max_size=4))
    if draw(st.booleans()) or not asked:
        asked["pod"] = draw(st.one_of(_part, st.lists(_part, min_size=1, max_size=2)))
    if draw(st.booleans()):
        asked["pod_rules"] = draw(_rules)
    return asked


@st.composite
def stories(draw: st.DrawFn, turns: int = 4, breaks: bool = True) -> Story:
    """A stream of a few pod requests with impressions in between."""
    campaigns = {}
    direct = Direct(Rules(partitions=1, report_interval_ms=0, lateness_ms=0))
    for number in range(3):
        campaign: dict[str, Any] = {
            "campaign_id": f"c{number}",
            "account_id": f"a{number % 2}",
            "price_micros": PRICE,
            "budget_micros": draw(st.sampled_from((2_500, 100_000, 100_000))),
            "caps": draw(st.sampled_from(([], draw(st.lists(_cap, max_size=2))))),
        }
        campaigns[f"c{number}"] = campaign
        command = {
            "command": "upsert",
            "command_id": f"k{number}",
            "account_id": campaign["account_id"],
            "time_ms": T0,
            "campaign": campaign,
        }
        direct.feed("campaigns", campaign["account_id"], orjson.dumps(command))
    story = Story(campaigns, direct)
    time_ms = T0
    for number in range(draw(st.integers(1, turns))):
        time_ms += draw(st.sampled_from((1_000, 1_000, 61_000)))
        request: Request = {
            "request_id": f"r{number}",
            "time_ms": time_ms,
            "user_id": "ann",
            "session_id": draw(st.sampled_from(("s1", "s1", "s1", "s2"))),
            **draw(shapes()),
            "candidates": draw(st.lists(_ad, min_size=3, max_size=7)),
        }
        if breaks and draw(st.sampled_from((True, False, False))):
            offsets = st.sampled_from(("start", "end", "00:00:30", "00:01:00", "50%", "#2"))
            request["breaks"] = [
                {"break_id": f"b{at}", "offset": offset, **(draw(shapes()) if draw(st.booleans()) else {})}
                for at, offset in enumerate(draw(st.lists(offsets, min_size=1, max_size=3)))
            ]
            for one in request["breaks"]:
                one.pop("pod_rules", None)
        feed(story, "ad-requests", request)
        for slot in story.turns[-1][1]["slots"] if story.turns else ():
            if "winner" in slot and draw(st.sampled_from((True, True, False))):
                show(story, f"r{number}", slot["slot"], time_ms + 500)
    return story


def feed(story: Story, topic: str, body: dict[str, Any]) -> None:
    """One input, with all that follows from it taken down."""
    for name, output in story.direct.feed(topic, "ann", orjson.dumps(body)):
        if name == "decisions":
            story.turns.append((body, output))
        elif name == "pods":
            story.pods.append(output)


def show(story: Story, decision_id: str, slot: int, time_ms: int) -> None:
    """An impression."""
    body = {"decision_id": decision_id, "slot": slot, "routing_id": "ann", "time_ms": time_ms}
    feed(story, "impressions", body)
    story.shown.add((decision_id, slot))


def pods(request: Request, decision: Decision) -> Iterator[tuple[dict[str, Any], list[Played]]]:
    """Each pod of a decision: what was asked for it, and its ads in play order."""
    by_pod: dict[str, list[dict[str, Any]]] = {}
    for slot in decision["slots"]:
        by_pod.setdefault(slot["pod_id"], []).append(slot)
    for slots in by_pod.values():
        asked = _asked(request, slots[0])
        places = [*asked.get("slots", ())]
        if not places and not parts_of(asked):
            places = [{}]
        played = []
        for at, slot in enumerate(slots):
            if "winner" in slot:
                winner = slot["winner"]
                ads = [
                    ad
                    for ad in request["candidates"]
                    if all(
                        ad.get(name) == winner.get(name)
                        for name in ("campaign_id", "creative_id", "price_micros", "duration_ms")
                    )
                ]
                # Where candidates are alike in all that a winner says, rules are judged by any that suits.
                place = places[at] if at < len(places) else parts_of(asked)[slot.get("part", 0)]
                played.append((slot, place, ads, winner["price_micros"]))
        yield (
            asked,
            [
                Played(slot["slot"], slot["position"], place, ads[0], price)
                for slot, place, ads, price in sorted(played, key=lambda row: row[0]["position"])
            ],
        )


def parts_of(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The dynamic parts of what is asked for."""
    pod = asked.get("pod", [])
    return pod if isinstance(pod, list) else [pod]


def _asked(request: Request, slot: dict[str, Any]) -> dict[str, Any]:
    if "breaks" not in request:
        return request
    one = next(one for one in request["breaks"] if one["break_id"] == slot["break_id"])
    base: dict[str, Any] = {name: request[name] for name in ("slots", "pod") if name in request}
    own: dict[str, Any] = {name: one[name] for name in ("slots", "pod") if name in one}
    asked: dict[str, Any] = own or base
    return asked | {"pod_rules": request.get("pod_rules", {})}


def unlike(request: Request) -> bool:
    """Whether a winner names its candidate: no two are alike in all that a winner says."""
    keys = [
        (ad["campaign_id"], ad["creative_id"], ad["price_micros"], ad["duration_ms"])
        for ad in request["candidates"]
    ]
    return len(set(keys)) == len(keys)


def floor_of(place: dict[str, Any], ad: dict[str, Any]) -> int:
    """The least price of an ad in a place, in the order of precedence: deal, second, duration, plain."""
    deal = ad.get("in_pod", {}).get("floor_micros")
    if deal is not None:
        return int(deal)
    rate = place.get("floor_cpm_micros_per_second")
    if rate is not None:
        cpm = -(-rate * ad["duration_ms"] // 1_000)
        return max(1, (cpm + 500) // 1_000) if cpm else 0
    for floor in place.get("floors_by_duration", ()):
        if ad["duration_ms"] <= floor["max_duration_ms"]:
            return int(floor["floor_micros"])
    return int(place.get("floor_micros", 0))


def allows(place: dict[str, Any], duration_ms: int) -> bool:
    """Whether an ad of this length may play in a place."""
    if place.get("allowed_durations_ms") and duration_ms not in place["allowed_durations_ms"]:
        return False
    if duration_ms > place.get("total_duration_ms", duration_ms):
        return False
    return bool(place.get("min_duration_ms", 0) <= duration_ms <= place.get("max_duration_ms", duration_ms))


def best_value(
    request: Request, budgets: dict[str, int], pod_caps: dict[str, int], category_caps: dict[str, int]
) -> int:
    """The most that slots without guaranteed places can be worth: every assignment is tried."""
    ads, slots = request["candidates"], request["slots"]
    best = 0
    for chosen in product(range(-1, len(ads)), repeat=len(slots)):
        taken = [at for at in chosen if at >= 0]
        if len(set(taken)) < len(taken):
            continue
        value = 0
        spent: dict[str, int] = {}
        count: dict[str, int] = {}
        creatives: set[str] = set()
        domains: list[str] = []
        lawful = True
        for slot, at in zip(slots, chosen, strict=True):
            if at < 0:
                continue
            ad = ads[at]
            name = ad["campaign_id"]
            spent[name] = spent.get(name, 0) + ad["price_micros"]
            count[name] = count.get(name, 0) + 1
            domain = (ad.get("advertiser_domain") or "").lower()
            lawful = (
                allows(slot, ad["duration_ms"])
                and ad["price_micros"] >= floor_of(slot, ad)
                and ad["creative_id"] not in creatives
                and (not domain or domain not in domains)
                and spent[name] <= budgets[name]
                and count[name] <= pod_caps.get(name, 64)
            )
            if not lawful:
                break
            creatives.add(ad["creative_id"])
            domains.append(domain)
            value += ad["price_micros"]
        alike = sum("categories" in ads[at] for at in taken)
        if any(
            alike > category_caps.get(ads[at]["campaign_id"], 64) for at in taken if "categories" in ads[at]
        ):
            continue
        if lawful:
            best = max(best, value)
    return best
