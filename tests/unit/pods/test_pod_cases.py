"""Rules of pods in single cases: each a story of one or two requests."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pod_world import (
    PRICE,
    T0,
)
from pydantic import ValidationError

from adgovernor.contracts.requests import AdRequest
from adgovernor.core.direct import Direct
from adgovernor.core.rules import Rules


def test_a_cap_takes_the_ad_that_is_worth_least_to_the_pod() -> None:
    """Where a cap lets one of two ads in, the pod keeps the one that leaves it worth more, not the dearer one."""
    direct = Direct(Rules(partitions=1, report_interval_ms=0, lateness_ms=0))
    for name, caps in (("c0", [{"window": "pod", "limit": 1}]), ("c1", [])):
        campaign = {"campaign_id": name, "account_id": name, "price_micros": PRICE, "budget_micros": 10**6}
        command = {"command": "upsert", "command_id": name, "account_id": name, "time_ms": T0}
        direct.feed("campaigns", name, orjson.dumps({**command, "campaign": {**campaign, "caps": caps}}))
    ads = [("c0", 3_000, 30_000), ("c0", 2_000, 10_000), ("c1", 1_500, 30_000)]
    request = {
        "request_id": "r",
        "time_ms": T0,
        "user_id": "ann",
        "slots": [{"allowed_durations_ms": [30_000]}, {"allowed_durations_ms": [10_000]}],
        "candidates": [
            {"campaign_id": name, "creative_id": f"k{at}", "price_micros": price, "duration_ms": duration_ms}
            for at, (name, price, duration_ms) in enumerate(ads)
        ],
    }
    outputs = direct.feed("ad-requests", "ann", orjson.dumps(request))
    (decision,) = [body for name, body in outputs if name == "decisions"]
    assert [slot["winner"]["creative_id"] for slot in decision["slots"]] == ["k2", "k1"]
    (loser,) = decision["losers"]
    assert loser["reasons"] == [
        {"code": "capped", "scope": "campaign:c0", "window": "pod", "limit": 1, "count": 1}
    ]


def _deployment(rules: Rules | None = None, **campaigns: list[dict[str, Any]]) -> Direct:
    """A campaign of each name, with these caps."""
    direct = Direct(rules or Rules(partitions=1, report_interval_ms=0, lateness_ms=0))
    for name, caps in campaigns.items():
        campaign = {"campaign_id": name, "account_id": "a", "price_micros": PRICE, "budget_micros": 10**6}
        command = {"command": "upsert", "command_id": name, "account_id": "a", "time_ms": T0}
        direct.feed("campaigns", "a", orjson.dumps({**command, "campaign": {**campaign, "caps": caps}}))
    return direct


def _ask(direct: Direct, ads: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """The decision on a request of these ads, named k0, k1… and priced in falling order unless they say."""
    base = {"duration_ms": 15_000, "campaign_id": "c0"}
    candidates = [
        {**base, "creative_id": f"k{at}", "price_micros": PRICE + 10 * (len(ads) - at), **ad}
        for at, ad in enumerate(ads)
    ]
    body = {"request_id": "r", "time_ms": T0, "user_id": "ann", "candidates": candidates, **fields}
    outputs = direct.feed("ad-requests", str(body.get("household_id", "ann")), orjson.dumps(body))
    (decision,) = [one for name, one in outputs if name == "decisions"]
    return dict(decision)


def _won(decision: dict[str, Any]) -> set[str]:
    return {slot["winner"]["creative_id"] for slot in decision["slots"] if "winner" in slot}


def _waits(decision: dict[str, Any]) -> list[int]:
    """How much longer than usual each slot's money stays reserved."""
    return [slot["winner"]["deadline_ms"] - T0 - 60_000 for slot in decision["slots"]]


def _lost(decision: dict[str, Any]) -> dict[str, list[str]]:
    return {
        loser["creative_id"]: [reason["code"] for reason in loser["reasons"]]
        for loser in decision.get("losers", ())
    }


def test_each_code_of_poddedupe_keeps_its_own_apart() -> None:
    """1 keeps advertiser domains apart, 2 categories, 3 creatives, 4 media files, 5 nothing; and no code another's."""
    pairs: dict[int, tuple[dict[str, Any], str]] = {
        1: ({"advertiser_domain": "a.example"}, "advertiser_separation"),
        2: ({"categories": ["IAB1"]}, "category_separation"),
        3: ({"creative_id": "same"}, "creative_repeated"),
        4: ({"in_pod": {"media_url": "m"}}, "media_repeated"),
    }
    for code in range(1, 6):
        for kind, (alike, reason) in pairs.items():
            ads = [alike, {**alike, "price_micros": PRICE}]
            decision = _ask(_deployment(c0=[]), ads, slots=2, pod_rules={"dedupe": [code]})
            filled = sum("winner" in slot for slot in decision["slots"])
            assert filled == (1 if code == kind else 2)
            assert list(_lost(decision).values()) == ([[reason]] if code == kind else [])


