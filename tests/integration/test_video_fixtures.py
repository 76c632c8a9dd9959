"""The real VAST and VMAP files of the shared fixtures, through the commands and over HTTP on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ad_server import AdServer, Answer, ad_server
from typer.testing import CliRunner

from adgovernor.app.video_commands import vast_app, vmap_app

FIXTURES = Path(__file__).parents[2] / ".." / "shared" / "fixtures"

if not (FIXTURES / "expected.json").is_file():
    pytest.skip("../shared/fixtures is not here", allow_module_level=True)

EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())


@pytest.fixture(scope="module")
def server() -> Iterator[AdServer]:
    """The fixtures at http://t/, fluid's also at /static/."""
    routes: dict[str, Any] = {}
    for folder, mount in (("vast", "/"), ("vast/fluid", "/static/"), ("vmap", "/vmap/")):
        root = FIXTURES / folder
        for path in root.rglob("*.xml"):
            routes[mount + path.relative_to(root).as_posix()] = Answer(path.read_bytes())
    with ad_server(routes) as running:
        yield running


def run(app: Any, server: AdServer, *args: str) -> dict[str, Any]:
    """The command's JSON answer, ``t`` being the fixture server."""
    override = f"t=127.0.0.1:{server.port}"
    result = CliRunner().invoke(app, [*args, "--json", "--allow-private", "--resolve", override, "--no-fire"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize("case", EXPECTED["vast"], ids=lambda case: case["file"])
def test_a_real_vast_file_comes_out_as_expected(server: AdServer, case: dict[str, Any]) -> None:
    """Requests, ads, play order and fired errors are what the fixture says a correct program answers."""
    answer = run(vast_app, server, "resolve", case["entry"])
    keys = ("requests", "requested", "ads", "play_order", "errors_fired")
    assert {key: answer[key] for key in keys} == {key: case[key] for key in keys}


@pytest.mark.parametrize(
    "case", [c for c in EXPECTED["vmap"] if "breaks" in c], ids=lambda case: case["file"]
)
def test_a_real_vmap_file_shows_its_breaks(server: AdServer, case: dict[str, Any]) -> None:
    """Each break has the id, the offset and the ad or ad tag that the fixture names."""
    answer = run(vmap_app, server, "show", f"http://t/{case['file']}")
    assert [[b["breakId"], b["offset"], b["ad"]] for b in answer["breaks"]] == case["breaks"]


def test_the_old_namespace_and_an_undeclared_prefix_are_two_warnings(server: AdServer) -> None:
    """A VMAP of the old namespace whose VAST uses an undeclared prefix is accepted, with a warning for each."""
    answer = run(vmap_app, server, "show", "http://t/vmap/vmap-js/correct-vmap.xml")
    assert len(answer["warnings"]) == 2
    assert all(not found["warnings"] and found["error"] is None for found in answer["breaks"])
    first = answer["breaks"][0]
    assert first["trackers"]["breakEnd"] == ["http://server.com/breakend", "http://server.com/breakend2"]


def test_a_vast_root_is_shown_as_vast(server: AdServer) -> None:
    """A VAST document given to ``vmap show`` is shown with its ads, read and not followed."""
    answer = run(vmap_app, server, "show", "http://t/vmap/exoplayer/preroll.xml")
    (ad,) = answer["ads"]
    assert (answer["kind"], ad["id"], ad["impressions"], ad["duration"]) == ("VAST", "697203496", 0, 5.0)


def test_the_lines_for_people_name_every_ad(server: AdServer) -> None:
    """Without --json the same outcome is printed as lines."""
    override = f"t=127.0.0.1:{server.port}"
    args = ["resolve", "http://t/vcjs/wrapper-b.xml", "--allow-private", "--resolve", override, "--no-fire"]
    result = CliRunner().invoke(vast_app, args)
    assert result.exit_code == 0
    assert "2 documents requested" in result.stdout
    assert "plays ad_id_0002" in result.stdout
