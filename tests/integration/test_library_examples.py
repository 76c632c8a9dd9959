"""The examples of library mode run as they say: in memory, in a database file, on a real Redis and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import run_program

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("redis", "postgres")]


@pytest.fixture(params=["memory", "sqlite", *SERVERS])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the example keeps its state."""
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres").url)
    return "memory" if request.param == "memory" else f"sqlite+aiosqlite:///{tmp_path}/state.db"


def run(name: str, address: str) -> list[str]:
    done = run_program(EXAMPLES / name, [address])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_frequency_capping_names_every_cap(address: str) -> None:
    """Creative, campaign and advertiser each block in their turn, and both at once where both do."""
    assert run("frequency_capping.py", address) == [
        "coffee/a: shown, 1 left",
        "coffee/a: shown, 0 left",
        "coffee/a: capped by creative:a 2 of 2",
        "coffee/b: shown, 0 left",
        "coffee/c: capped by campaign:coffee 3 of 3",
        "tea/t: shown, 0 left",
        "tea/t: capped by advertiser:roastery 4 of 4",
        "coffee/b: capped by campaign:coffee 3 of 3, advertiser:roastery 4 of 4",
    ]


def test_budget_tracking_spends_exactly_what_there_is(address: str) -> None:
    """Eight impressions of a quarter are two, whoever came when; a top-up ends the pause."""
    assert run("budget_tracking.py", address) == [
        "shown: 8",
        "spent 2 of 2 EUR on 8 impressions",
        "remaining: 0, paused: exhausted",
        "after a top-up: 1, paused: no",
    ]


def test_ad_pods_refuse_each_by_its_own_error(address: str) -> None:
    """What may not play is refused with the error that says why; the rest fills the pod."""
    assert run("ad_pods.py", address) == [
        "1 coffee-30: plays",
        "1 tea-15: PositionFilledError",
        "2 coffee-30: CreativeRepeatedError",
        "2 coffee-15: PodRuleError",
        "2 car-60: PodRuleError",
        "2 tea-15: plays",
        "3 juice-15: plays",
        "unknown: UnknownPodError",
        "too-large: PodTooLargeError",
        "3 ads, 60000 ms, complete: True",
    ]


def test_a_session_is_capped_and_its_campaign_runs_out(address: str) -> None:
    """The first viewer is capped, the second gets the last impression, and the money is what was shown."""
    assert run("session_with_caps.py", address) == [
        *["ann: plays brand-1"] * 2,
        *["ann: CapExceededError"] * 2,
        "ann: 4 requests, 2 impressions",
        "bob: plays brand-1",
        *["bob: BudgetExceededError"] * 3,
        "bob: 4 requests, 1 impressions",
        "spent: 0.06 EUR",
    ]
