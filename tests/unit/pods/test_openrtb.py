"""OpenRTB as we read it: tolerant of form, strict about contradictions, and sure of what is a pod."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from typing import Any

import pytest

from adgovernor.contracts.openrtb import parse_request, parse_response
from adgovernor.contracts.openrtb_documents import BadOpenRtb
from adgovernor.contracts.openrtb_objects import BidRequest
from adgovernor.contracts.openrtb_pods import offer_of


def video(name: str = "1", **fields: Any) -> dict[str, Any]:
    return {"id": name, "video": {"mimes": ["video/mp4"], **fields}}


def request_of(*imps: dict[str, Any], **fields: Any) -> BidRequest:
    return parse_request(json.dumps({"id": "r1", "imp": list(imps), **fields}))


def refusal(*imps: dict[str, Any], **fields: Any) -> BadOpenRtb:
    with pytest.raises(BadOpenRtb) as caught:
        request_of(*imps, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"rqddurs": [15], "maxduration": 30}, "imp[0].video.rqddurs"),
        ({"rqddurs": [15], "minduration": 0}, "imp[0].video.rqddurs"),
        ({"rqddurs": [15, 0]}, "imp[0].video.rqddurs"),
        ({"maxseq": -1, "poddur": 60}, "imp[0].video.maxseq"),
        ({"maxseq": 0, "poddur": 60}, "imp[0].video.maxseq"),
        ({"minduration": 31, "maxduration": 30}, "imp[0].video.minduration"),
        ({"minduration": -5}, "imp[0].video.minduration"),
        ({"poddur": -60}, "imp[0].video.poddur"),
        ({"poddur": 0}, "imp[0].video.poddur"),
        ({"poddur": 10, "rqddurs": [15, 30]}, "imp[0].video.poddur"),
        ({"slotinpod": -2}, "imp[0].video.slotinpod"),
        ({"mincpmpersec": -0.1}, "imp[0].video.mincpmpersec"),
        ({"mincpmpersec": 0.1, "durfloors": [{"bidfloor": 1}]}, "imp[0].video.durfloors"),
        ({"durfloors": [{"mindur": 9, "maxdur": 8}]}, "imp[0].video.durfloors[0].mindur"),
        ({"poddedupe": [1, 5]}, "imp[0].video.poddedupe"),
        ({"maxseq": "many"}, "imp[0].video.maxseq"),
        ({"sequence": -1}, "imp[0].video.sequence"),
        ({"minbitrate": -1}, "imp[0].video.minbitrate"),
        ({"maxbitrate": -300}, "imp[0].video.maxbitrate"),
        ({"w": -640}, "imp[0].video.w"),
        ({"mimes": []}, "imp[0].video.mimes"),
        ({"minbitrate": 600, "maxbitrate": 300}, "imp[0].video.minbitrate"),
        ({"poddur": 10**26}, "imp[0].video.poddur"),
        ({"mincpmpersec": 10**12}, "imp[0].video.mincpmpersec"),
    ],
)
def test_a_contradictory_video_is_refused_by_field(fields: dict[str, Any], path: str) -> None:
    """A video object that contradicts itself is refused, and the message starts with the field."""
    error = refusal(video(**fields))
    assert error.field == path
    assert str(error).startswith(f"{path}: ")


def test_contradictions_between_impressions_are_refused() -> None:
    """Two firsts in one pod, three that are first or last, two sequences of one pod, one id twice, no id, a negative
    time-out and more than one of site, app and dooh are refused."""
    first = {"podid": "p", "slotinpod": 1}
    assert refusal(video("1", **first), video("2", **first)).field == "imp[1].video.slotinpod"
    assert refusal(video("1", podid="p", podseq=1), video("2", podid="p")).field == "imp[1].video.podseq"
    assert refusal(video("1"), video("1")).field == "imp[1].id"
    assert refusal(video(), tmax=-2).field == "tmax"
    assert refusal(tmax=-2).field == "tmax"
    assert refusal({"id": "", "banner": {}}).field == "imp[0].id"
    assert refusal({"id": "1", "banner": {}, "pmp": {"deals": [{}]}}).field == "imp[0].pmp.deals[0].id"
    edges = [video(str(at), podid="p", slotinpod=edge) for at, edge in enumerate((2, -1, 1))]
    assert refusal(*edges).field == "imp[2].video.slotinpod"
    assert request_of(*edges[:2]).imp[1].id == "1"
    assert refusal(video(), site={}, app={}).field == "app"
    assert refusal(video(), dooh={}, site={}).field == "dooh"
    assert request_of(video(), app=None, site={}).site is not None


def test_sizes_and_floors_below_zero_are_refused() -> None:
    """A floor, and a banner's size, below zero is refused by its field wherever it stands."""
    banner = {"format": [{"w": 300, "h": 250}, {"w": -1, "h": 250}]}
    deals = [{"id": "d1"}, {"id": "d2", "bidfloor": -0.5}]
    for imp, field in (
        ({"banner": {}, "bidfloor": -1}, "bidfloor"),
        ({"banner": {"w": 300, "h": -250}}, "banner.h"),
        ({"banner": banner}, "banner.format[1].w"),
        ({"banner": {}, "pmp": {"deals": deals}}, "pmp.deals[1].bidfloor"),
    ):
        assert refusal({"id": "1", **imp}).field == f"imp[0].{field}"


