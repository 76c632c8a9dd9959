"""The small examples of delivery under deploy/examples do what their README says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adgovernor.audit.lines import read_lines
from adgovernor.audit.whatif import WhatIf, comes_late

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/campaigns.jsonl"))
DAY_START_MS = 1_772_323_200_000
HOUR_MS = 3_600_000


class Ran:
    """One example, run."""

    def __init__(self, name: str, *, auto_impressions: bool = False) -> None:
        campaigns = list(read_lines(EXAMPLES / name / "campaigns.jsonl"))
        events = list(read_lines(EXAMPLES / name / "events.jsonl"))
        run = WhatIf.begin(1, auto_impressions=auto_impressions, late=comes_late(campaigns, events))
        self.events = [*run.campaigns(campaigns), *run.events(events)]
        assert run.rejected == []
        self.totals = run.finish()

    def of(self, topic: str) -> list[dict[str, Any]]:
        """The events of a topic."""
        return [body for name, body in self.events if name == topic]

    def won(self) -> dict[str, list[str | None]]:
        """Decision → the creative in each slot."""
        return {
            body["decision_id"]: [slot.get("winner", {}).get("creative_id") for slot in body["slots"]]
            for body in self.of("decisions")
        }

    def why(self, decision_id: str) -> dict[str, list[str]]:
        """Creative → why it lost."""
        (body,) = [body for body in self.of("decisions") if body["decision_id"] == decision_id]
        return {
            loser["creative_id"]: [reason["code"] for reason in loser["reasons"]]
            for loser in body.get("losers", ())
        }

    def pods(self) -> list[tuple[str, str]]:
        """What was said of pods."""
        return [(body["type"], body["pod_id"]) for body in self.of("pods")]

    def by_hour(self) -> list[int]:
        """Ads won in each hour of the day."""
        won = Counter(
            (body["time_ms"] - DAY_START_MS) // HOUR_MS
            for body in self.of("decisions")
            if "winner" in body["slots"][0]
        )
        return [won[hour] for hour in range(24)]


@pytest.mark.parametrize("name", FOLDERS)
def test_an_example_says_how_to_run_it_and_runs(name: str) -> None:
    """Each example's README has the command that shows it, and all of its lines are understood."""
    readme = (EXAMPLES / name / "README.md").read_text()
    assert f"adgovernor simulate --campaigns deploy/examples/{name}/campaigns.jsonl" in readme
    assert f"--events deploy/examples/{name}/events.jsonl" in readme
    ran = Ran(name, auto_impressions="--auto-impressions" in readme)
    assert ran.of("decisions")
    for row in ran.totals["campaigns"].values():
        parts = ("unleased_micros", "in_flight_micros", "lease_micros", "reserved_micros", "spent_micros")
        assert row["topped_up_micros"] == sum(row[part] for part in parts)


def test_the_list_of_examples_names_each() -> None:
    """The README of the examples has a link to each folder, and to none that is not there; and names each program."""
    readme = (EXAMPLES / "README.md").read_text()
    assert sorted(re.findall(r"\]\(([a-z-]+)\)", readme)) == FOLDERS
    programs = {path.name for path in EXAMPLES.glob("*.py")} - {"upstream_server.py"}
    assert set(re.findall(r"`(\w+\.py)`", readme)) == programs


def test_a_flight_begins_and_ends_to_the_millisecond() -> None:
    """A campaign is served from the first millisecond of its flight to the last before its end."""
    ran = Ran("flights", auto_impressions=True)
    assert [won for (won,) in ran.won().values()] == [None, "lunch-1", "lunch-1", "lunch-1", "launch-1"]
    assert ran.why("r5") == {"lunch-1": ["flight"]}


def test_what_was_missed_is_spread_over_the_rest_of_the_day() -> None:
    """A day without traffic before noon goes out at twice the speed afterwards, and whole."""
    hours = Ran("pacing-catch-up", auto_impressions=True).by_hour()
    assert sum(hours) == 24
    assert hours[:12] == [0] * 12
    assert set(hours[12:]) <= {1, 2, 3}


def test_places_and_floors_are_kept() -> None:
    """Guaranteed places are kept, and the most specific floor counts."""
    ran = Ran("pod-places", auto_impressions=True)
    assert ran.won() == {
        "r1": ["shoes-15", "bank-15", "cars-30"],
        "r2": ["tea-15", "shoes-15"],
        "r3": ["shoes-15", "boots-15"],
    }
    assert ran.why("r2") == {"cars-30": ["floor"], "bank-30": ["outbid"]}


def test_pods_are_filled_completed_and_abandoned() -> None:
    """The most valuable lawful pods are filled; one completes once, the others are abandoned."""
    ran = Ran("pods")
    won = ran.won()
    assert won["r1"] == ["shoes-15", "cars-30", "tea-15"]
    assert ran.why("r1") == {"boots-15": ["advertiser_separation"], "bank-60": ["outbid"]}
    assert won["r2"][0] is None
    assert ran.why("r3") == {"bank-60": ["blocked_category"]}
    ends = [(kind, pod) for kind, pod in ran.pods() if kind != "pod-created"]
    assert ends == [("pod-completed", "r1"), ("pod-abandoned", "r3"), ("pod-abandoned", "r2")]


