"""The engine and the cores in a simulated world: the first half of the seeds, each of which must be clean."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.runs import BATCH, SEEDS, check_clean

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, SEEDS // 2, BATCH))
def test_every_seed_is_clean(first: int) -> None:
    """Whatever befalls workers, log and store: the auditor finds nothing wrong, and everything comes to rest."""
    check_clean(first)


def test_a_seed_is_the_same_in_every_process() -> None:
    """A seed that failed can be repeated: nothing depends on hash seeds, addresses or the machine's clock."""
    program = (
        "from tests.simulation.runs import run_seed; print(*(run_seed(s).fingerprint for s in (3, 6, 9)), "
        "run_seed(480, sealed=True, theme='losses').fingerprint)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=_ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(runs) == 1
