"""The command `pods plan`: its shape of a request, its fill from bids, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adgovernor.app.cli import app
from adgovernor.app.pods_commands import pods_app
from adgovernor.app.pods_plan import plan, summary
from adgovernor.contracts.openrtb import parse_request, parse_response


def video(name: str, **fields: Any) -> dict[str, Any]:
    outer: dict[str, Any] = {
        key: fields.pop(key) for key in ("bidfloor", "bidfloorcur", "pmp", "bcat") if key in fields
    }
    return {"id": name, "video": {"mimes": ["video/mp4"], **fields}, **outer}


def bid(name: str, imp: str, price: float, dur: int | None = 15, **fields: Any) -> dict[str, Any]:
    return {"id": name, "impid": imp, "price": price, "dur": dur, "crid": f"creative {name}", **fields}


def planned(imps: list[dict[str, Any]], bids: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    request = parse_request({"id": "r", "imp": imps, **fields})
    return plan(request, parse_response({"cur": "USD", "seatbid": [{"bid": bids}]}))


def fills(result: dict[str, Any]) -> list[tuple[str, int | None, str]]:
    return [(entry["impid"], entry["slot"], entry["bid_id"]) for entry in result["fill"]]


def out(result: dict[str, Any]) -> dict[str, list[str]]:
    return {loser["bid_id"]: loser["reasons"] for loser in result["losers"]}


def test_shape_of_a_request_with_several_pods() -> None:
    """The shape counts pods, slots and dynamic parts, and gives each pod's numbers."""
    result = plan(
        parse_request(
            {
                "id": "r",
                "at": 1,
                "imp": [
                    video("1", podid="a", podseq=1, slotinpod=1, minduration=15, maxduration=15),
                    video("2", podid="a", podseq=1, minduration=0, maxduration=30),
                    video("3", podid="b", poddur=90, maxseq=5, rqddurs=[15, 30]),
                    video("4", maxduration=60),
                ],
            }
        ),
        None,
    )
    assert {
        key: result[key] for key in ("pods", "kind", "slots", "structured", "dynamic", "per_pod", "at")
    } == {
        "pods": 2,
        "kind": "structured, dynamic",
        "slots": 3,
        "structured": 2,
        "dynamic": 1,
        "per_pod": {"a": 2, "b": 1},
        "at": 1,
    }
    assert (result["poddur"], result["maxseq"], result["slot_seconds"]) == (90, 5, [0, 60])
    assert [pod["slot_seconds"] for pod in result["plan"]] == [[0, 30], [15, 30]]
    assert result["plan"][0]["podseq"] == 1
    assert "fill" not in result


def test_fill_is_reported_with_slot_price_and_total() -> None:
    """A fill names impression, slot, bid, seconds and price, and adds up the prices."""
    result = planned(
        [video("1", podid="p", slotinpod=-1, maxduration=30), video("2", podid="p", maxduration=30)],
        [bid("x", "1", 2.5), bid("y", "2", 0.1, 30)],
    )
    assert fills(result) == [("2", 1, "y"), ("1", 2, "x")]
    assert (result["total_cpm"], result["bound_cpm"], result["proven"]) == (2.6, 2.6, True)
    assert result["fill"][1] | {"pod": "p"} == result["fill"][1]
    assert (result["fill"][1]["duration_s"], result["fill"][1]["price"]) == (15, 2.5)


def test_dynamic_time_is_counted() -> None:
    """The seconds used of dynamic parts are added up, and a place that a buyer insists on is named."""
    bids = [bid("a", "1", 1, 30, slotinpod=1), bid("b", "1", 9, 15), bid("c", "1", 8, 20)]
    tight = planned([video("1", podid="p", poddur=60, maxseq=4, slotinpod=2)], bids)
    assert fills(tight) == [("1", None, "b"), ("1", None, "c")]
    assert tight["used_s_of_dynamic"] == 35
    roomy = planned([video("1", podid="p", poddur=65, maxseq=4, slotinpod=2)], bids)
    assert fills(roomy) == [("1", 1, "a"), ("1", None, "b"), ("1", None, "c")]
    assert roomy["used_s_of_dynamic"] == 65


