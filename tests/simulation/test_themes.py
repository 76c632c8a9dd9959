"""Runs that lean to one kind of situation each: nothing is wrong in any of them."""

from __future__ import annotations

import pytest
from tests.simulation.runs import check_clean
from tests.simulation.themes import THEMES


@pytest.mark.parametrize("theme", sorted(THEMES))
def test_every_seed_is_clean(theme: str) -> None:
    """Where a situation is met again and again, the auditor finds nothing wrong either."""
    check_clean(0, theme=theme)
