"""The other half of the seeds, in a file of its own so that two processes can share them."""

from __future__ import annotations

import pytest
from tests.simulation.runs import BATCH, SEEDS, check_clean


@pytest.mark.parametrize("first", range(SEEDS // 2, SEEDS, BATCH))
def test_every_seed_is_clean(first: int) -> None:
    """Whatever befalls workers, log and store: the auditor finds nothing wrong, and everything comes to rest."""
    check_clean(first)
