"""Every rule of pods, on random streams of requests through the machines."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pod_world import (
    DURATIONS,
    PRICE,
    T0,
    Played,
    Story,
    allows,
    best_value,
    feed,
    floor_of,
    parts_of,
    pods,
    show,
    stories,
    unlike,
)

from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules

tried = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def every_pod(story: Story) -> list[tuple[dict[str, Any], list[Played]]]:
    """The pods of all decisions whose winners can be told from the others."""
    return [pod for request, decision in story.turns if unlike(request) for pod in pods(request, decision)]


def kept_apart(asked: dict[str, Any]) -> set[int]:
    """Which of 1 domain, 2 category, 3 creative, 4 media file may not repeat in the pod."""
    codes = set(asked.get("pod_rules", {}).get("dedupe", ()))
    if codes:
        return set() if 5 in codes else codes
    parts = parts_of(asked) or [{}]
    return {
        3,
        4,
        *((1,) if any(part.get("separate_advertisers", True) for part in parts) else ()),
        *((2,) if any(part.get("separate_categories", False) for part in parts) else ()),
    }


@tried
@given(stories())
def test_what_is_deduplicated_plays_once(story: Story) -> None:
    """In one pod no creative, advertiser domain, category or media file plays twice, as its rules and poddedupe say."""
    for asked, played in every_pod(story):
        apart = kept_apart(asked)
        for at, one in enumerate(played):
            for other in played[:at]:
                assert 3 not in apart or one.ad["creative_id"] != other.ad["creative_id"]
                assert 1 not in apart or not one.domain or one.domain != other.domain
                assert 2 not in apart or not one.categories & other.categories
                urls = [ad.ad.get("in_pod", {}).get("media_url") for ad in (one, other)]
                assert 4 not in apart or not urls[0] or urls[0] != urls[1]


@tried
@given(stories())
def test_durations_are_lawful(story: Story) -> None:
    """Every ad has a duration that its place allows, and a pod's ads fit into its time and its number of ads."""
    for asked, played in every_pod(story):
        assert all(allows(one.place, one.ad["duration_ms"]) for one in played)
        for part in parts_of(asked):
            inside = [one for one in played if one.place is part]
            assert sum(one.ad["duration_ms"] for one in inside) <= part["total_duration_ms"]
            assert len(inside) <= part.get("max_ads", 12)
        total = asked.get("pod_rules", {}).get("total_duration_ms")
        assert total is None or sum(one.ad["duration_ms"] for one in played) <= total


@tried
@given(stories())
def test_floors_hold_in_their_order(story: Story) -> None:
    """No ad plays below its floor: the deal's, else the one by the second, else by duration, else the plain one."""
    for _, played in every_pod(story):
        assert all(one.price >= floor_of(one.place, one.ad) for one in played)


@tried
@given(stories())
def test_what_is_blocked_never_plays(story: Story) -> None:
    """No ad of a blocked category or of one below it, and none of a blocked domain or of one below it."""
    for asked, played in every_pod(story):
        rules = asked.get("pod_rules", {})
        for one in played:
            for bad in rules.get("blocked_categories", ()):
                assert not any(name == bad or name.startswith(bad + "-") for name in one.categories)
            for bad in rules.get("blocked_advertisers", ()):
                assert one.domain != bad
                assert not one.domain.endswith("." + bad)


@tried
@given(stories())
def test_guaranteed_places_are_kept(story: Story) -> None:
    """Ads that insist on the first or last place have it, and slots guaranteed first play before all others."""
    for _, played in every_pod(story):
        for at, one in enumerate(played):
            wanted = one.ad.get("in_pod", {}).get("position", "any")
            first, last = at == 0, at == len(played) - 1
            assert {"any": True, "first": first, "last": last, "first_or_last": first or last}[wanted]
            guaranteed = one.place.get("position", "any")
            for other in played[:at]:
                assert guaranteed != "first" or other.place.get("position") in ("first", "first_or_last")
            for other in played[at + 1 :]:
                assert guaranteed != "last" or other.place.get("position") in ("last", "first_or_last")


@tried
@given(stories())
def test_caps_of_pod_and_stream_hold(story: Story) -> None:
    """No pod has more ads of a campaign than its cap of window pod, and no stream more than its cap of window stream,
    counted over what was shown or still may be."""
    limits = {
        (name, cap["window"]): min(
            other["limit"]
            for other in campaign["caps"]
            if other.get("window") == cap["window"] and "scope" not in other
        )
        for name, campaign in story.campaigns.items()
        for cap in campaign["caps"]
        if cap.get("window") in ("pod", "stream") and "scope" not in cap
    }
    per_stream: dict[tuple[str, str], int] = {}
    for request, decision in story.turns:
        per_pod: dict[tuple[str, str], int] = {}
        for slot in decision["slots"]:
            if "winner" in slot:
                name = slot["winner"]["campaign_id"]
                per_pod[slot["pod_id"], name] = per_pod.get((slot["pod_id"], name), 0) + 1
                if (request["request_id"], slot["slot"]) in story.shown:
                    session = request["session_id"]
                    per_stream[session, name] = per_stream.get((session, name), 0) + 1
        assert all(count <= limits.get((name, "pod"), 64) for (_, name), count in per_pod.items())
    assert all(count <= limits.get((name, "stream"), 64) for (_, name), count in per_stream.items())


