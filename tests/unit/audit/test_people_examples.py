"""The examples about people under deploy/examples do what their README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adgovernor.audit.lines import read_lines
from adgovernor.audit.whatif import WhatIf

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"


def run(name: str) -> tuple[dict[str, str | None], dict[str, dict[str, list[str]]], dict[str, Any]]:
    """Who won each request, why the others lost, and the totals."""
    example = WhatIf.begin(1, auto_impressions=True)
    events = list(example.campaigns(read_lines(EXAMPLES / name / "campaigns.jsonl")))
    events += example.events(read_lines(EXAMPLES / name / "events.jsonl"))
    assert example.rejected == []
    decisions = [body for topic, body in events if topic == "decisions"]
    won = {body["decision_id"]: body["slots"][0].get("winner", {}).get("campaign_id") for body in decisions}
    why = {
        body["decision_id"]: {
            loser["campaign_id"]: [reason["code"] for reason in loser["reasons"]]
            for loser in body.get("losers", ())
        }
        for body in decisions
    }
    return won, why, example.finish()["campaigns"]


@pytest.mark.parametrize(
    ("name", "winners"),
    [
        ("people-household", ["film", "soup", "film", "soup", "film", "soup", "soup"]),
        ("people-consent", ["film", "style", "soup", "soup"]),
        ("people-preferences", [None, "toys", "tea", "tea", "toys"]),
        ("people-erasure", ["film", None, "film"]),
        ("people-session", ["film", "soup", "film", "soup"]),
        ("people-cap-edit", ["film", "film", "soup", "film"]),
    ],
)
def test_who_wins(name: str, winners: list[str | None]) -> None:
    """Each request of an example is won by whom its README names, and every winner is billed."""
    won, _, totals = run(name)
    assert list(won.values()) == winners
    assert sum(row["impressions"] for row in totals.values()) == sum(1 for one in winners if one)


def test_why_the_others_lose() -> None:
    """The reasons are those that the READMEs name."""
    _, why, _ = run("people-household")
    assert [why[f"r{n}"]["film"] for n in (2, 4, 6, 7)] == [
        ["capped"],
        ["capped"],
        ["capped"],
        ["no_identity"],
    ]
    _, why, _ = run("people-consent")
    assert why["r2"]["film"] == ["no_identity"]
    assert why["r3"]["style"] == why["r4"]["style"] == ["no_consent"]
    _, why, _ = run("people-session")
    assert why["r2"] == {"film": ["capped"], "news": ["no_identity"]}
    assert why["r4"] == {"film": ["no_identity"], "news": ["no_identity"]}


def test_what_is_nested_too_deeply_is_rejected_by_its_line(tmp_path: Path) -> None:
    """A line of JSON that is too deep to be written again is named, with what to do, and the run goes on."""
    deep = '{"request_id": "r1", "time_ms": 1, "metadata": {"a": ' + "[" * 500 + "]" * 500 + "}}"
    path = tmp_path / "events.jsonl"
    path.write_text(deep + '\n{"request_id": "r2", "time_ms": 1}\n')
    trial = WhatIf.begin(1)
    assert [body["decision_id"] for _, body in trial.events(read_lines(path))] == ["r2"]
    assert trial.rejected == [
        "events.jsonl, line 1: nested too deeply; keep objects and lists within 200 levels"
    ]


def test_an_event_of_an_unknown_type_is_named(tmp_path: Path) -> None:
    """An event that is none of those known is refused by its type, and the others go on."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"type": "dance", "time_ms": 1}\n{"request_id": "r1", "time_ms": 1}\n')
    run = WhatIf.begin(1)
    decided = [body for topic, body in run.events(read_lines(path)) if topic == "decisions"]
    assert [body["decision_id"] for body in decided] == ["r1"]
    assert len(run.rejected) == 1
    assert "line 1: type 'dance' is not known here" in run.rejected[0]