def test_a_document_without_a_request_is_refused() -> None:
    """What is no JSON, no object, or offers nothing is refused and says what is missing."""
    for raw, field in ((b"{", "document"), (b"[]", "document"), (b"NaN", "document"), (b"{}", "imp")):
        with pytest.raises(BadOpenRtb) as caught:
            parse_request(raw)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"imp": {}}, "imp: give a list"),
        ({"imp": [None]}, "imp[0]: give a JSON object"),
        ({"imp": [{"id": "1", "video": {"mimes": "video/mp4"}}]}, "imp[0].video.mimes: give a list"),
        ({"imp": [{"id": []}]}, "imp[0].id: give a text"),
        ({"imp": [{}]}, "imp[0].id: missing; it is required"),
    ],
)
def test_a_refusal_speaks_of_json(fields: dict[str, Any], message: str) -> None:
    """What has the wrong form is told which form JSON has for it."""
    with pytest.raises(BadOpenRtb) as caught:
        parse_request(fields)
    assert str(caught.value).endswith(message)


def test_reading_is_tolerant() -> None:
    """Nulls are absent, numbers and texts stand in for each other, unknown fields are ignored."""
    request = request_of(
        {
            "id": 7,
            "video": {"podid": 3, "maxduration": "30", "minduration": None, "unheard": {}},
            "bcat": [70],
        },
        at="2",
        user=None,
        bcat=[13423, "IAB1"],
    )
    assert request.imp[0].id == "7"
    assert request.imp[0].video is not None
    assert request.imp[0].video.podid == "3"
    assert request.imp[0].video.seconds() == (0, 30)
    assert request.imp[0].bcat == ("70",)
    assert (request.at, request.user, request.bcat) == (2, None, ("13423", "IAB1"))


def test_prices_are_exact_decimals() -> None:
    """A price keeps the digits that were sent: no binary fraction comes between."""
    response = parse_response(b'{"seatbid":[{"bid":[{"id":"b","impid":"1","price":20.27}]}]}')
    assert response.bids()[0].price == Decimal("20.27")
    assert request_of({"id": "1", "banner": {}, "bidfloor": 0.1}).imp[0].bidfloor == Decimal("0.1")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda body: body,
        lambda body: {"mockBidRequest": body},
        lambda body: {"requestPayload": body, "description": "x"},
        lambda body: {"mockVideoRequest": body},
        lambda body: {"incomingRequest": {"ortbRequest": body}},
    ],
)
def test_a_request_is_found_in_its_envelope(wrap: Any) -> None:
    """The request may stand alone or sit in any of Prebid's test envelopes."""
    assert parse_request(wrap({"id": "r9", "imp": [video()]})).id == "r9"


def test_refusals_name_the_path_inside_the_envelope() -> None:
    """In an envelope the field is named with the way to it."""
    with pytest.raises(BadOpenRtb) as caught:
        parse_request({"mockBidRequest": {"imp": [video(maxseq=-1)]}})
    assert caught.value.field == "mockBidRequest.imp[0].video.maxseq"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"mockBidRequest": "malformed"}, "mockBidRequest"),
        ({"requestPayload": []}, "requestPayload"),
        ({"incomingRequest": {"amp": {}}}, "incomingRequest.ortbRequest"),
    ],
)
def test_an_envelope_without_a_request_is_named(document: dict[str, Any], field: str) -> None:
    """A test document whose request is no object says so, and not that an impression is missing."""
    with pytest.raises(BadOpenRtb, match="is no request; give a JSON object") as caught:
        parse_request(document)
    assert caught.value.field == field


