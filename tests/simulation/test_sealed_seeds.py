"""Sealed ledgers in a simulated world: some seeds, each of which must be clean."""

from __future__ import annotations

import pytest
from tests.simulation.runs import BATCH, check_clean

_SEEDS = 100
"""More are run with ``python -m tests.simulation --sealed``."""


@pytest.mark.parametrize("first", range(0, _SEEDS, BATCH))
def test_every_sealed_seed_is_clean(first: int) -> None:
    """Whatever befalls workers, logs and store: keys end when they must and not before, and no cent is lost."""
    check_clean(first, sealed=True)
