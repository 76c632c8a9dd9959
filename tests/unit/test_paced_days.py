"""Whole days of bursty traffic keep what is promised of pacing; `./deploy/bench pacing` runs many more."""

from __future__ import annotations

import pytest
from tests.bench import pacing


@pytest.mark.parametrize(
    ("shape", "mode", "budget", "late"),
    [
        ("two peaks", "even", 10, True),
        ("silent night", "even", 100, True),
        ("working day", "asap", 100, True),
        ("one great hour", "even", 1_000, False),
    ],
)
def test_a_day_is_spent_and_billed(shape: str, mode: str, budget: int, late: bool) -> None:
    """A day's budget is spent to 99.9 % while there is demand, along its curve, and what is shown is billed, all but
    one ad at most where impressions come up to half an hour late."""
    [result] = pacing.simulate(pacing.Run(budget, mode, shape, late))
    assert result.broken() == []
    assert result.spent_ads <= result.ads


def test_a_broken_promise_is_told() -> None:
    """Each way to break the promise is named with its run."""
    result = pacing.Result("some run", 1_000, True, 1, 1.5, 998, 2)
    assert [word.split(": ")[0] for word in result.broken()] == ["some run"] * 3
    assert pacing.Result("some run", 1_000, True, 1, 1.0, 999, 1).broken() == []
