"""Bid request logs as ad requests: time, identity, place, and which campaigns are offered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.openrtb_documents import BadOpenRtb
from adgovernor.contracts.openrtb_requests import OpenRtbAdapter, read_candidates
from adgovernor.contracts.pod_requests import PodSpec
from adgovernor.contracts.requests import AdRequest


def line(*imps: dict[str, Any], **fields: Any) -> bytes:
    base = {"id": "583f51b8-1", "ext": {"timestamp": 1_480_544_698_821}, "imp": list(imps) or [BANNER]}
    return json.dumps(base | fields).encode()


BANNER = {"id": "1", "banner": {"w": 300, "h": 250}}
VIDEO = {"id": "1", "video": {"mimes": ["video/mp4"], "minduration": 5, "maxduration": 30}}


def convert(raw: bytes, *campaigns: dict[str, Any], time_field: str = "ext.timestamp") -> AdRequest:
    entries = [{"campaign_id": f"c{at}", "creative_id": "x", **entry} for at, entry in enumerate(campaigns)]
    adapter = OpenRtbAdapter(read_candidates(json.dumps(entries).encode()), time_field)
    (request,) = adapter.to_ad_requests(raw)
    return request


def offered(raw: bytes, *campaigns: dict[str, Any]) -> list[str]:
    return [candidate.campaign_id for candidate in convert(raw, *campaigns).candidates]


def test_time_is_read_from_the_field_named() -> None:
    """The event time is milliseconds at a dotted path, or seconds in eight hexadecimal digits."""
    assert convert(line()).time_ms == 1_480_544_698_821
    assert convert(line(), time_field="id:hex8").time_ms == 0x583F51B8 * 1000


@pytest.mark.parametrize(
    "written", ["2016-11-30T18:44:58.821Z", "2016-11-30T19:44:58.821+01:00", "1480531498821"]
)
def test_time_may_be_written_as_a_date(written: str) -> None:
    """A date and time with its zone is a time as well as milliseconds in a text are; one without a zone is none."""
    assert convert(line(**{"@timestamp": written}), time_field="@timestamp").time_ms == 1_480_531_498_821
    with pytest.raises(BadOpenRtb, match="with its zone"):
        convert(line(**{"@timestamp": "2016-11-30T18:44:58"}), time_field="@timestamp")


@pytest.mark.parametrize("written", [1_480_531_498, 1_480_531_498.0, "1480531498.000"])
def test_seconds_are_read_where_the_field_says_so(written: Any) -> None:
    """Seconds with or without a fraction are a time where the field ends in `:s`; taken for milliseconds they would be
    weeks after 1970, so that a field without it is refused."""
    raw = line(ext={"ts": written})
    assert convert(raw, time_field="ext.ts:s").time_ms == 1_480_531_498_000
    assert convert(line(ext={"ts": 0.5}), time_field="ext.ts:s").time_ms == 500
    with pytest.raises(BadOpenRtb, match="milliseconds"):
        convert(raw, time_field="ext.ts")


@pytest.mark.parametrize("written", ["583f51b", "58_f51b8", "0x3f51b8", "-83f51b8", " 83f51b8"])
def test_fewer_hexadecimal_digits_are_no_time(written: str) -> None:
    """What int() forgives is not what the log's writer meant."""
    with pytest.raises(BadOpenRtb, match="eight hexadecimal digits"):
        convert(line(id=written), time_field="id:hex8")


@pytest.mark.parametrize("raw", [b"[]", b"null", b"7", b'"{}"', b"true"])
def test_a_line_that_is_no_object_is_a_bad_line(raw: bytes) -> None:
    """Any JSON that is no object is refused as one line, and does not end the publishing of the others."""
    with pytest.raises(BadOpenRtb, match="a bid request is a JSON object"):
        convert(raw)


@pytest.mark.parametrize("time_field", ["ext.nowhere", "id", "imp.0.id:hex8", "imp:s"])
def test_a_missing_or_unreadable_time_is_refused(time_field: str) -> None:
    """A request without a readable time is refused, and the time field is named."""
    with pytest.raises(BadOpenRtb) as caught:
        convert(line(), time_field=time_field)
    assert caught.value.field == time_field.removesuffix(":hex8").removesuffix(":s")