def test_breaks_become_pods() -> None:
    """Each break of the VMAP document is a pod in the programme's order; the middle one is waited for."""
    ran = Ran("vmap-breaks")
    created = [body for body in ran.of("pods") if body["type"] == "pod-created"]
    assert [(body["pod_id"], body["break_id"], body["break_offset"]) for body in created] == [
        ("r1/1", "pre", "start"),
        ("r1/2", "mid", "00:10:00.000"),
        ("r1/3", "post", "end"),
        ("r2/1", "half", "50%"),
        ("r2/2", "second", "#2"),
    ]
    assert [body.get("break_offset_ms") for body in created] == [0, 600_000, None, 600_000, None]
    ends = {pod: kind for kind, pod in ran.pods() if kind != "pod-created"}
    assert ends == {
        "r1/1": "pod-completed",
        "r1/2": "pod-completed",
        "r1/3": "pod-abandoned",
        "r2/1": "pod-abandoned",
        "r2/2": "pod-abandoned",
    }


def test_neighbours_in_a_stream_are_apart() -> None:
    """No two ads of one advertiser follow each other in a stream, whatever they pay."""
    ran = Ran("stream-neighbours")
    assert ran.won() == {
        "r1": ["shoes-15"],
        "r2": ["tea-15"],
        "r3": ["boots-15"],
        "r4": ["cars-30", "shoes-15"],
        "r5": ["boots-15"],
        "r6": [None],
    }
    assert ran.why("r2") == {"boots-15": ["advertiser_separation"]}
    assert ran.why("r6") == {"shoes-15": ["advertiser_separation"]}


def test_caps_of_pod_and_stream() -> None:
    """`pair` fills two positions of each pod, `stream` one of each stream."""
    won = Ran("caps-pod-and-stream").won()
    campaigns = {name: sorted(str(creative).split("-")[0] for creative in ads) for name, ads in won.items()}
    assert campaigns == {
        "r1": ["free", "pair", "pair", "stream"],
        "r2": ["free", "free", "pair", "pair"],
        "r3": ["free", "pair", "pair", "stream"],
    }


def test_opt_outs_hold_from_the_next_event_on() -> None:
    """An opt-out of a category, an advertiser or everything holds until it is taken back, for that person alone."""
    won = [ads[0] for ads in Ran("opt-out").won().values()]
    assert won == ["shoes-x", "tea-x", None, "shoes-x", "shoes-x", None]


def test_a_cooldown_keeps_servings_apart() -> None:
    """With a cooldown of five minutes and a request every two, every third is served."""
    assert [ads[0] for ads in Ran("cooldown").won().values()] == ["slow-x", "tea-x", "tea-x"] * 3


def test_caps_on_labels() -> None:
    """Two prerolls a day, and never an ad of the other campaign to children."""
    won = [ads[0] for ads in Ran("labels").won().values()]
    assert won == ["loud-x", "loud-x", "kind-x", "loud-x", "house-x", "loud-x"]


def test_front_loaded_pacing() -> None:
    """Three quarters of the day's ads are out by noon, all of them before midnight."""
    hours = Ran("pacing-front-loaded", auto_impressions=True).by_hour()
    assert (sum(hours[:12]), sum(hours)) == (18, 24)


def test_hourly_pacing() -> None:
    """Nothing is shown in hours of weight 0, and four times as much in hours of four times the weight."""
    hours = Ran("pacing-hourly", auto_impressions=True).by_hour()
    assert sum(hours[:8]) + sum(hours[20:]) == 0
    assert (sum(hours[12:14]), sum(hours)) == (10, 24)


def test_a_completed_view_is_what_is_paid_for() -> None:
    """Only views are paid, each once; the money of an ad that was not watched comes back after its time."""
    ran = Ran("cpcv")
    assert ran.totals["campaigns"]["watched"]["spent_micros"] == 20_000
    won = [str(ads[0]).removesuffix("-x") for ads in ran.won().values()]
    assert won == ["watched", "watched", "shown", "watched", "shown", "shown"]
    assert [body["episode"] for body in ran.of("campaign-resumed")] == [2]


def test_credit_top_up_and_decrease() -> None:
    """Each money command counts once, and a decrease takes what was not spent."""
    ran = Ran("credit-and-decrease")
    money = {"credit", "top-up", "decrease"}
    changes = [
        (body["command"], body["accepted"], body.get("reason"))
        for body in ran.of("campaign-changes")
        if body["command"] in money
    ]
    assert changes == [
        ("credit", True, None),
        ("credit", False, "duplicate"),
        ("top-up", True, None),
        ("decrease", True, None),
        ("decrease", False, "too_little_unleased"),
    ]
    assert [ads[0] for ads in ran.won().values()].count("spring-x") == 4
    assert ran.totals["campaigns"]["spring"]["topped_up_micros"] == 4_000


def test_currencies_are_never_mixed() -> None:
    """Each campaign spends what it has of its own currency; one of another than its account's is refused."""
    ran = Ran("currencies")
    spent = {name: (row["currency"], row["spent_micros"]) for name, row in ran.totals["campaigns"].items()}
    assert spent == {"euro": ("EUR", 2_000), "yen": ("JPY", 450_000_000)}
    refused = [body["reason"] for body in ran.of("campaign-changes") if not body["accepted"]]
    assert refused == ["account_currency"]