@tried
@given(stories())
def test_caps_of_other_scopes_hold_in_a_pod(story: Story) -> None:
    """A cap of window pod on a creative, advertiser or category counts all ads of the pod in that scope."""
    for request, decision in story.turns:
        if not unlike(request):
            continue
        for _, played in pods(request, decision):
            for one in played:
                campaign = story.campaigns[one.ad["campaign_id"]]
                for cap in campaign["caps"]:
                    if cap.get("window") != "pod" or "scope" not in cap:
                        continue
                    scopes = {
                        "creative": [other.ad["creative_id"] == one.ad["creative_id"] for other in played],
                        "advertiser": [
                            story.campaigns[other.ad["campaign_id"]]["account_id"] == campaign["account_id"]
                            for other in played
                        ],
                    }
                    if cap["scope"] == "category":
                        for name in one.categories:
                            assert sum(name in other.categories for other in played) <= cap["limit"]
                    else:
                        assert sum(scopes[cap["scope"]]) <= cap["limit"]


@tried
@given(stories())
def test_one_reservation_a_slot_and_none_for_an_empty_one(story: Story) -> None:
    """What is reserved and spent is the price of each filled slot, once; an empty slot holds no money."""
    shard = story.direct.users[0]
    for name in story.campaigns:
        prices = [
            slot["winner"]["price_micros"]
            for _, decision in story.turns
            for slot in decision["slots"]
            if "winner" in slot and slot["winner"]["campaign_id"] == name
        ]
        share = shard.shares[name]
        held = sum(book.reserved + book.spent for book in share.books.values())
        open_now = sum(entry[3] for entry in shard.open.values() if entry[1] == name)
        back = sum(share.held_back(day) for day in share.books)
        assert sum(book.reserved for book in share.books.values()) == open_now + back
        assert held <= sum(prices)
        assert held <= story.campaigns[name]["budget_micros"]


@tried
@given(stories())
def test_neighbours_are_kept_apart(story: Story) -> None:
    """An ad that follows another of its stream in a new pod has another advertiser, and no category in common where
    these are kept apart."""
    before: dict[str, tuple[dict[str, Any], Played]] = {}
    for request, decision in story.turns:
        assume(unlike(request))
        session = request["session_id"]
        if "breaks" in request or request.get("pod_rules", {}).get("sequence", "any") != "any":
            # Their place in the stream is not that of their request; see the examples below.
            return
        ((asked, played),) = pods(request, decision)
        if played and session in before:
            previous, last = before[session]
            # What was not shown in time plays no part, so only what was shown is looked at.
            if (previous["request_id"], last.slot) in story.shown:
                apart = kept_apart(asked)
                assert 1 not in apart or last.domain != played[0].domain
                assert 2 not in apart or not last.categories & played[0].categories
        shown = [one for one in played if (request["request_id"], one.slot) in story.shown]
        if played:
            before[session] = (request, shown[-1] if shown and shown[-1] is played[-1] else played[-1])


@tried
@given(stories(), st.data())
def test_a_filled_position_counts_once(story: Story, data: st.DataObject) -> None:
    """A second impression of a position is a duplicate: no money moves, and its pod does not change."""
    filled = sorted(story.shown)
    assume(filled)
    decision_id, slot = data.draw(st.sampled_from(filled))
    spent = {
        name: sum(book.spent for book in share.books.values())
        for name, share in story.direct.users[0].shares.items()
    }
    said = len(story.pods)
    show(story, decision_id, slot, story.direct.now_ms)
    assert len(story.pods) == said
    for name, share in story.direct.users[0].shares.items():
        assert sum(book.spent for book in share.books.values()) == spent[name]


@tried
@given(stories())
def test_every_pod_comes_to_one_end(story: Story) -> None:
    """Each pod is created once with what its decision says, and ends once: completed where all of it was shown in
    time, abandoned where its reservations ended, and never where nothing was filled."""
    feed(
        story,
        "ad-requests",
        {
            "request_id": "last",
            "time_ms": story.direct.now_ms + 3_000_000,
            "user_id": "ann",
            "candidates": [],
        },
    )
    kinds: dict[str, list[str]] = {}
    for event in story.pods:
        kinds.setdefault(event["pod_id"], []).append(event["type"])
    for request, decision in story.turns[:-1]:
        for name in {slot["pod_id"] for slot in decision["slots"]}:
            filled = [s["slot"] for s in decision["slots"] if s["pod_id"] == name and "winner" in s]
            all_shown = all((request["request_id"], slot) in story.shown for slot in filled)
            end = [] if not filled else ["pod-completed" if all_shown else "pod-abandoned"]
            assert kinds[name] == ["pod-created", *end]
    assert story.direct.users[0].open_pods == {}


