"""The small examples of pacing and budgets under deploy/examples do what their README says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from adgovernor.audit.lines import read_lines
from adgovernor.audit.whatif import WhatIf, comes_late

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
Events = list[tuple[str, dict[str, Any]]]


def _run(name: str, shards: int = 1, *, auto_impressions: bool = True) -> tuple[dict[str, Any], Events]:
    campaigns = list(read_lines(EXAMPLES / name / "campaigns.jsonl"))
    events = list(read_lines(EXAMPLES / name / "events.jsonl"))
    run = WhatIf.begin(shards, auto_impressions=auto_impressions, late=comes_late(campaigns, events))
    answers = [*run.campaigns(campaigns), *run.events(events)]
    assert run.rejected == []
    return run.finish(), answers


@pytest.mark.parametrize("name", ["pacing-even", "daily-rollover", "account-budget", "cpc"])
def test_every_example_says_how_to_run_it(name: str) -> None:
    """Each example's README names the command that shows it."""
    readme = (EXAMPLES / name / "README.md").read_text()
    assert f"adgovernor simulate --campaigns deploy/examples/{name}/campaigns.jsonl" in readme


def test_even_pacing_spreads_a_day() -> None:
    """Twelve ads a day go out one every two hours, and all of them before midnight."""
    totals, events = _run("pacing-even")
    assert totals["campaigns"]["even"]["spent_micros"] == 12_000
    won = [body["time_ms"] for name, body in events if name == "decisions" and "winner" in body["slots"][0]]
    gaps = [after - before for before, after in pairwise(won)]
    assert len(won) == 12
    assert all(6_000_000 <= gap <= 8_400_000 for gap in gaps)


def test_rollover_adds_what_a_day_left_over() -> None:
    """With rollover the second day shows eight, without it five."""
    totals, _ = _run("daily-rollover")
    spent = {name: row["spent_micros"] for name, row in totals["campaigns"].items()}
    assert spent == {"carried": 10_000, "hard": 7_000}


@pytest.mark.parametrize("shards", [1, 3])
def test_an_accounts_budget_stops_all_its_campaigns(shards: int) -> None:
    """Two campaigns share six ads, then two more after a top-up; another currency is refused."""
    totals, events = _run("account-budget", shards)
    assert sum(row["spent_micros"] for row in totals["campaigns"].values()) <= 8_000
    assert totals["accounts"]["acme"]["topped_up_micros"] == 8_000
    refused = [body["reason"] for name, body in events if name == "campaign-changes" and not body["accepted"]]
    assert refused == ["account_currency"]
    if shards == 1:
        assert totals["accounts"]["acme"]["leased_micros"] == 8_000
        assert [body["scope"] for name, body in events if name == "budget-exhausted"] == ["account"] * 4


def test_a_click_is_what_is_paid_for() -> None:
    """Two clicks are paid once each; who clicked gets the other campaign from then on."""
    totals, events = _run("cpc", auto_impressions=False)
    assert totals["campaigns"]["clicks"]["spent_micros"] == 1_000_000
    winners = [body["slots"][0]["winner"]["campaign_id"] for name, body in events if name == "decisions"]
    assert winners == ["clicks", "clicks", "clicks", "views", "clicks", "clicks", "views", "views"]