def test_a_cap_counts_ads_of_campaigns_without_it() -> None:
    """A cap on a category counts all ads of it in the pod, and keeps out only the campaign that carries it."""
    direct = _deployment(c0=[{"window": "pod", "scope": "category", "limit": 1}], c1=[])
    ads = [{"campaign_id": name, "categories": ["IAB1"]} for name in ("c1", "c0", "c1")]
    decision = _ask(direct, ads, slots=3)
    assert _won(decision) == {"k0", "k2"}
    assert _lost(decision) == {"k1": ["capped"]}


def test_a_cap_on_ads_without_it_leaves_the_dearest_pod() -> None:
    """Where a cap counts another campaign's ad too, the pod is the better of one with the capped ad and one without."""
    direct = _deployment(c0=[{"window": "pod", "scope": "category", "limit": 1}], c1=[])
    ads = [
        {"campaign_id": "c0", "categories": ["IAB1"], "price_micros": 9_000},
        {"campaign_id": "c1", "categories": ["IAB1"], "price_micros": 2_000},
        {"campaign_id": "c1", "price_micros": 1_000},
    ]
    decision = _ask(direct, ads, slots=2)
    assert (_won(decision), _lost(decision)) == ({"k0", "k2"}, {"k1": ["outbid"]})
    ads[0]["price_micros"] = 1_001
    ads[1]["price_micros"] = 3_000
    decision = _ask(direct, ads, slots=2, request_id="r1")
    assert (_won(decision), _lost(decision)) == ({"k1", "k2"}, {"k0": ["capped"]})


def test_many_caps_on_ads_without_them_are_kept_and_bounded() -> None:
    """With more such caps than can be tried the pod is lawful all the same, and says what it could be worth at most."""
    names = [f"c{at}" for at in range(20)]
    direct = _deployment(
        None,
        **{
            name: [{"window": "pod", "scope": "category", "label": f"IAB{at}", "limit": 1}]
            for at, name in enumerate(names)
        },
        free=[],
    )
    ads: list[dict[str, Any]] = [
        {"campaign_id": name, "categories": [f"IAB{at}"]} for at, name in enumerate(names)
    ]
    ads += [{"campaign_id": "free", "categories": [f"IAB{at}"]} for at in range(20)]
    body = {"request_id": "r", "time_ms": T0, "user_id": "ann", "slots": 40}
    body["candidates"] = [
        {"creative_id": f"k{at}", "price_micros": PRICE + at, "duration_ms": 15_000, **ad}
        for at, ad in enumerate(ads)
    ]
    outputs = direct.feed("ad-requests", "ann", orjson.dumps(body))
    (decision,) = [one for name, one in outputs if name == "decisions"]
    (created,) = [one for name, one in outputs if name == "pods"]
    assert _won(decision) == {f"k{at}" for at in range(20, 40)}
    assert created["bound_micros"] > sum(row["price_micros"] for row in created["positions"])


def test_a_cap_for_one_user_of_a_household_holds_in_a_pod() -> None:
    """Caps for the household and for one of its users each count their own servings before the pod."""
    caps = [{"window": "stream", "limit": 3}, {"window": "stream", "limit": 1, "per": "user"}]
    direct = _deployment(c0=caps)
    who = {"household_id": "h", "session_id": "s"}
    assert len(_won(_ask(direct, [{}, {}], slots=2, user_id="ann", **who))) == 1
    later = {**who, "request_id": "r2", "time_ms": T0 + 1_000}
    assert len(_won(_ask(direct, [{}, {}], slots=2, user_id="ben", **later))) == 1


def test_each_break_has_caps_of_its_own_pod() -> None:
    """A cap of window pod counts the ads of one break, not those of the request's others."""
    direct = _deployment(c0=[{"window": "pod", "limit": 1}])
    breaks = [{"break_id": name, "offset": name} for name in ("start", "00:05:00", "end")]
    decision = _ask(direct, [{}, {}], slots=2, breaks=breaks)
    filled = [slot["break_id"] for slot in decision["slots"] if "winner" in slot]
    assert filled == ["start", "00:05:00", "end"]


