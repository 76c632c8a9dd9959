"""The examples of the governor in one process run as their documentation says."""

from __future__ import annotations

from pathlib import Path

from forked import run_program

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def run(name: str) -> list[str]:
    done = run_program(EXAMPLES / name)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_caps_and_budgets_show_who_saw_what_and_where_the_money_went() -> None:
    """Two impressions a person, five in all, then exhausted; and the audit finds every cent."""
    lines = run("caps_and_budgets.py")
    assert lines[:7] == [
        "ann: coffee",
        "ann: coffee",
        "ann: nothing, capped",
        "bob: coffee",
        "bob: coffee",
        "bob: nothing, capped",
        "cy: coffee",
    ]
    assert all(line.startswith("cy: nothing, ") for line in lines[7:9])
    assert lines[9:] == ["budget-exhausted: coffee, 0.10 EUR", "audit: green, spent 0.10 EUR"]


def test_the_ad_server_serves_everybody() -> None:
    """Each person gets the creative of the decision that was made for their request."""
    people = ("ann", "bob", "cy", "dee", "eli")
    assert run("ad_server.py") == [
        "campaign accepted: True",
        *(f"{person} sees coffee-1" for person in people),
    ]
