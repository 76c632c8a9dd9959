"""The ways in which a candidates file may be written."""

from __future__ import annotations

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