def test_one_ad_too_many_candidates_is_refused_too() -> None:
    """A request for one ad with more candidates than configured is no fill, and says so."""
    direct = Direct(Rules(partitions=1, most_candidates=2))
    decision = _ask(direct, [{}, {}, {}])
    assert decision["slots"] == [{"slot": 0, "no_fill": "too_large"}]
    assert decision["refused"] == {"field": "candidates", "given": 3, "most": 2}


def test_a_break_waits_for_its_time() -> None:
    """An ad of a break stays reserved until its time in the programme has come, and a reservation's time more."""
    direct = _deployment(c0=[])
    breaks = [{"offset": "start"}, {"offset": "00:10:00"}, {"offset": "00:45:00"}]
    decision = _ask(direct, [{"duration_ms": 15_000}], breaks=breaks)
    assert _waits(decision) == [0, 615_000, direct.rules.longest_reservation_ms() - 60_000]


@pytest.mark.parametrize(
    ("offset", "content_ms", "wait_ms"),
    [
        ("50%", 7_200_000, 3_600_000),
        ("33.333333%", 3_000_000, 999_999),
        ("end", 7_200_000, 7_200_000),
        ("#3", 600_000, 600_000),
        ("50%", None, 10_000_000),
        ("end", None, 10_000_000),
        ("#3", None, 10_000_000),
        ("between the acts", None, 10_000_000),
        ("00:10:00", None, 600_000),
        ("end", 15_000_000, 10_000_000),
    ],
)
def test_a_break_waits_as_long_as_the_programme_says(
    offset: str, content_ms: int | None, wait_ms: int
) -> None:
    """A break at a share or the end of a programme of known length waits until then, one that may come at any time
    until the programme ends, one of which nothing is known as long as configured; and none longer than that."""
    direct = _deployment(Rules(break_wait_ms=10_000_000, dedupe_ms=20_000_000), c0=[])
    fields = {} if content_ms is None else {"content_duration_ms": content_ms}
    assert _waits(_ask(direct, [{}], breaks=[{"offset": offset}], **fields)) == [wait_ms]


def test_an_ad_waits_for_the_ads_before_it() -> None:
    """In a pod a reservation lasts from its ad's turn: after the ads before it, of which one of unknown length is taken
    to play for thirty seconds; and in a later break after those of the breaks before."""
    direct = _deployment(c0=[])
    ads: list[dict[str, Any]] = [{"duration_ms": 15_000}, {"duration_ms": None}, {"duration_ms": 20_000}]
    decision = _ask(direct, ads, slots=[{}, {}, {"position": "first"}])
    assert [slot["position"] for slot in decision["slots"]] == [2, 3, 1]
    lengths = {1: 0, 2: 0, 3: 0}
    for slot in decision["slots"]:
        lengths[slot["position"]] = slot["winner"].get("duration_ms", 30_000)
    assert _waits(decision) == [lengths[1], lengths[1] + lengths[2], 0]
    breaks = [{"offset": "start", "slots": 2}, {"offset": "00:01:00"}]
    later = _ask(direct, [{"duration_ms": 15_000}] * 2, breaks=breaks, request_id="r1")
    assert _waits(later) == [0, 15_000, 90_000]


def test_breaks_are_in_order_where_all_their_times_are_known() -> None:
    """Shares of a programme of known length and times are put in one order; else the order given is believed."""
    breaks = [{"offset": offset} for offset in ("50%", "00:05:00", "start")]
    for fields, order in (
        ({"content_duration_ms": 1_200_000}, ["start", "00:05:00", "50%"]),
        ({}, ["start", "50%", "00:05:00"]),
    ):
        decision = _ask(_deployment(c0=[]), [{}], breaks=breaks, **fields)
        assert [slot["break_offset"] for slot in decision["slots"]] == order


def test_several_dynamic_parts_are_filled_each_within_its_time() -> None:
    """A pod may have several dynamic parts: each takes what fits into it, and the decision says which one a slot is
    in."""
    ads = [{"duration_ms": ms} for ms in (30_000, 30_000, 15_000, 15_000)]
    parts = [{"total_duration_ms": 30_000, "max_ads": 1}, {"total_duration_ms": 45_000, "max_ads": 2}]
    decision = _ask(_deployment(c0=[]), ads, slots=[{"max_duration_ms": 10_000}], pod=parts)
    placed = [(slot.get("part"), slot.get("winner", {}).get("duration_ms")) for slot in decision["slots"]]
    assert placed[0] == (None, None)
    assert placed[1] == (0, 30_000)
    assert sorted(placed[2:]) == [(1, 15_000), (1, 30_000)]


