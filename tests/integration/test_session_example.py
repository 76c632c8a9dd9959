"""The examples of sessions that need no servers run as their documentation says."""

from __future__ import annotations

from pathlib import Path

from forked import run_program

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def run(name: str) -> str:
    done = run_program(EXAMPLES / name)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_session_example_plays_an_ad_and_tells_both_servers() -> None:
    """The ad behind the Wrapper plays, and each party hears of the impression once."""
    told = run("session_vast_chain.py")
    assert "brand-1: 30000 ms behind 1 wrapper" in told
    for heard in ("/exchange/impression?t=", "/brand/impression?ad=brand-0001&tx=", "/brand/start"):
        assert told.count(heard) == 1


def test_the_example_beside_a_stream_runs_in_one_process() -> None:
    """Caps, money and the session's state come from the deployment in the process."""
    told = run("session_beside_stream.py")
    assert told.splitlines()[-2:] == ["bob: 3 requests, 1 impressions", "spent: 0.06 EUR"]
