"""What people are shown of a playlist."""

from __future__ import annotations

from typing import Any

from adgovernor.app.video_report import vmap_lines


def test_a_playlist_without_breaks_says_so() -> None:
    """Nothing to show is said, unless an error says why."""
    empty: dict[str, Any] = {"error": None, "message": "", "breaks": [], "warnings": []}
    assert list(vmap_lines(empty)) == ["no breaks"]
    assert list(vmap_lines({**empty, "error": 1000, "message": "no VMAP"})) == ["error 1000: no VMAP"]