def test_what_one_part_keeps_apart_is_apart_in_the_pod() -> None:
    """Ads of one advertiser are kept apart in the whole pod where one of its dynamic parts says so."""
    part = {"total_duration_ms": 30_000, "separate_advertisers": False}
    ads = [{"advertiser_domain": "a.example"}, {"advertiser_domain": "a.example"}]
    for last, played in ((part, 2), ({**part, "separate_advertisers": True}, 1)):
        assert len(_won(_ask(_deployment(c0=[]), ads, pod=[part, last]))) == played


def test_the_ads_of_all_parts_are_limited_together() -> None:
    """The ads that the dynamic parts of a pod ask for count together against what is configured."""
    part = {"total_duration_ms": 60_000, "max_ads": 2}
    decision = _ask(_deployment(Rules(most_ads=3), c0=[]), [{}], pod=[part, part])
    assert decision["refused"] == {"field": "pod.max_ads", "given": 4, "most": 3}


@pytest.mark.parametrize(
    "fields",
    [
        {"pod": {"total_duration_ms": 0}},
        {"slots": [{"max_duration_ms": 0}]},
        {"slots": [{"allowed_durations_ms": [0]}]},
        {"slots": 1, "pod_rules": {"total_duration_ms": 0}},
    ],
)
def test_a_bound_of_no_time_is_no_bound_left_out(fields: dict[str, Any]) -> None:
    """A longest duration or total of 0 is refused: it would hold no ad, and never means that there is no bound."""
    body = {"request_id": "r", "time_ms": T0, "user_id": "ann", "candidates": [], **fields}
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        AdRequest.model_validate_json(orjson.dumps(body))


def test_more_than_a_pod_can_hold_is_refused() -> None:
    """Slots and dynamic parts, each of them within its limit, are refused where one pod cannot hold them together."""
    decision = _ask(_deployment(c0=[]), [{}], slots=64, pod={"total_duration_ms": 60_000})
    assert decision["refused"] == {"field": "slots", "given": 65, "most": 64}
    assert {slot["no_fill"] for slot in decision["slots"]} == {"too_large"}


def test_breaks_are_planned_in_the_order_of_the_programme() -> None:
    """Whatever the order given, a break's neighbour is the one before it in the programme."""
    ads = [{"advertiser_domain": "a.example"}, {"advertiser_domain": "b.example"}]
    breaks = [{"offset": offset} for offset in ("end", "00:10:00", "00:05:00", "start")]
    decision = _ask(_deployment(c0=[]), ads, breaks=breaks, session_id="s")
    assert [slot["break_offset"] for slot in decision["slots"]] == ["start", "00:05:00", "00:10:00", "end"]
    assert [slot["winner"]["creative_id"] for slot in decision["slots"]] == ["k0", "k1", "k0", "k1"]


def test_the_first_and_last_pod_of_a_stream() -> None:
    """The first pod of a stream follows nothing and is followed by what was shown; the last follows all of it."""
    ads = [{"advertiser_domain": "a.example"}, {"advertiser_domain": "b.example"}]
    direct = _deployment(c0=[])
    assert _won(_ask(direct, ads[:1], slots=1, session_id="s")) == {"k0"}
    for at, sequence in enumerate(("first", "last"), 1):
        fields = {"request_id": f"r{at}", "time_ms": T0 + at, "session_id": "s"}
        decision = _ask(direct, ads, slots=1, pod_rules={"sequence": sequence}, **fields)
        assert _won(decision) == {"k1"}
        assert _lost(decision) == {"k0": ["advertiser_separation"]}
    between = _ask(direct, ads, slots=1, request_id="r3", time_ms=T0 + 3, session_id="s")
    assert _won(between) == set()  # It has a.example before it and b.example, of the last pod, after it.


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"slots": 64, "labels": ["x" * 1_000] * 100}, "labels"),
        ({"slots": 64, "placement": "x" * 10_000}, "labels"),
        ({"breaks": [{"offset": "start", "slots": 16}] * 20, "session_id": "é" * 1_024}, "session_id"),
        ({"breaks": [{"offset": "start", "slots": 64}] * 64}, "slots"),
        ({"breaks": [{"offset": "start", "slots": 16, "break_id": "x" * 256}] * 64}, "slots"),
        (
            {"breaks": [{"offset": "start", "pod": {"total_duration_ms": 60_000}}] * 64, "size": 4_000},
            "breaks",
        ),
        ({"breaks": [{"offset": "start", "slots": 4}] * 20, "size": 300}, None),
        ({"breaks": [{"offset": "start"}] * 21, "count": 480}, "candidates"),
        ({"slots": 64, "size": 2_000}, None),
    ],
)
def test_what_is_repeated_in_every_slot_is_bounded(fields: dict[str, Any], field: str | None) -> None:
    """A request is refused by the field of which its record would repeat too much: no record outgrows a message."""
    direct = _deployment(c0=[])
    body = {"request_id": "r", "time_ms": T0, "user_id": "ann", **fields}
    domain, count = "x" * body.pop("size", 10), body.pop("count", 100)
    body["candidates"] = [
        {"campaign_id": "c0", "creative_id": f"k{at}", "advertiser_domain": f"{domain}{at}"}
        for at in range(count)
    ]
    outputs = direct.feed("ad-requests", "ann", orjson.dumps(body))
    (decision,) = [one for name, one in outputs if name == "decisions"]
    assert decision.get("refused", {}).get("field") == field
    assert sum(len(orjson.dumps(one)) for _, one in outputs) < 2_000_000
    if field is not None:
        assert decision["refused"]["given"] > decision["refused"]["most"]
        assert {slot["no_fill"] for slot in decision["slots"]} == {"too_large"}