def test_floors_follow_their_order() -> None:
    """A deal's floor comes first, then the video's by second or duration, then the impression's."""
    imp = video(
        "1",
        podid="p",
        maxduration=30,
        bidfloor=5,
        mincpmpersec=0.1,
        pmp={"deals": [{"id": "d", "bidfloor": 1}]},
    )
    losers = out(
        planned([imp], [bid("a", "1", 1.49), bid("b", "1", 1.5, 16), bid("c", "1", 0.9, dealid="d")])
    )
    assert losers == {"a": ["floor"], "b": ["floor"], "c": ["floor"]}
    assert fills(planned([imp], [bid("a", "1", 1.5), bid("b", "1", 1.2, dealid="d")])) == [("1", 1, "a")]
    assert fills(planned([imp], [bid("b", "1", 1.2, dealid="d")])) == [("1", 1, "b")]


def test_a_floor_that_says_nothing_of_a_duration_leaves_it_to_the_next() -> None:
    """Where no range of a deal covers an ad's duration the impression's own floor holds; a floor of 0 by the second is
    a floor that was given."""
    ranges = {"deals": [{"id": "d", "durfloors": [{"maxdur": 15, "bidfloor": 1}]}]}
    imp = video("1", bidfloor=5, pmp=ranges)
    bids = [bid("short", "1", 1, 15, dealid="d"), bid("long", "1", 4.9, 30, dealid="d")]
    assert out(planned([imp], bids)) == {"long": ["floor"]}
    assert fills(planned([video("1", bidfloor=5, mincpmpersec=0)], [bid("a", "1", 1)])) == [("1", 1, "a")]


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"mincpmpersec": 0.1}, True),
        ({"durfloors": [{"bidfloor": 1}]}, True),
        ({"bidfloor": 1, "durfloors": [{"bidfloor": 0}]}, False),
        ({"bidfloor": 1, "pmp": {"deals": [{"id": "d", "bidfloor": 1, "bidfloorcur": "USD"}]}}, False),
        ({"pmp": {"deals": [{"id": "d", "mincpmpersec": 0.1, "bidfloorcur": "EUR"}]}}, True),
    ],
)
def test_a_floor_of_any_form_has_a_currency(fields: dict[str, Any], refused: bool) -> None:
    """A bid in another currency than the floor that holds for it is refused, whatever form that floor has."""
    result = planned([video("1", bidfloorcur="EUR", **fields)], [bid("a", "1", 5, dealid="d")])
    assert out(result) == ({"a": ["currency"]} if refused else {})


def test_of_equal_bids_for_one_place_the_shorter_wins() -> None:
    """For one place, too, ties go to the shorter ad, then to the bid that came first."""
    bids = [bid("a", "1", 2, 30), bid("b", "1", 2, 15), bid("c", "1", 2, 15)]
    assert fills(planned([video("1")], bids)) == [("1", 1, "b")]
    assert fills(planned([video("1", poddur=30, maxseq=1)], bids)) == [("1", None, "b")]


def test_several_dynamic_parts_of_a_pod_are_filled_each_in_its_time() -> None:
    """Impressions of one podid that each have a poddur are parts of one pod, each with its own time and number."""
    imps = [video("1", podid="p", poddur=30, maxseq=1), video("2", podid="p", poddur=45, maxseq=2)]
    bids = [bid(f"{imp}{dur}", imp, 2, dur) for imp in "12" for dur in (15, 30)]
    result = planned(imps, bids)
    assert [(entry["impid"], entry["bid_id"]) for entry in result["fill"]] == [
        ("1", "115"),
        ("2", "215"),
        ("2", "230"),
    ]
    assert (result["dynamic"], result["poddur"], result["maxseq"]) == (2, [30, 45], [1, 2])
    assert result["used_s_of_dynamic"] == 60


