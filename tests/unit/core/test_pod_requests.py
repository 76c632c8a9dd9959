"""Ad requests for several slots or a dynamic pod: the fill, caps and money together."""

from __future__ import annotations

from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.requests import AdRequest
from adgovernor.core import inputs
from adgovernor.core.breaks import MOST_VMAP_TAGS
from adgovernor.core.direct import Direct
from adgovernor.core.machine import Poison
from adgovernor.core.rules import Rules

START_MS = 1_700_000_000_000


def deployment(*campaigns: dict[str, Any]) -> Direct:
    direct = Direct(Rules(partitions=1, report_interval_ms=0))
    for number, campaign in enumerate(campaigns):
        definition = {"account_id": "a1", "budget_micros": 1_000_000, "price_micros": 1000, **campaign}
        command = {
            "command": "upsert",
            "command_id": f"k{number}",
            "account_id": definition["account_id"],
            "time_ms": START_MS,
            "campaign": definition,
        }
        direct.feed("campaigns", definition["account_id"], orjson.dumps(command))
    return direct


def candidate(campaign_id: str, creative_id: str, price: int = 1000, **more: Any) -> dict[str, Any]:
    return {"campaign_id": campaign_id, "creative_id": creative_id, "price_micros": price, **more}


def ask(direct: Direct, candidates: list[dict[str, Any]], **request: Any) -> dict[str, Any]:
    body = {"request_id": "r1", "time_ms": START_MS, "user_id": "ann", "candidates": candidates, **request}
    for topic, decision in direct.feed("ad-requests", "ann", orjson.dumps(body)):
        if topic == "decisions":
            return decision
    raise AssertionError("no decision")


def won(decision: dict[str, Any]) -> list[str | None]:
    return [slot["winner"]["creative_id"] if "winner" in slot else None for slot in decision["slots"]]


def codes(decision: dict[str, Any]) -> dict[str, list[str]]:
    return {
        loser["creative_id"]: [reason["code"] for reason in loser["reasons"]]
        for loser in decision.get("losers", ())
    }


def test_slots_are_filled_for_the_highest_value() -> None:
    """Two slots take the two dearest ads whose durations they allow; the third is outbid."""
    direct = deployment({"campaign_id": "c1"})
    decision = ask(
        direct,
        [
            candidate("c1", "cheap", 1000, duration_ms=15_000),
            candidate("c1", "dear", 3000, duration_ms=15_000),
            candidate("c1", "long", 9000, duration_ms=60_000),
            candidate("c1", "fair", 2000, duration_ms=30_000),
        ],
        slots=[{"max_duration_ms": 30_000}, {"max_duration_ms": 15_000}],
    )
    assert sorted(filter(None, won(decision))) == ["dear", "fair"]
    assert won(decision)[0] == "fair"
    assert codes(decision) == {"cheap": ["outbid"], "long": ["duration"]}


def test_a_number_of_slots_is_enough() -> None:
    """``slots: 3`` asks for three ads; with two candidates one slot stays empty."""
    direct = deployment({"campaign_id": "c1"})
    decision = ask(direct, [candidate("c1", "a"), candidate("c1", "b")], slots=3)
    assert len(decision["slots"]) == 3
    assert sum(creative is None for creative in won(decision)) == 1


def test_no_creative_twice_and_advertisers_apart() -> None:
    """A pod shows no creative twice and no two ads of one advertiser domain."""
    direct = deployment({"campaign_id": "c1"}, {"campaign_id": "c2"})
    decision = ask(
        direct,
        [
            candidate("c1", "a", 5000, advertiser_domain="x.example"),
            candidate("c2", "a", 1500),
            candidate("c2", "b", 3000, advertiser_domain="x.example"),
            candidate("c2", "c", 1000),
        ],
        slots=2,
    )
    assert sorted(filter(None, won(decision))) == ["a", "c"]
    losers = [loser["reasons"][0]["code"] for loser in decision["losers"]]
    assert losers == ["creative_repeated", "advertiser_separation"]


def test_a_cap_of_window_pod_counts_the_ads_of_the_pod() -> None:
    """With a pod cap of 1 on its campaign a pod takes one of the campaign's ads, and names the cap for the other."""
    direct = deployment({"campaign_id": "c1", "caps": [{"scope": "campaign", "window": "pod", "limit": 1}]})
    decision = ask(direct, [candidate("c1", "a", 2000), candidate("c1", "b", 1000)], slots=2)
    assert won(decision) == ["a", None] or won(decision) == [None, "a"]
    (reason,) = decision["losers"][0]["reasons"]
    assert (reason["code"], reason["window"], reason["limit"], reason["count"]) == ("capped", "pod", 1, 1)


def test_a_rolling_cap_holds_inside_a_pod() -> None:
    """A rolling cap of 2 with one serving before leaves room for one ad of the pod."""
    direct = deployment(
        {"campaign_id": "c1", "caps": [{"scope": "campaign", "length_ms": 60_000, "limit": 2}]}
    )
    ask(direct, [candidate("c1", "x")], request_id="r0")
    decision = ask(direct, [candidate("c1", "a"), candidate("c1", "b"), candidate("c1", "c")], slots=3)
    assert sum(creative is not None for creative in won(decision)) == 1


def test_a_pod_spends_no_more_than_the_lease() -> None:
    """Two ads of a campaign with money for one: one slot is filled, the other ad lacks a lease."""
    direct = deployment({"campaign_id": "c1", "budget_micros": 1500})
    decision = ask(direct, [candidate("c1", "a", 1000), candidate("c1", "b", 1000)], slots=2)
    assert sum(creative is not None for creative in won(decision)) == 1
    assert [reason["code"] for reason in decision["losers"][0]["reasons"]] == ["no_lease"]


