"""The engine and the cores in a simulated world: seeds that must be clean, and broken rules that must be noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.mutations import MUTATIONS
from tests.simulation.runs import first_failure, run_seed

_SEEDS = 500
_BATCH = 10
_ROOT = Path(__file__).parents[2]
_SAMPLE_SEEDS = 40
"""Mutations that so many seeds notice are broken in every run of the tests; `--mutations` breaks all of them."""
_SLOW = {
    "any-day-pays",
    "any-store-state",
    "day-never-begins",
    "debts-for-ever",
    "dirty-round-counts",
    "idle-not-counted",
    "money-lifts-manual",
    "never-exhausted",
    "no-catch-up",
    "old-day-keeps-money",
}


@pytest.mark.parametrize("first", range(0, _SEEDS, _BATCH))
def test_every_seed_is_clean(first: int) -> None:
    """Whatever befalls workers, log and store: the auditor finds nothing wrong, and everything comes to rest."""
    for seed in range(first, first + _BATCH):
        problems = run_seed(seed).problems
        assert not problems, f"seed {seed}; again: python -m tests.simulation --from {seed} --seeds 1 -v"


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - _SLOW))
def test_a_broken_rule_is_noticed(name: str) -> None:
    """A rule that is broken on purpose makes the simulation fail."""
    verdict = first_failure(MUTATIONS[name], 0, _SAMPLE_SEEDS)
    assert verdict is not None, f"{MUTATIONS[name].rule}: not noticed within {_SAMPLE_SEEDS} seeds"


@pytest.mark.parametrize("name", sorted(_SLOW))
def test_a_rule_that_is_broken_elsewhere_is_still_there(name: str) -> None:
    """Rules whose breaking takes many seeds to show (`python -m tests.simulation --mutations`) can be broken."""
    original, broken = MUTATIONS[name].mutated()
    assert original.__code__.co_code != broken.__code__.co_code


def test_a_seed_is_the_same_in_every_process() -> None:
    """A seed that failed can be repeated: nothing depends on hash seeds, addresses or the machine's clock."""
    program = (
        "from tests.simulation.runs import run_seed; print(*(run_seed(s).fingerprint for s in (3, 6, 9)))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=_ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(runs) == 1