@pytest.mark.parametrize(
    ("request_terms", "pmp", "terms", "reason"),
    [
        ({"cur": ["EUR"]}, {}, {}, "currency"),
        ({"cur": ["EUR", "USD"]}, {}, {}, None),
        ({"wseat": ["s2"]}, {}, {}, "seat"),
        ({"bseat": ["s1"]}, {}, {}, "seat"),
        ({"wseat": ["s1"], "bseat": ["s2"]}, {}, {}, None),
        ({}, {"private_auction": 1, "deals": [{"id": "d"}]}, {}, "no_deal"),
        ({}, {"private_auction": 1, "deals": [{"id": "d"}]}, {"dealid": "other"}, "no_deal"),
        ({}, {"private_auction": 1, "deals": [{"id": "d"}]}, {"dealid": "d"}, None),
        ({}, {"private_auction": 0, "deals": [{"id": "d"}]}, {}, None),
        ({}, {"deals": [{"id": "d", "wseat": ["s2"]}]}, {"dealid": "d"}, "seat"),
        ({}, {"deals": [{"id": "d", "wseat": ["s2"]}]}, {}, None),
        ({}, {"deals": [{"id": "d", "wadomain": ["X.com"]}]}, {"dealid": "d"}, "deal_advertiser"),
        (
            {},
            {"deals": [{"id": "d", "wadomain": ["X.com"]}]},
            {"dealid": "d", "adomain": ["shop.x.com"]},
            None,
        ),
        ({"cur": ["usd"]}, {}, {}, None),
        ({}, {}, {"mtype": 1}, "media"),
        ({}, {}, {"mtype": 2}, None),
        ({}, {}, {"mtype": 9}, None),
        ({"bapp": ["com.game"]}, {}, {"bundle": "com.game"}, "blocked_app"),
        ({"bapp": ["com.game"]}, {}, {}, None),
        ({"acat": ["IAB1"]}, {}, {"cat": ["IAB1-2", "IAB2"]}, "category"),
        ({"acat": ["IAB1"]}, {}, {"cat": ["IAB1-2", "IAB1"]}, None),
        ({"acat": ["IAB1"]}, {}, {}, None),
        ({"acat": ["1"], "cattax": 6}, {}, {"cat": ["2"]}, None),
        ({"bcat": ["1"], "cattax": 6}, {}, {"cat": ["1"], "cattax": 6}, "blocked_category"),
        ({"bcat": ["1"], "cattax": 6}, {}, {"cat": ["1"], "cattax": 7}, None),
        ({"bcat": ["1"]}, {}, {"cat": ["1"], "cattax": 7}, None),
    ],
)
def test_who_may_bid(
    request_terms: dict[str, Any], pmp: dict[str, Any], terms: dict[str, Any], reason: str | None
) -> None:
    """A bid is held to the media, currencies, seats, apps and categories that the request takes, to private auctions
    and to its deal's terms; categories are compared in one taxonomy."""
    request = parse_request({"id": "r", "imp": [video("1", pmp=pmp)], **request_terms})
    response = parse_response({"seatbid": [{"seat": "s1", "bid": [bid("a", "1", 2, **terms)]}]})
    assert out(plan(request, response)) == ({} if reason is None else {"a": [reason]})


@pytest.mark.parametrize(
    ("takes", "terms", "reason"),
    [
        ({"battr": [1, 2]}, {"attr": [2, 9]}, "blocked_attribute"),
        ({"battr": [1, 2]}, {"attr": [3]}, None),
        ({"battr": [1, 2]}, {}, None),
        ({"protocols": [2, 3]}, {"protocol": 7}, "protocol"),
        ({"protocols": [2, 3]}, {"protocol": 3}, None),
        ({"protocols": [2, 3]}, {}, None),
        ({}, {"protocol": 7, "attr": [1]}, None),
    ],
)
def test_an_ad_is_one_that_its_medium_takes(
    takes: dict[str, Any], terms: dict[str, Any], reason: str | None
) -> None:
    """A bid whose creative attributes are blocked, or whose VAST the player does not know, wins nothing."""
    request = parse_request({"id": "r", "imp": [video("1", **takes)]})
    response = parse_response({"seatbid": [{"bid": [bid("a", "1", 2, **terms)]}]})
    assert out(plan(request, response)) == ({} if reason is None else {"a": [reason]})


