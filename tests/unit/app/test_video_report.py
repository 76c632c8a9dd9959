"""What people are shown of a playlist."""

from __future__ import annotations

from typing import Any

import pytest

from adgovernor.app.video_report import offset_json, vmap_json, vmap_lines
from adgovernor.sessions.pods import as_read
from adgovernor.video.vmap import parse_offset, parse_vmap


def test_a_playlist_without_breaks_says_so() -> None:
    """Nothing to show is said, unless an error says why."""
    empty: dict[str, Any] = {"error": None, "message": "", "breaks": [], "warnings": []}
    assert list(vmap_lines(empty)) == ["no breaks"]
    assert list(vmap_lines({**empty, "error": 1000, "message": "no VMAP"})) == ["error 1000: no VMAP"]


def _lines_of(breaks: str) -> list[str]:
    """The lines for people of a playlist of these breaks."""
    document = parse_vmap(f'<VMAP version="1.0">{breaks}</VMAP>'.encode())
    return list(vmap_lines(vmap_json("playlist.xml", as_read(document))))


@pytest.mark.parametrize(
    "source", ["<AdSource/>", "<AdSource><AdTagURI/></AdSource>", "<AdSource><VASTAdData/></AdSource>"]
)
def test_a_break_whose_source_cannot_be_read_is_shown(source: str) -> None:
    """A source that holds nothing is shown with its error, and the breaks after it too."""
    lines = _lines_of(
        f'<AdBreak timeOffset="start" breakType="linear" breakId="a">{source}</AdBreak>'
        '<AdBreak timeOffset="end" breakType="linear" breakId="b"/>'
    )
    assert lines[0] == "break a at start: no source that can be read, no ad"
    assert lines[1].startswith("  error ")
    assert lines[2] == "break b at end: no source, no ad"


def test_a_break_without_id_or_time_is_shown() -> None:
    """What a break does not say is not shown as a word of the program's."""
    (line, error) = _lines_of('<AdBreak timeOffset="soon" breakType="linear"/>')
    assert line == "break without id at no time that can be read: no source, no ad"
    assert "timeOffset 'soon' is not start, end" in error


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("01:01:01.125", "3661.125 s"),
        ("99:59:59.001", "359999.001 s"),
        ("00:00:10", "10 s"),
        ("00:00:00", "0 s"),
    ],
)
def test_a_time_is_shown_to_the_millisecond(written: str, shown: str) -> None:
    """However late a break is, its time keeps its digits."""
    (line,) = _lines_of(f'<AdBreak timeOffset="{written}" breakType="linear" breakId="a"/>')
    assert line == f"break a at {shown}: no source, no ad"


@pytest.mark.parametrize("written", ["33.333333%", "0.5%", "100%", "0%"])
def test_a_share_keeps_its_digits(written: str) -> None:
    """A percentage is answered as it was written."""
    assert offset_json(parse_offset(written)) == written