@pytest.mark.parametrize(
    ("fields", "user", "device"),
    [
        ({"user": {"id": "u", "buyeruid": "b"}, "device": {"ifa": "i", "didsha1": "s"}}, "u", "i"),
        ({"user": {"buyeruid": "b"}, "device": {"ifa": "00000000-0000", "didsha1": "s"}}, "b", "s"),
        ({"user": {"eids": [{"source": "s.com", "uids": [{"id": "p", "atype": 3}]}]}}, "s.com:p", None),
        (
            {"user": {"ext": {"eids": [{"source": "s.com", "uids": [{"id": "w", "atype": 1}]}]}}},
            None,
            "s.com:w",
        ),
        ({"device": {"ip": "1.2.3.4", "ua": "x"}}, None, None),
    ],
)
def test_identity_in_its_order(fields: dict[str, Any], user: str | None, device: str | None) -> None:
    """The user and the device are the first identifiers that are there; addresses name nobody."""
    request = convert(line(**fields))
    assert (request.user_id, request.device_id) == (user, device)


def test_placement_and_labels() -> None:
    """The tag id is the placement, else the app or site; labels say the media and the channel."""
    app = {"app": {"id": "4214", "name": "TMZ"}}
    assert convert(line({**BANNER, "tagid": "top"}, **app)).placement == "top"
    request = convert(line(**app))
    assert (request.placement, request.labels) == ("4214", ("media:banner", "app:4214"))
    assert convert(line(site={"domain": "x.com"})).placement == "x.com"


def test_media_and_size_decide_who_is_offered() -> None:
    """A campaign needs one of the media, and for a banner one of the sizes where both sides name them."""
    assert offered(line(), {"media": ["video"]}, {"media": ["banner"]}, {}) == ["c1", "c2"]
    assert offered(line(), {"media": ["banner"], "sizes": [[320, 50]]}, {"sizes": [[300, 250]]}) == ["c1"]


def test_each_medium_has_terms_of_its_own() -> None:
    """Where several media are offered a campaign meets the sizes, durations and floors of one that it has."""
    imp = {
        "id": "1",
        "bidfloor": 1,
        "banner": {"w": 300, "h": 250},
        "video": {"maxduration": 30, "mincpmpersec": 0.1},
        "audio": {"rqddurs": [60]},
    }
    campaigns: list[dict[str, Any]] = [
        {"media": ["audio"], "duration_s": 60, "cpm": 1},
        {"media": ["audio"], "duration_s": 30, "cpm": 9},
        {"media": ["video"], "duration_s": 30, "cpm": 2},
        {"media": ["video"], "duration_s": 30, "cpm": 3},
        {"media": ["banner"], "duration_s": 90, "cpm": 1},
        {"media": ["banner", "video"], "duration_s": 30, "cpm": 1, "sizes": [[1, 1]]},
        {"media": ["banner", "video"], "duration_s": 30, "cpm": 3, "sizes": [[1, 1]]},
        {"media": ["native"], "cpm": 9},
    ]
    assert offered(line(imp), *campaigns) == ["c0", "c3", "c4", "c6"]


def test_a_banner_is_not_offered_for_a_pod() -> None:
    """A place in a pod is of video, or else of audio, whatever else its impression offers."""
    imp = {"id": "1", "banner": {}, "video": {"podid": "p"}, "audio": {}}
    campaigns: list[dict[str, Any]] = [{"media": [name]} for name in ("banner", "video", "audio")]
    assert offered(line(imp), *campaigns) == ["c1"]


def test_the_floor_decides_who_is_offered() -> None:
    """A CPM below the floor, in another currency, or unknown where there is a floor, is not offered."""
    raw = line({**BANNER, "bidfloor": 2.0})
    assert offered(raw, {"cpm": 1.99}, {"cpm": 2}, {"cpm": 3, "currency": "EUR"}, {}) == ["c1"]
    assert offered(line(), {}) == ["c0"]


def test_block_lists_decide_who_is_offered() -> None:
    """Blocked categories, their children and blocked domains are not offered."""
    raw = line({**BANNER, "bcat": [70]}, bcat=["IAB7"], badv=["Bad.com"])
    campaigns: list[dict[str, Any]] = [
        {"categories": ["IAB7-3"]},
        {"categories": ["70"]},
        {"advertiser_domain": "shop.bad.com"},
        {"categories": ["IAB70"], "advertiser_domain": "notbad.com"},
    ]
    assert offered(raw, *campaigns) == ["c3"]


def test_allowed_categories_decide_who_is_offered() -> None:
    """Of campaigns that say their categories those are offered whose categories are all allowed."""
    raw = line(BANNER, acat=["IAB7", "IAB1"])
    campaigns: list[dict[str, Any]] = [
        {"categories": ["IAB7-3", "IAB1"]},
        {"categories": ["IAB7-3", "IAB2"]},
        {},
    ]
    assert offered(raw, *campaigns) == ["c0", "c2"]