@pytest.mark.parametrize(
    ("rival", "dear", "won", "parted"),
    [
        (3, 5, {"a", "b"}, {"a", "c"}),  # Together worth 6, more than the rival alone.
        (7, 5, {"c"}, {"a", "c"}),
        (0.5, 0.5, set(), {"b"}),  # One is below its floor, so the other cannot be won either.
    ],
)
def test_a_group_of_bids_is_won_whole_or_not_at_all(
    rival: float, dear: float, won: set[str], parted: set[str]
) -> None:
    """Bids of a seat's group play together or none does, whichever is worth more, also across pods."""
    imps = [video("1", podid="p", bidfloor=1), video("2", podid="q", bidfloor=1)]
    group = {"seat": "g", "group": 1, "bid": [bid("a", "1", dear), bid("b", "2", 1)]}
    request = parse_request({"id": "r", "imp": imps})
    response = {"seatbid": [group, {"seat": "s", "bid": [bid("c", "2", rival)]}]}
    result = plan(request, parse_response(response))
    assert {entry["bid_id"] for entry in result["fill"]} == won
    assert result["total_cpm"] == sum(entry["price"] for entry in result["fill"]) == result["bound_cpm"]
    if "a" not in won:
        assert (out(result)["a"], out(result)["b"]) == (["group"], ["group"])
    group["group"] = 0
    assert {entry["bid_id"] for entry in plan(request, parse_response(response))["fill"]} == parted


def test_a_bid_of_no_value_is_not_won_for_its_group() -> None:
    """A price of 0 wins no place, so that the group that it is in cannot be won."""
    imps = [video("1", podid="p"), video("2", podid="q")]
    group = {"group": 1, "bid": [bid("a", "1", 5), bid("b", "2", 0)]}
    response = {"seatbid": [group, {"bid": [bid("c", "1", 1)]}]}
    result = plan(parse_request({"id": "r", "imp": imps}), parse_response(response))
    assert (fills(result), result["proven"]) == ([("1", 1, "c")], True)


def test_many_groups_are_whole_or_out_within_a_bound() -> None:
    """With more groups in part than are tried the plan is lawful all the same, and says what it could be worth."""
    imps = [video(str(at), podid="p", poddedupe=[5]) for at in range(40)]
    seats = [
        {"group": 1, "bid": [bid(f"{at}a", str(2 * at), 2), bid(f"{at}b", str(2 * at + 1), 1)]}
        for at in range(20)
    ]
    rivals = {"bid": [bid(f"{at}c", str(2 * at + 1), 4) for at in range(20)]}
    result = plan(parse_request({"id": "r", "imp": imps}), parse_response({"seatbid": [*seats, rivals]}))
    won = {entry["bid_id"] for entry in result["fill"]}
    assert all((f"{at}a" in won) == (f"{at}b" in won) for at in range(20))
    assert result["total_cpm"] == 80
    assert (result["proven"], result["bound_cpm"]) == (False, 120)


@pytest.mark.parametrize(
    ("terms", "won"),
    [
        ({"mtype": 1, "price": 1}, [("b", None, False)]),
        ({"mtype": 1, "price": 0.5}, ["floor"]),
        ({"mtype": 1, "price": 1, "dur": 90}, [("b", None, False)]),
        ({"mtype": 2, "price": 1, "dur": 15}, ["floor"]),  # It takes 1.5 for fifteen seconds.
        ({"mtype": 2, "price": 1.5, "dur": 15}, [("b", 15, False)]),
        ({"mtype": 2, "price": 3, "dur": 31}, ["duration"]),
        ({"price": 3, "dur": 31}, ["duration"]),
        ({"price": 3}, [("b", 30, True)]),
        ({"mtype": 3, "price": 1, "dur": 60}, [("b", 60, False)]),
        ({"mtype": 3, "price": 1}, [("b", 60, True)]),
        ({"mtype": 3, "price": 1, "dur": 30}, ["duration"]),
        ({"mtype": 4, "price": 1}, ["media"]),
    ],
)
def test_a_bid_is_judged_by_the_medium_that_it_says_it_is(terms: dict[str, Any], won: list[Any]) -> None:
    """Of an impression that offers several media a bid meets the durations and floors of its own; a banner has none
    but the impression's floor, and plays for no time."""
    imp = {
        "id": "1",
        "bidfloor": 0.75,
        "banner": {"w": 300, "h": 250},
        "video": {"minduration": 5, "maxduration": 30, "mincpmpersec": 0.1},
        "audio": {"rqddurs": [60]},
    }
    result = planned([imp], [{"id": "b", "impid": "1", **terms}])
    taken = [(entry["bid_id"], entry["duration_s"], entry["duration_assumed"]) for entry in result["fill"]]
    assert (taken or out(result)["b"]) == won


