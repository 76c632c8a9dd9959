"""OpenRTB documents that nobody on this project wrote come out as their expectations say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adgovernor.app.pods_commands import pods_app
from adgovernor.contracts.openrtb_requests import OpenRtbAdapter, read_candidates

FIXTURES = Path(__file__).parents[2] / ".." / "shared" / "fixtures"

pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the real fixtures are not beside the repository"
)


def expectations() -> list[dict[str, Any]]:
    if not FIXTURES.is_dir():
        return []
    found: list[dict[str, Any]] = json.loads((FIXTURES / "expected.json").read_text())["openrtb"]
    return found


def plan(*arguments: str) -> dict[str, Any]:
    outcome = CliRunner().invoke(pods_app, ["plan", *arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output
    result: dict[str, Any] = json.loads(outcome.stdout)
    return result


def label(result: dict[str, Any], entry: dict[str, Any], names: dict[str, str]) -> str:
    """Write an entry of the fill as the expectations do: `A@slot1 15s 20.27`."""
    slot = f"@slot{entry['slot']}" if entry["slot"] is not None else ""
    return f"{names[entry['bid_id']]}{slot} {entry['duration_s']}s {entry['price']}"


@pytest.mark.parametrize("expected", expectations(), ids=lambda expected: str(expected["file"]))
def test_plan_matches_the_expectation(expected: dict[str, Any]) -> None:
    """`pods plan` gives every value that the expectation names."""
    name, _, answered = expected["file"].partition(" + ")
    request = FIXTURES / "openrtb" / name
    arguments = [str(request)]
    names: dict[str, str] = {}
    if answered:
        response = request.with_name(request.name.replace("request", "response"))
        arguments += ["--bids", str(response)]
        for seat in json.loads(response.read_text())["seatbid"]:
            for bid in seat["bid"]:
                names[bid["id"]] = bid["adomain"][0].removeprefix("advertiser").removesuffix(".com")
    result = plan(*arguments)
    for key, value in expected.items():
        if key == "fill":
            assert [label(result, entry, names) for entry in result["fill"]] == value
        elif key not in ("file", "source"):
            assert result[key] == value, key


def test_the_captured_stream_converts_whole() -> None:
    """Every captured exchange request becomes an ad request, at its event time and at its arrival time."""
    lines = (FIXTURES / "streams" / "adx_bid_requests.jsonl").read_bytes().splitlines()
    campaigns = read_candidates(b'[{"campaign_id":"c","creative_id":"x","duration_s":15,"cpm":9999999}]')
    by_arrival, by_event = (
        [request for line in lines for request in OpenRtbAdapter(campaigns, field).to_ad_requests(line)]
        for field in ("ext.timestamp", "id:hex8")
    )
    assert len(by_arrival) == len(lines)
    assert len({request.request_id for request in by_arrival}) == len(lines) == 333
    assert all(request.candidates for request in by_arrival)
    assert all(event.time_ms <= arrival.time_ms for event, arrival in zip(by_event, by_arrival, strict=True))
    times = [request.time_ms for request in by_event]
    assert times != sorted(times)