def test_durations_decide_who_is_offered() -> None:
    """A video needs a lawful duration, and one without a duration needs a place that takes any."""
    assert offered(line(VIDEO), {"duration_s": 4}, {"duration_s": 30}, {}) == ["c1"]
    assert offered(line({"id": "1", "video": {}}), {}) == ["c0"]
    exact = {"id": "1", "video": {"rqddurs": [15]}}
    assert offered(line(exact), {"duration_s": 15}, {"duration_s": 16}) == ["c0"]
    per_second = {"id": "1", "video": {"mincpmpersec": 0.1}}
    assert offered(line(per_second), {"duration_s": 15, "cpm": 1.5}, {"duration_s": 30, "cpm": 2}) == ["c0"]


def test_pods_become_slots_or_a_pod() -> None:
    """A structured pod gives slots with their bounds and floors, a dynamic one time to fill."""
    imps = [{"id": f"1_{at}", "bidfloor": 4, "video": {"minduration": 5, "maxduration": 15}} for at in (0, 1)]
    request = convert(line(*imps), {"duration_s": 15, "cpm": 5})
    assert request.request_id == "583f51b8-1"
    assert request.slots is not None
    assert [(slot.max_duration_ms, slot.floor_micros) for slot in request.slots] == [(15_000, 4_000)] * 2
    dynamic = convert(line({"id": "1", "video": {"poddur": 60, "maxseq": 3, "rqddurs": [15, 30]}}))
    assert isinstance(dynamic.pod, PodSpec)
    assert (dynamic.pod.total_duration_ms, dynamic.pod.max_ads) == (60_000, 3)
    assert dynamic.pod.allowed_durations_ms == (15_000, 30_000)


def test_several_things_become_several_requests() -> None:
    """Each pod and each single impression is a request of its own name; asking for one of them alone is refused."""
    raw = line(BANNER, {"id": "2", "video": {"podid": "p"}}, {"id": "3", "video": {"podid": "p"}})
    adapter = OpenRtbAdapter((), "ext.timestamp")
    assert [request.request_id for request in adapter.to_ad_requests(raw)] == ["583f51b8-1:p", "583f51b8-1:1"]


def test_no_two_requests_have_one_name() -> None:
    """An impression that is named like a pod of its request makes a request of another name."""
    raw = line({"id": "1", "video": {"podid": "2"}}, {**BANNER, "id": "2"}, {**BANNER, "id": "3"})
    names = [request.request_id for request in OpenRtbAdapter((), "ext.timestamp").to_ad_requests(raw)]
    assert names == ["583f51b8-1:2", "583f51b8-1:2:2", "583f51b8-1:3"]


def test_a_hybrid_pod_is_slots_and_time() -> None:
    """A hybrid pod becomes one request with its slots and its dynamic part."""
    request = convert(
        line(
            {"id": "1", "video": {"podid": "p", "slotinpod": 1, "maxduration": 15}},
            {"id": "2", "video": {"podid": "p", "poddur": 30, "slotinpod": -1, "minduration": 5}},
        )
    )
    assert request.slots is not None
    assert [(slot.position, slot.max_duration_ms) for slot in request.slots] == [("first", 15_000)]
    assert isinstance(request.pod, PodSpec)
    assert (request.pod.total_duration_ms, request.pod.position, request.pod.min_duration_ms) == (
        30_000,
        "last",
        5_000,
    )


def test_floors_say_the_currency() -> None:
    """Prices compete in the currency of the floors, where there are any; floors in several are refused."""
    floors: list[dict[str, Any]] = [
        {"bidfloor": 1},
        {"video": {"mincpmpersec": 0.1}},
        {"video": {"durfloors": [{"bidfloor": 1}]}},
    ]
    for fields in floors:
        assert convert(line({**VIDEO, "bidfloorcur": "eur", **fields})).currency == "EUR"
    assert convert(line({**VIDEO, "bidfloorcur": "EUR"})).currency is None
    imps = [
        {**VIDEO, "id": f"1_{at}", "bidfloor": 1, "bidfloorcur": currency}
        for at, currency in enumerate(("USD", "EUR"))
    ]
    with pytest.raises(BadOpenRtb, match="USD, EUR"):
        convert(line(*imps))