def test_a_request_is_no_response() -> None:
    """A bid request given for the response is refused; an answer without bids is one."""
    with pytest.raises(BadOpenRtb, match="this is a bid request; give the response to it"):
        parse_response({"id": "1", "imp": [video()]})
    assert parse_response({}).bids() == ()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b'{"id":"1"}\n{"id":"2"}\n', "something follows the document, at line 2; give one document"),
        (gzip.compress(b"{}", mtime=0), "is compressed with gzip; unpack it first"),
        (b"{oops", "this is not JSON"),
        (b" \n", "is empty; give one JSON document"),
    ],
)
def test_what_is_no_document_is_told_what_it_is(raw: bytes, told: str) -> None:
    """A log of requests, or a compressed one, is named as what it is."""
    with pytest.raises(BadOpenRtb, match=told):
        parse_request(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"imp":[{"id":"1","bidfloor":1e999999999}]}',
        b'{"imp":[{"id":"1","video":{"poddur":' + b"9" * 5_000 + b"}}]}",
        b'{"imp":[{"id":"\\ud800"}]}',
        b'{"imp":[{"id":"1","bidfloor":NaN}]}',
    ],
    ids=["lists", "objects", "exponent", "digits", "half a character", "NaN"],
)
def test_json_that_is_an_attack_or_a_slip_is_refused(raw: bytes) -> None:
    """Nesting, numbers and text that no request needs are refused before anything is made of them."""
    with pytest.raises(BadOpenRtb) as caught:
        parse_request(raw)
    assert caught.value.field == "document"


def test_calls_that_are_no_list_are_refused_by_field() -> None:
    """A test document whose calls are missing says so."""
    with pytest.raises(BadOpenRtb) as caught:
        parse_response({"httpCalls": None})
    assert caught.value.field == "httpCalls"


def test_responses_are_found_in_test_documents() -> None:
    """All mock responses of a Prebid test document are read, in order; several currencies are refused."""
    calls = [
        {
            "mockResponse": {
                "body": {"cur": "EUR", "seatbid": [{"bid": [{"id": n, "impid": "1", "price": 1}]}]}
            }
        }
        for n in ("a", "b")
    ]
    response = parse_response({"httpCalls": calls})
    assert ([bid.id for bid in response.bids()], response.cur) == (["a", "b"], "EUR")
    inner = {"seatbid": [{"bid": [{"id": "c", "impid": "1", "price": 1}]}]}
    for document in (inner, {"expectedBidResponse": inner}, {"response": {"bids": inner}}):
        assert [bid.id for bid in parse_response(document).bids()] == ["c"]
    calls[1]["mockResponse"]["body"]["cur"] = "USD"
    with pytest.raises(BadOpenRtb, match="several currencies"):
        parse_response({"httpCalls": calls})


def test_a_duration_may_stand_in_the_extension() -> None:
    """`dur` comes first; else what OpenRTB 2.5 bidders put into the bid's extension."""

    def seconds(**fields: Any) -> int | None:
        bid = {"id": "b", "impid": "1", "price": 1, **fields}
        return parse_response({"seatbid": [{"bid": [bid]}]}).bids()[0].seconds()

    assert seconds(dur=15, ext={"duration": 30}) == 15
    assert seconds(ext={"duration": 30}) == 30
    assert seconds(ext={"prebid": {"video": {"duration": 20}}}) == 20
    assert seconds() is None


def podconfig(durations: list[int], exact: bool, *lengths: int) -> BidRequest:
    pods = [{"podid": at, "adpoddurationsec": seconds} for at, seconds in enumerate(lengths, 1)]
    config = {"durationrangesec": durations, "requireexactduration": exact, "pods": pods}
    return parse_request({"requestPayload": {"podconfig": config, "video": {"mimes": ["video/mp4"]}}})


def test_podconfig_makes_slots_of_the_shortest_duration() -> None:
    """Each pod has as many slots as its shortest duration fits into it, with ids POD_INDEX from 0."""
    offer = offer_of(podconfig([30], True, 180, 150))
    assert [(pod.pod_id, len(pod.imps), pod.total_s) for pod in offer.pods] == [("1", 6, 180), ("2", 5, 150)]
    assert [imp.id for imp in offer.pods[1].imps] == ["2_0", "2_1", "2_2", "2_3", "2_4"]
    assert offer.kind == "structured"