def test_the_dearest_of_several_media_wins() -> None:
    """Bids of all media of an impression compete by their price, and one of them is shown."""
    imp = {"id": "1", "banner": {}, "video": {"maxduration": 30}, "native": {}}
    bids: list[dict[str, Any]] = [
        {"id": "v", "impid": "1", "price": 2, "mtype": 2, "dur": 30},
        {"id": "n", "impid": "1", "price": 3, "mtype": 4},
        {"id": "b", "impid": "1", "price": 1, "mtype": 1},
    ]
    result = planned([imp], bids)
    assert (fills(result), out(result)) == ([("1", 1, "n")], {"b": ["outbid"], "v": ["outbid"]})
    assert "  fill pod 1 slot 1: bid n, 3 CPM" in summary(result)


def test_an_impression_of_no_medium_takes_any() -> None:
    """Where the media are left to a stored impression, no bid is refused for its own."""
    assert fills(planned([{"id": "1"}], [bid("a", "1", 2, mtype=1)])) == [("1", 1, "a")]


def test_a_pod_takes_no_banner() -> None:
    """A bid for a banner cannot have a place in a pod, also where its impression could be a banner as well."""
    imps = [{**video(name, podid="p", maxduration=30), "banner": {}} for name in ("1", "2")]
    result = planned(imps, [bid("a", "1", 2, mtype=1), bid("b", "2", 2, mtype=2)])
    assert (fills(result), out(result)) == ([("2", 2, "b")], {"a": ["media"]})


def test_categories_of_one_taxonomy_are_kept_apart() -> None:
    """Two ads of a pod share a category where taxonomy and code are the same, not where one of them is."""
    imps = [video(name, podid="p", poddedupe=[2]) for name in ("1", "2", "3")]
    bids = [
        bid("a", "1", 3, cat=["5"], cattax=7),
        bid("b", "2", 2, cat=["5"], cattax=7),
        bid("c", "3", 1, cat=["5"]),
    ]
    assert out(planned(imps, bids)) == {"b": ["category_separation"]}


def test_a_bid_without_a_seat_is_held_to_none() -> None:
    """Lists of seats say nothing of a bid that does not name its own."""
    assert fills(planned([video("1")], [bid("a", "1", 2)], wseat=["s2"])) == [("1", 1, "a")]


def test_poddedupe_says_what_is_deduplicated() -> None:
    """Without `poddedupe` creative, advertiser and category appear once a pod; with it exactly what it lists does."""
    same: dict[str, Any] = {"adomain": ["A.com"], "cat": ["IAB1"], "crid": "c"}
    bids = [bid("x", "1", 2, **same), bid("y", "2", 1, **same)]

    def reasons(*codes: int) -> list[str]:
        fields = {"poddedupe": list(codes)} if codes else {}
        return out(planned([video("1", podid="p", **fields), video("2", podid="p", **fields)], bids)).get(
            "y", []
        )

    assert reasons() == ["creative_repeated", "advertiser_separation", "category_separation"]
    assert reasons(1) == ["advertiser_separation"]
    assert reasons(2) == ["category_separation"]
    assert reasons(3) == ["creative_repeated"]
    assert reasons(4) == []
    assert reasons(5) == []


@pytest.mark.parametrize("written", ["00:00:20", " 00:00:20.041 ", "<![CDATA[ 00:00:20 ]]>", "0:0:20"])
def test_inline_vast_fills_in_what_the_bid_leaves_out(written: str) -> None:
    """A bid without a duration has its VAST's in whole seconds, and one media file plays once."""
    file = "<MediaFile type='video/mp4'><![CDATA[ http://x/a.mp4 ]]></MediaFile>"
    adm = f"<VAST><Duration>{written}</Duration>{file}</VAST>"
    result = planned(
        [video("1", podid="p"), video("2", podid="p")],
        [bid("x", "1", 2, None, adm=adm), bid("y", "2", 1, None, adm=adm)],
    )
    assert (result["fill"][0]["duration_s"], result["fill"][0]["duration_assumed"]) == (20, False)
    assert out(result) == {"y": ["media_repeated"]}


def test_an_unknown_duration_counts_as_the_longest() -> None:
    """A bid without any duration is counted as the longest that its impression allows, and marked."""
    result = planned(
        [video("1", poddur=60, maxduration=30)],
        [bid("x", "1", 2, None), bid("y", "1", 1, 31), bid("z", "1", 1, 30)],
    )
    assert [(entry["duration_s"], entry["duration_assumed"]) for entry in result["fill"]] == [
        (30, True),
        (30, False),
    ]
    assert out(result) == {"y": ["duration"]}


