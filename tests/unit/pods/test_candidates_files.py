"""The ways in which a candidates file may be written."""

from __future__ import annotations

from decimal import Decimal

import pytest

from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.openrtb_requests import read_candidates


@pytest.mark.parametrize(
    "raw",
    [
        b'{"campaign_id": "c", "creative_id": "a"}\n{"campaign_id": "d", "creative_id": "b"}\n',
        b'[{"campaign_id": "c", "creative_id": "a"}, {"campaign_id": "d", "creative_id": "b"}]',
        b'{"candidates": [{"campaign_id": "c", "creative_id": "a"}, {"campaign_id": "d", "creative_id": "b"}]}',
    ],
)
def test_lines_a_list_and_an_object_say_the_same(raw: bytes) -> None:
    """JSON lines, a JSON list and an object with a list are read alike."""
    assert [campaign.campaign_id for campaign in read_candidates(raw)] == ["c", "d"]


def test_prices_and_durations_as_ad_requests_write_them() -> None:
    """price_micros, cpm_micros and duration_ms are read exactly, and one medium as a word."""
    (priced,) = read_candidates(
        b'[{"campaign_id":"c","creative_id":"a","price_micros":2501,"duration_ms":1500,"media":"video"}]'
    )
    (by_cpm,) = read_candidates(b'[{"campaign_id":"c","creative_id":"a","cpm_micros":900001}]')
    assert (priced.candidate().price(), priced.duration_ms, priced.media) == (2501, 1500, ("video",))
    assert by_cpm.candidate().cpm_micros == 900_001


def test_a_broken_line_is_an_error() -> None:
    """A file whose lines are no JSON is refused."""
    with pytest.raises(BadInput):
        read_candidates(b'{"campaign_id": "c", "creative_id": "a"}\n{nope\n')


def test_a_campaigns_file_names_what_is_offered() -> None:
    """The file that campaigns are applied from will do: each campaign is offered at its own price, where that is for
    impressions; accounts are left out."""
    found = read_candidates(
        b"""{"account_id": "acme", "time_zone": "Europe/Berlin"}
        {"campaign_id": "c", "account_id": "acme", "currency": "EUR", "budget_micros": 9, "price_micros": 2,
         "caps": [{"window": "day", "limit": 3}], "categories": ["IAB1"]}
        {"campaign_id": "d", "account_id": "acme", "budget_micros": 9, "price_micros": 5, "pricing": "cpc"}""".replace(
            b",\n", b","
        )
    )
    said = [(one.campaign_id, one.creative_id, one.cpm, one.currency, one.categories) for one in found]
    assert said == [("c", "c", Decimal("0.002"), "EUR", ("IAB1",)), ("d", "d", None, "USD", ())]


def test_candidates_of_an_ad_request_can_be_offered() -> None:
    """What an ad request's candidates hold is read and goes along; of two prices that of one impression counts."""
    (found,) = read_candidates(
        b'[{"campaign_id":"c","creative_id":"a","price_micros":7,"cpm_micros":1,"expected_rate_ppm":5,'
        b'"tag_url":"https://ads.example/vast"}]'
    )
    candidate = found.candidate()
    assert (candidate.price(), candidate.expected_rate_ppm, candidate.tag_url) == (
        7,
        5,
        "https://ads.example/vast",
    )