def test_podconfig_shares_slots_among_exact_durations() -> None:
    """Exact durations get equal shares of the slots in the order given, and the last takes the remainder."""
    imps = podconfig([15, 30], True, 75).imp
    assert [imp.video.seconds() for imp in imps if imp.video] == [(15, 15)] * 2 + [(30, 30)] * 3
    short = podconfig([30, 15, 45], True, 20).imp
    assert [imp.video.maxduration for imp in short if imp.video] == [30, 15, 45]


def test_podconfig_without_exact_durations_bounds_each_slot() -> None:
    """Without exact durations every slot takes ads up to the longest."""
    assert {imp.video.seconds() for imp in podconfig([15, 30], False, 60).imp if imp.video} == {(0, 30)}


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"pods": [{"podid": 1, "adpoddurationsec": 30}]}, "durationrangesec"),
        ({"durationrangesec": [0], "pods": [{"podid": 1, "adpoddurationsec": 30}]}, "durationrangesec"),
        ({"durationrangesec": [30], "pods": []}, "pods"),
        (
            {"durationrangesec": [30], "pods": [{"podid": 1, "adpoddurationsec": 0}]},
            "pods[0].adpoddurationsec",
        ),
        (
            {"durationrangesec": [30], "pods": [{"podid": 1, "adpoddurationsec": 29}]},
            "pods[0].adpoddurationsec",
        ),
        ({"durationrangesec": [30], "pods": [{"podid": 1, "adpoddurationsec": 60}] * 2}, "pods[1].podid"),
        ({"durationrangesec": [30], "pods": [{"podid": 1}]}, "pods[0].adpoddurationsec"),
        ({"durationrangesec": [30], "pods": [{"podid": 0, "adpoddurationsec": 60}]}, "pods[0].podid"),
        ({"durationrangesec": [30], "pods": [{"podid": -1, "adpoddurationsec": 60}]}, "pods[0].podid"),
        (
            {"durationrangesec": [1], "pods": [{"podid": n, "adpoddurationsec": 501} for n in (1, 2)]},
            "pods[1].adpoddurationsec",
        ),
        (
            {"durationrangesec": [1], "pods": [{"podid": 1, "adpoddurationsec": 10**9}]},
            "pods[0].adpoddurationsec",
        ),
    ],
)
def test_a_bad_podconfig_is_refused_by_field(config: dict[str, Any], path: str) -> None:
    """A `podconfig` that makes no slots is refused, and the field is named."""
    with pytest.raises(BadOpenRtb) as caught:
        parse_request({"requestPayload": {"podconfig": config}})
    assert caught.value.field == f"requestPayload.podconfig.{path}"


def test_pods_form_by_podid_poddur_and_index() -> None:
    """Impressions form pods by podid, by poddur, or by ids POD_INDEX; the rest are single places."""
    offer = offer_of(
        request_of(
            video("a", podid="x", slotinpod=1),
            video("b", podid="x", poddur=60, maxseq=4),
            video("c", poddur=90),
            video("7_0"),
            video("brk_1"),
            video("brk_2"),
            video("imp_1"),
            {"id": "7_1", "banner": {}},
        )
    )
    assert [(pod.pod_id, pod.named, pod.kind, len(pod.imps)) for pod in offer.pods] == [
        ("x", True, "hybrid", 2),
        ("c", False, "dynamic", 1),
        ("7", True, "structured", 1),
        ("brk", True, "structured", 2),
    ]
    assert [imp.id for imp in offer.singles] == ["imp_1", "7_1"]
    assert offer.kind == "hybrid, dynamic (no podid), structured"


def test_a_podid_and_an_index_of_one_name_are_one_pod() -> None:
    """Impressions whose podid is what others have before their index are in the pod of those."""
    (pod,) = offer_of(request_of(video("7_0"), video("b", podid="7", poddur=30), video("7_1"))).pods
    assert (pod.pod_id, pod.kind, [imp.id for imp in pod.imps]) == ("7", "hybrid", ["7_0", "b", "7_1"])


def test_a_single_video_is_not_a_pod() -> None:
    """One video impression without podid, poddur or index is a place for one ad."""
    assert offer_of(request_of(video(minduration=5, maxduration=30))).kind == "not a pod"