def test_bids_that_cannot_be_compared_or_placed_say_so() -> None:
    """Another currency than the floor's, an unknown impression and blocked bids are losers with their reason."""
    imp = video("1", bidfloor=1, bidfloorcur="EUR", bcat=["IAB7"])
    assert out(planned([imp], [bid("a", "1", 2), bid("b", "9", 2)])) == {
        "a": ["currency"],
        "b": ["no_segment"],
    }
    bids = [bid("a", "1", 2, cat=["IAB7-1"]), bid("b", "1", 2, adomain=["a.X.com"])]
    blocked = planned([video("1", bcat=["IAB7"])], bids, badv=["x.com"])
    assert out(blocked) == {"a": ["blocked_category"], "b": ["blocked_advertiser"]}
    assert blocked["unfilled"] == ["1"]


def test_podconfig_time_bounds_the_whole_pod() -> None:
    """The slots of a `podconfig` pod together play no longer than the pod."""
    config = {
        "durationrangesec": [15, 30],
        "requireexactduration": False,
        "pods": [{"podid": 1, "adpoddurationsec": 60}],
    }
    request = parse_request({"podconfig": config, "video": {}})
    bids = [bid(f"b{at}", f"1_{at}", 1 + at, 30) for at in range(4)]
    result = plan(request, parse_response({"seatbid": [{"bid": bids}]}))
    assert result["slots"] == 4
    assert [entry["bid_id"] for entry in result["fill"]] == ["b2", "b3"]


def test_the_command_prints_lines_and_json(tmp_path: Path) -> None:
    """The command prints a summary for people, and JSON when asked."""
    request, bids = tmp_path / "request.json", tmp_path / "bids.json"
    request.write_text(
        json.dumps({"id": "r", "imp": [video("1", podid="p", poddur=30, maxseq=2, maxduration=30)]})
    )
    bids.write_text(
        json.dumps({"cur": "USD", "seatbid": [{"bid": [bid("x", "1", 2.5), bid("y", "1", 1, 40)]}]})
    )
    shown = CliRunner().invoke(pods_app, ["plan", str(request), "--bids", str(bids)])
    assert shown.exit_code == 0
    assert "imp 1: up to 2 ads in 30 s, seconds 0 to 30" in shown.stdout
    assert "bid x, 15 s, 2.5 CPM" in shown.stdout
    assert "out bid y: duration" in shown.stdout
    assert "total 2.5 USD CPM, the best possible" in shown.stdout
    printed = CliRunner().invoke(pods_app, ["plan", str(request), "--json"])
    assert json.loads(printed.stdout)["kind"] == "dynamic"


def test_the_command_refuses_with_the_field(tmp_path: Path) -> None:
    """A contradictory request and an unreadable file end with status 2 and say what is wrong."""
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"imp": [video("1", poddur=30, maxseq=-2)]}))
    refused = CliRunner().invoke(app, ["pods", "plan", str(request)])
    assert refused.exit_code == 2
    assert "imp[0].video.maxseq: -2 is no number of ads" in refused.output
    missing = CliRunner().invoke(app, ["pods", "plan", str(tmp_path / "none.json")])
    assert missing.exit_code == 2
    assert "none.json: No such file" in missing.output


def test_a_refusal_says_which_of_two_files_it_is_of(tmp_path: Path) -> None:
    """What is wrong with the request or the bids is told with the name of the file that says it."""
    good, empty = tmp_path / "good.json", tmp_path / "empty.json"
    good.write_text(json.dumps({"imp": [video("1", poddur=30)]}))
    empty.touch()
    of_bids = CliRunner().invoke(app, ["pods", "plan", str(good), "--bids", str(empty)])
    assert of_bids.exit_code == 2
    assert of_bids.output == f"adgovernor: {empty}: document: is empty; give one JSON document\n"
    of_input = CliRunner().invoke(app, ["pods", "plan", "-", "--bids", str(good)], input=b"")
    assert of_input.exit_code == 2
    assert of_input.output == "adgovernor: standard input: document: is empty; give one JSON document\n"
