"""The session example runs as its documentation says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "session_vast_chain.py"


def test_the_session_example_plays_an_ad_and_tells_both_servers() -> None:
    """The ad behind the Wrapper plays, and each party hears of the impression once."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "brand-1: 30000 ms behind 1 wrapper" in done.stdout
    for told in ("/exchange/impression?t=", "/brand/impression?ad=brand-0001&tx=", "/brand/start"):
        assert done.stdout.count(told) == 1