def test_a_dynamic_pod_fills_time() -> None:
    """Sixty seconds take the most valuable set of ads that fits, numbered from slot 0."""
    direct = deployment({"campaign_id": "c1"})
    decision = ask(
        direct,
        [
            candidate("c1", "a", 1000, duration_ms=30_000),
            candidate("c1", "b", 1900, duration_ms=45_000),
            candidate("c1", "c", 1000, duration_ms=30_000),
        ],
        pod={"total_duration_ms": 60_000},
    )
    assert sorted(filter(None, won(decision))) == ["a", "c"]
    assert [slot["slot"] for slot in decision["slots"]] == [0, 1]


def test_slots_come_before_the_dynamic_part_of_a_hybrid_pod() -> None:
    """A hybrid pod's slots are numbered first, its dynamic ads after them."""
    direct = deployment({"campaign_id": "c1"})
    decision = ask(
        direct,
        [candidate("c1", name, 1000, duration_ms=15_000) for name in "abc"],
        slots=1,
        pod={"total_duration_ms": 30_000},
    )
    assert [slot["slot"] for slot in decision["slots"]] == [0, 1, 2]
    assert None not in won(decision)


def with_playlist(markup: str) -> bytes:
    """A request whose VMAP document has a break at the start and *markup* beside it."""
    playlist = f'<VMAP version="1.0"><AdBreak timeOffset="start" breakType="linear"/>{markup}</VMAP>'
    return orjson.dumps({"request_id": "r1", "time_ms": START_MS, "vmap": playlist})


def test_a_playlist_of_too_many_tags_is_refused_unread() -> None:
    """A VMAP document has as many tags as are taken, or the request is poison that says how many are."""
    room = MOST_VMAP_TAGS - 3
    most = inputs.read(topics.AD_REQUESTS, 0, None, with_playlist("<a/>" * room))
    assert isinstance(most.event, AdRequest)
    # It is no XML either, which nobody looks for in such a document.
    more = inputs.read(topics.AD_REQUESTS, 0, None, with_playlist("<a/>" * (room - 1) + "<b<b"))
    assert isinstance(more.event, Poison)
    assert more.event.message.startswith(
        f"vmap: {MOST_VMAP_TAGS + 1} tags, at most {MOST_VMAP_TAGS} are taken"
    )


def test_the_ads_of_a_playlist_are_not_looked_at() -> None:
    """What a break's ads are does not matter to a request, however wrong it is; how many it takes does."""
    source = '<AdSource allowMultipleAds="false"><VASTAdData><VAST version="9"/></VASTAdData></AdSource>'
    markup = f'<AdBreak timeOffset="end" breakType="linear" breakId="last">{source}</AdBreak>'
    found = inputs.read(topics.AD_REQUESTS, 0, None, with_playlist(markup)).event
    assert isinstance(found, AdRequest)
    assert found.breaks is not None
    assert [(one.offset, one.break_id, one.one_ad) for one in found.breaks] == [
        ("start", None, False),
        ("end", "last", True),
    ]


def repeated(attributes: str, content_ms: int | None) -> list[str] | str:
    """The offsets of a break with *attributes* in a programme of *content_ms*, or why it is refused."""
    playlist = f'<VMAP version="1.0"><AdBreak breakType="linear" breakId="b" {attributes}/></VMAP>'
    body = {"request_id": "r1", "time_ms": START_MS, "vmap": playlist, "content_duration_ms": content_ms}
    found = inputs.read(topics.AD_REQUESTS, 0, None, orjson.dumps(body)).event
    if isinstance(found, Poison):
        return found.message
    assert isinstance(found, AdRequest)
    assert found.breaks is not None
    assert {one.break_id for one in found.breaks} == {"b"}
    return [one.offset for one in found.breaks]


def test_a_break_is_repeated_to_the_programmes_end() -> None:
    """A break with repeatAfter comes again at that distance while the programme lasts, where its length is known."""
    minute = 60_000
    often = 'timeOffset="00:01:00" repeatAfter="00:02:00"'
    assert repeated(often, 5 * minute) == ["00:01:00", "00:03:00.000"]
    assert repeated(often, 5 * minute + 1) == ["00:01:00", "00:03:00.000", "00:05:00.000"]
    assert repeated(often, None) == ["00:01:00"]
    assert repeated('timeOffset="start" repeatAfter="00:02:00"', 3 * minute) == ["start", "00:02:00.000"]
    for alone in ('timeOffset="end" repeatAfter="00:02:00"', 'timeOffset="50%" repeatAfter="00:02:00"'):
        assert len(repeated(alone, 60 * minute)) == 1
    assert repeated('timeOffset="start" repeatAfter="00:00:00"', minute) == ["start"]


def test_a_break_that_is_repeated_too_often_is_refused() -> None:
    """Repeated breaks count as breaks: 64 are taken, and the refusal says how many there are."""
    each = 'timeOffset="start" repeatAfter="00:00:01"'
    assert len(repeated(each, 64_000)) == 64
    assert repeated(each, 64_001) == "vmap: 65 breaks for linear ads; give 1 to 64"
    most = 'timeOffset="start" repeatAfter="00:00:00.001"'
    assert repeated(most, 2**52) == f"vmap: {2**52} breaks for linear ads; give 1 to 64"