@tried
@given(stories(), st.integers(1, 2))
def test_what_is_too_large_is_refused_by_name(story: Story, most: int) -> None:
    """A request with more slots, ads, breaks or candidates than configured is no fill, and the field is named."""
    small = Direct(
        Rules(partitions=1, most_slots=most, most_ads=most, most_breaks=most, most_candidates=most)
    )
    for request, _ in story.turns:
        parts = [request, *request.get("breaks", ())]
        asked = [one for one in parts if "slots" in one or "pod" in one]
        too_large = (
            len(request["candidates"]) > most
            or len(request.get("breaks", ())) > most
            or any(
                len(one.get("slots", ())) > most
                or sum(part.get("max_ads", 1) for part in parts_of(one)) > most
                for one in (asked if "breaks" not in request else _used(request))
            )
        )
        outputs = small.feed("ad-requests", "ann", orjson.dumps(request))
        (decision,) = [body for name, body in outputs if name == "decisions"]
        assert ("refused" in decision) == too_large
        if too_large:
            assert {slot["no_fill"] for slot in decision["slots"]} == {"too_large"}
            field = decision["refused"]["field"].split("].")[-1]
            assert field in ("candidates", "breaks", "slots", "pod.max_ads")
            assert decision["refused"]["given"] > decision["refused"]["most"] == most


def _used(request: dict[str, Any]) -> list[dict[str, Any]]:
    """What each break asks for: its own, or else the request's."""
    return [one if "slots" in one or "pod" in one else request for one in request["breaks"]]


_slot = st.fixed_dictionaries(
    {},
    optional={
        "max_duration_ms": st.sampled_from(DURATIONS),
        "floor_micros": st.sampled_from((1_500, 2_500)),
        "floor_cpm_micros_per_second": st.sampled_from((100_000, 150_000)),
    },
)
_simple_ad = st.fixed_dictionaries(
    {
        "campaign_id": st.sampled_from(("c0", "c1", "c2")),
        "creative_id": st.sampled_from(("k0", "k1", "k2", "k3")),
        "price_micros": st.integers(PRICE, 4 * PRICE),
        "duration_ms": st.sampled_from(DURATIONS),
    },
    optional={
        "advertiser_domain": st.sampled_from(("a.example", "b.example", "c.example")),
        "categories": st.just(["IAB1"]),
    },
)
_worth = [0, 0]


@settings(tried, max_examples=250)
@given(
    st.lists(_slot, min_size=1, max_size=3),
    st.lists(_simple_ad, min_size=1, max_size=5),
    st.lists(st.sampled_from((2_500, 5_000, 100_000)), min_size=3, max_size=3),
    st.lists(st.sampled_from((None, 0, 1, 2, "1 of IAB1", "2 of IAB1")), min_size=3, max_size=3),
)
def test_small_pods_are_worth_what_they_can_be(
    slots: list[dict[str, Any]],
    ads: list[dict[str, Any]],
    budgets: list[int],
    limits: list[int | str | None],
) -> None:
    """Under durations, floors, separation, money and caps at once a small pod is worth what trying every assignment
    finds."""
    direct = Direct(Rules(partitions=1, report_interval_ms=0, lateness_ms=0))
    money: dict[str, int] = {}
    caps: dict[str, int] = {}
    category_caps: dict[str, int] = {}
    for number, (budget, limit) in enumerate(zip(budgets, limits, strict=True)):
        name = f"c{number}"
        money[name] = budget
        campaign: dict[str, Any] = {"campaign_id": name, "account_id": name, "price_micros": PRICE}
        campaign["budget_micros"] = budget
        if isinstance(limit, str):
            category_caps[name] = int(limit[0])
            cap = {"window": "pod", "scope": "category", "label": "IAB1", "limit": category_caps[name]}
            campaign["caps"] = [cap]
        elif limit is not None:
            caps[name] = limit
            campaign["caps"] = [{"window": "pod", "limit": limit}]
        command = {"command": "upsert", "command_id": name, "account_id": name, "time_ms": T0}
        direct.feed("campaigns", name, orjson.dumps({**command, "campaign": campaign}))
    leases = {name: direct.users[0].shares[name].lease(0) for name in money}
    request = {"request_id": "r", "time_ms": T0, "user_id": "ann", "slots": slots, "candidates": ads}
    outputs = direct.feed("ad-requests", "ann", orjson.dumps(request))
    (decision,) = [body for name, body in outputs if name == "decisions"]
    value = sum(slot["winner"]["price_micros"] for slot in decision["slots"] if "winner" in slot)
    assert value == best_value(request, leases, caps, category_caps)
