"""Definitions of campaigns that cannot be meant so."""

from __future__ import annotations

from typing import Any

import pytest

from adgovernor.contracts.campaigns import Campaign


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"start_ms": 5, "end_ms": 5}, "end_ms must be after start_ms"),
        ({"start_ms": 5, "end_ms": 4}, "end_ms must be after start_ms"),
        ({"price_micros": 1, "cpm_micros": 1_000}, "not both"),
        ({"cpm_micros": 1_000, "pricing": "cpc"}, "give price_micros"),
    ],
)
def test_contradictions_are_told(fields: dict[str, Any], told: str) -> None:
    """A flight without a moment, and two prices or one of another pricing, are refused with what to do."""
    with pytest.raises(ValueError, match=told):
        Campaign(campaign_id="c", account_id="a", budget_micros=1, **fields)


def test_a_flight_of_one_moment_is_one() -> None:
    """The shortest flight there is."""
    assert Campaign(campaign_id="c", account_id="a", budget_micros=1, start_ms=5, end_ms=6).end_ms == 6
