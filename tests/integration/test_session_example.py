"""The examples of sessions that need no servers run as their documentation says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


def test_the_session_example_plays_an_ad_and_tells_both_servers() -> None:
    """The ad behind the Wrapper plays, and each party hears of the impression once."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "session_vast_chain.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "brand-1: 30000 ms behind 1 wrapper" in done.stdout
    for told in ("/exchange/impression?t=", "/brand/impression?ad=brand-0001&tx=", "/brand/start"):
        assert done.stdout.count(told) == 1


def test_the_example_beside_a_stream_runs_in_one_process() -> None:
    """Caps, money and the session's state come from the deployment in the process."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "session_beside_stream.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-2:] == ["bob: 3 requests, 1 impressions", "spent: 0.06 EUR"]
