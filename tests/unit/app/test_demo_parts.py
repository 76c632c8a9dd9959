"""The demonstration's parts: totals that notice a difference, the ledger's order of events, and the picture."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rich.console import Console

from adgovernor.app.demo_plan import TINY, Plan
from adgovernor.app.demo_show import LiveShow, line, verdict
from adgovernor.app.demo_story import _MERGE_S, Counted, Story
from adgovernor.audit.report import Report
from adgovernor.contracts import topics


def matching() -> tuple[Counted, Report]:
    """One decision, shown, and a ledger that says the same."""
    counted = Counted(requests={"r1"}, decisions={"r1"}, delivered=1)
    seen = counted.of("c1")
    seen.won, seen.won_micros, seen.shown, seen.shown_micros = 1, 700, 1, 700
    report = Report()
    report.count(f"outputs on {topics.DECISIONS}")
    report.campaigns["c1"] = {
        "topped_up_micros": 1_000,
        "unleased_micros": 100,
        "in_flight_micros": 0,
        "lease_micros": 200,
        "reserved_micros": 0,
        "spent_micros": 700,
        "paused": [],
        "episode": 1,
    }
    return counted, report


def test_totals_that_match_agree() -> None:
    """Nothing differs where the story's counts are the ledger's."""
    counted, report = matching()
    totals = counted.totals(report)
    assert (totals["agree"], totals["differences"]) == (True, [])
    assert verdict(totals) == "the totals agree with the ledger: 1 decisions, 1 impressions, 0.0007 EUR spent"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spent_micros": 701, "lease_micros": 199}, "c1 spent: 700 counted, 701 in the ledger"),
        ({"reserved_micros": 1, "lease_micros": 199}, "c1 reserved: 0 counted, 1 in the ledger"),
        ({"unleased_micros": 99}, "c1: the parts do not add up to 1000"),
    ],
)
def test_a_cent_that_differs_is_told(change: dict[str, int], told: str) -> None:
    """Each kind of difference in money is named with both numbers, and the last line says so."""
    counted, report = matching()
    report.campaigns["c1"].update(change)
    totals = counted.totals(report)
    assert totals["differences"] == [told]
    assert verdict(totals).startswith("the totals DIFFER from the ledger: ")


def test_a_decision_too_many_or_too_few_is_told() -> None:
    """A repeated decision, a missing one and a lost dead letter are differences."""
    counted, report = matching()
    counted.delivered = 2
    assert counted.totals(report)["differences"] == ["decisions: 2 counted, 1 in the ledger"]
    counted, report = matching()
    counted.requests.add("r2")
    counted.poison = 1
    assert counted.totals(report)["differences"] == [
        "requests decided: 2 counted, 1 in the ledger",
        "poison: 1 counted, 0 in the ledger",
    ]


def test_an_empty_ledger_agrees_with_nothing() -> None:
    """Where no campaign is in the ledger, equal zeros prove nothing."""
    assert Counted().totals(Report())["differences"] == ["the ledger knows no campaign"]


def test_budgets_follow_the_length_of_the_stream() -> None:
    """However long the stream is, the tiny budget is the same share of it, and no budget is less than two prices."""
    for requests in (1, 100, 10_000):
        commands = Plan(requests, 40.0).commands(0)
        (tiny,) = [c.campaign for c in commands if c.command == "upsert" and c.campaign.campaign_id == TINY]
        assert tiny.budget_micros == max(2, round(requests * 0.15)) * tiny.price()


class Told:
    """A show that keeps the names of what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None: ...

    def event(self, name: str, body: Any) -> None:
        self.names.append(f"{name} {body['campaign_id']}")

    def note(self, text: str) -> None: ...

    def budgets(self, rows: Any) -> None: ...

    def end(self, totals: Any, report: Report) -> None: ...


async def test_campaign_events_are_told_in_the_ledgers_order() -> None:
    """Events of several topics come as their readers are quick; they are told by height and index of their shard."""
    show = Told()
    story = Story(None, Plan(1, 1.0), show)  # type: ignore[arg-type]
    arrivals = [
        (topics.CAMPAIGN_RESUMED, "t0", 9, 0),
        (topics.CAMPAIGN_PAUSED, "t0", 7, 2),
        (topics.BUDGET_EXHAUSTED, "t0", 7, 1),
    ]
    for topic, shard, height, index in arrivals:
        story._hold(
            topic, {"campaign_id": "c1", "shard": shard, "height": height, "index": index, "episode": 1}
        )
    assert show.names == []
    await asyncio.sleep(2 * _MERGE_S)
    assert show.names == ["budget-exhausted c1", "campaign-paused c1", "campaign-resumed c1"]


@pytest.mark.parametrize(
    ("size", "bar"),
    [((80, 24), "█" * 12 + "░" * 4), ((120, 50), "█" * 23 + "░" * 7), ((40, 10), "")],
)
def test_the_picture_fits_the_terminal(size: tuple[int, int], bar: str) -> None:
    """The moving picture is never higher than the terminal, and shows bars, events and decisions."""
    show = LiveShow("demo", Console(width=size[0], height=size[1], record=True, force_terminal=True))
    row = {
        "campaign_id": "c1",
        "currency": "EUR",
        "reasons": ["exhausted"],
        "episode": 2,
        "topped_up_micros": 1_000_000,
        "spent_micros": 500_000,
        "reserved_micros": 250_000,
    }
    show.budgets([row] * 5)
    for number in range(60):
        show.event(
            "decision",
            {"decision_id": f"r{number}", "slots": [{"slot": 0, "no_fill": "late"}]},
        )
        show.note(f"note {number}")
    lines = show.console.render_lines(show.picture())
    assert len(lines) <= size[1]
    text = "\n".join("".join(segment.text for segment in row) for row in lines)
    if size[1] >= 24:
        assert bar in text
        assert "paused: exhausted" in text
        assert "note 59" in text
        assert "r59: slot 0 no fill (late)" in text


def test_a_dead_letter_is_one_line() -> None:
    """A dead letter names its place and reason."""
    body = {"topic": "ad-requests", "partition": 3, "offset": 7, "reason": "not_json"}
    assert line("dead-letter", body) == "dead-letter ad-requests[3] offset 7: not_json"
