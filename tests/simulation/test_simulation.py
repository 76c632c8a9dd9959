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
_SAMPLE_SEEDS = 25
"""Mutations that so many seeds notice are broken in every run of the tests; `--mutations` breaks all of them."""
_SLOW = {"placeholder"}


@pytest.mark.parametrize("first", range(0, _SEEDS, _BATCH))
def test_every_seed_is_clean(first: int) -> None:
    """Whatever befalls workers, log and store: the auditor finds nothing wrong, and everything comes to rest."""
    for seed in range(first, first + _BATCH):
        problems = run_seed(seed).problems
        assert not problems, f"seed {seed}; again: python -m tests.simulation --from {seed} --seeds 1 -v"


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_broken_rule_is_noticed(name: str) -> None:
    """A rule that is broken on purpose makes the simulation fail."""
    if name in _SLOW:
        MUTATIONS[name].mutated()
        pytest.skip(f"takes more than {_SAMPLE_SEEDS} seeds: python -m tests.simulation --mutations {name}")
    verdict = first_failure(MUTATIONS[name], 0, _SAMPLE_SEEDS)
    assert verdict is not None, f"{MUTATIONS[name].rule}: not noticed within {_SAMPLE_SEEDS} seeds"


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