def test_a_pod_of_several_dynamic_parts_keeps_them() -> None:
    """Impressions of one podid with a poddur each are dynamic parts of one pod, each with its own terms; a maximum of
    more ads than can be asked for is as many as can."""
    parts: list[dict[str, Any]] = [
        {"id": "1", "bidfloor": 4, "video": {"podid": "p", "poddur": 60, "maxseq": 100, "rqddurs": [15, 30]}},
        {"id": "2", "video": {"podid": "p", "poddur": 45, "maxduration": 15, "slotinpod": -1}},
    ]
    request = convert(line(*parts), {"duration_s": 15, "cpm": 5})
    assert request.slots is None
    assert isinstance(request.pod, tuple)
    terms = [
        (part.total_duration_ms, part.max_ads, part.max_duration_ms, part.position) for part in request.pod
    ]
    assert terms == [(60_000, 64, None, "any"), (45_000, None, 15_000, "last")]
    assert (request.pod[0].allowed_durations_ms, request.pod[0].floor_micros) == ((15_000, 30_000), 4_000)
    assert AdRequest.model_validate_json(request.model_dump_json()) == request


def test_without_poddedupe_all_is_kept_apart() -> None:
    """A request that says nothing of deduplication keeps domains, categories, creatives and media files apart."""
    for video in ({"podid": "p"}, {"podid": "p", "poddur": 30}, {"podid": "p", "poddedupe": [500]}):
        rules = convert(line({"id": "1", "video": video})).pod_rules
        assert rules is not None
        assert rules.dedupe == (1, 2, 3, 4)


def test_the_pods_terms_go_along() -> None:
    """podid, podseq, poddedupe, floors by the second and by duration, bcat and badv are the ad request's too."""
    video = {"podid": "p", "podseq": -1, "poddedupe": [3, 1], "maxduration": 30}
    request = convert(
        line(
            {"id": "1", "bidfloor": 1, "video": {**video, "mincpmpersec": 0.25}, "bcat": ["IAB7"]},
            {
                "id": "2",
                "bidfloor": 2,
                "video": {
                    **video,
                    "durfloors": [{"mindur": 5, "maxdur": 10, "bidfloor": 3}, {"bidfloor": 4}],
                },
            },
            bcat=["IAB25"],
            badv=["casino.example"],
        )
    )
    rules = request.pod_rules
    assert rules is not None
    assert (rules.name, rules.sequence, rules.dedupe) == ("p", "last", (1, 3))
    assert (rules.blocked_categories, rules.blocked_advertisers) == (("IAB25", "IAB7"), ("casino.example",))
    assert request.slots is not None
    assert request.slots[0].floor_cpm_micros_per_second == 250_000
    assert [slot.floor_micros for slot in request.slots] == [1_000, 2_000]
    floors = request.slots[1].floors_by_duration
    assert [(f.min_duration_ms, f.max_duration_ms, f.floor_micros) for f in floors] == [
        (5_000, 10_000, 3_000),
        (0, None, 4_000),
    ]


def test_the_slots_of_a_podconfig_share_its_time() -> None:
    """The length of a pod of Prebid's podconfig bounds all of its slots together."""
    raw = json.dumps(
        {
            "id": "a",
            "ext": {"timestamp": 1},
            "podconfig": {"durationrangesec": [15, 30], "pods": [{"podid": "1", "adpoddurationsec": 60}]},
        }
    ).encode()
    request = convert(raw)
    assert request.slots is not None
    assert request.pod_rules is not None
    assert (len(request.slots), request.pod_rules.total_duration_ms) == (4, 60_000)


def test_what_an_ad_request_cannot_hold_is_refused() -> None:
    """A missing id and ids of excessive length are refused with their field."""
    for raw, message in (
        (line(id=""), "id: missing"),
        (
            line({"id": "1", "video": {"podid": "p" * 300, "poddur": 30}}),
            "name: String should have at most 256",
        ),
        (line(id="5" * 300), "request_id"),
    ):
        with pytest.raises(BadOpenRtb, match=message):
            convert(raw)


def test_a_bad_candidates_file_names_entry_and_field() -> None:
    """A candidates file says which entry and which field is wrong."""
    with pytest.raises(BadInput, match=r"candidates\[1\]\.cpm"):
        read_candidates(
            b'[{"campaign_id":"a","creative_id":"b"},{"campaign_id":"a","creative_id":"b","cpm":-1}]'
        )
    with pytest.raises(BadInput, match="JSON list"):
        read_candidates(b'{"campaigns":[]}')
    with pytest.raises(BadInput, match="dotted path"):
        OpenRtbAdapter((), "ext..timestamp")