@pytest.mark.parametrize("breaks", [1, 10])
def test_as_many_losers_are_named_as_fit(breaks: int) -> None:
    """A decision names all of its losers, or the first and how many more there are where they would not fit."""
    ads = [{"creative_id": f"k{at}"} for at in range(1_000)]
    decision = _ask(_deployment(c0=[]), ads, breaks=[{"offset": "start"}] * breaks)
    won = sum("winner" in slot for slot in decision["slots"])
    assert len(decision["losers"]) + decision.get("losers_left_out", 0) == breaks * 1_000 - won
    assert ("losers_left_out" in decision) == (breaks == 10)
    assert len(orjson.dumps(decision)) < 1_000_000


def test_a_single_ad_has_as_many_losers_as_fit() -> None:
    """So it is with a request for one ad, whose losers have many reasons."""
    caps = [{"window": "stream", "scope": "category", "limit": 0} for _ in range(20)]
    ads = [{"categories": ["IAB1", "IAB2"], "creative_id": f"k{at}"} for at in range(500)]
    decision = _ask(_deployment(c0=caps), ads, session_id="s")
    assert len(decision["losers"]) + decision["losers_left_out"] == 500
    assert len(decision["losers"][0]["reasons"]) == 40
    assert len(orjson.dumps(decision)) < 600_000


def test_a_single_ad_is_a_neighbour_too() -> None:
    """What a request for one ad showed in the stream keeps its account's advertisers, and its categories, from
    following it."""
    direct = _deployment(c0=[])
    command = {"command": "upsert", "command_id": "z", "account_id": "z", "time_ms": T0}
    campaign = {"campaign_id": "z", "account_id": "z", "price_micros": PRICE, "budget_micros": 10**6}
    direct.feed("campaigns", "z", orjson.dumps({**command, "campaign": campaign}))
    ads: list[dict[str, Any]] = [
        {"advertiser_domain": "a.example", "categories": ["IAB1"]},
        {"campaign_id": "z", "advertiser_domain": "z.example", "categories": ["IAB1"]},
        {"campaign_id": "z", "advertiser_domain": "y.example"},
    ]
    _ask(direct, ads[:1], session_id="s")
    later = {"request_id": "r1", "time_ms": T0 + 1, "session_id": "s"}
    pod = {"total_duration_ms": 15_000, "separate_categories": True}
    decision = _ask(direct, ads, pod=pod, **later)
    assert _won(decision) == {"k2"}
    assert _lost(decision) == {
        "k0": ["advertiser_separation", "category_separation"],
        "k1": ["category_separation"],
    }


@pytest.mark.parametrize(("also", "ads"), [((), 2), (("IAB7",), 1)])
def test_parts_of_a_category_are_kept_apart_where_ads_name_the_whole(also: tuple[str, ...], ads: int) -> None:
    """Two parts of one category play in one pod, unless both ads are said to be of the whole as well."""
    direct = _deployment(c0=[])
    offered: list[dict[str, Any]] = [
        {"advertiser_domain": "a.example", "categories": ["IAB7-3", *also]},
        {"advertiser_domain": "b.example", "categories": ["IAB7-5", *also]},
    ]
    pod = {"total_duration_ms": 30_000, "separate_categories": True}
    assert len(_won(_ask(direct, offered, pod=pod))) == ads
