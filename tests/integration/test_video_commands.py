"""The vast and vmap commands, as a person at a terminal uses them, against a server on loopback."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ad_server import AdServer, Answer, ad_server
from typer.testing import CliRunner, Result
from vast_documents import inline, vast, wrapper

from adgovernor.app.cli import app
from adgovernor.app.video_commands import vast_app, vmap_app

OPEN = b'<vmap:VMAP xmlns:vmap="http://www.iab.net/videosuite/vmap" version="1.0">'


@pytest.fixture
def server() -> Iterator[AdServer]:
    """A server that the commands know as ``t``."""
    with ad_server() as running:
        yield running


def run(app: Any, server: AdServer, *args: str, private: bool = True) -> Result:
    """The command with ``t`` mapped to *server*."""
    options = ["--resolve", f"t=127.0.0.1:{server.port}", *(["--allow-private"] if private else [])]
    return CliRunner().invoke(app, [*args, *options])


def answer_of(app: Any, server: AdServer, *args: str) -> dict[str, Any]:
    """The command's JSON."""
    result = run(app, server, *args, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def ad_break(attributes: str, source: str, error: str | None = None) -> bytes:
    """One break with *source* in its AdSource."""
    tracking = (
        ""
        if error is None
        else (
            f'<vmap:TrackingEvents><vmap:Tracking event="error"><![CDATA[{error}]]></vmap:Tracking>'
            "</vmap:TrackingEvents>"
        )
    )
    return f"<vmap:AdBreak {attributes}><vmap:AdSource>{source}</vmap:AdSource>{tracking}</vmap:AdBreak>".encode()


def tag(uri: str, template: str = "vast3") -> str:
    """An AdTagURI."""
    return f'<vmap:AdTagURI templateType="{template}"><![CDATA[{uri}]]></vmap:AdTagURI>'


def playlist(*breaks: bytes) -> Answer:
    """A VMAP answer."""
    return Answer(OPEN + b"".join(breaks) + b"</vmap:VMAP>")


def test_errors_are_really_told(server: AdServer) -> None:
    """What errors_fired lists has been requested, resolved against its document; --no-fire leaves it."""
    body = vast(
        "<Ad><Wrapper><VASTAdTagURI>/gone</VASTAdTagURI><Error>/e?c=[ERRORCODE]</Error></Wrapper></Ad>"
    )
    server.routes["/dir/a.xml"] = Answer(body)
    found = answer_of(vast_app, server, "resolve", "http://t/dir/a.xml")
    assert found["errors_fired"] == [{"code": 301, "urls": ["/e?c=301"]}]
    assert server.paths == ["/dir/a.xml", "/gone", "/e?c=301"]
    answer_of(vast_app, server, "resolve", "http://t/dir/a.xml", "--no-fire")
    assert server.paths.count("/e?c=301") == 1


def test_private_addresses_need_permission(server: AdServer) -> None:
    """Without --allow-private the loopback server is not contacted, mapped or not."""
    server.routes["/a"] = Answer(vast(inline("1")))
    result = run(vast_app, server, "resolve", "http://t/a", "--json", private=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["errors_fired"] == [{"code": 301, "urls": []}]
    assert server.seen == []


def test_a_file_is_resolved_like_an_address(server: AdServer, tmp_path: Path) -> None:
    """A document on disk may wrap one on the network; a relative address in it leads nowhere."""
    server.routes["/b"] = Answer(vast(inline("1")))
    path = tmp_path / "a.xml"
    path.write_bytes(vast(wrapper("w", "http://t/b"), wrapper("r", "c.xml")))
    found = answer_of(vast_app, server, "resolve", str(path), "--no-fire")
    assert found["play_order"] == ["1"]
    assert [error["code"] for error in found["errors_fired"]] == [301]
    assert found["requests"] == 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["resolve", "no-such-file.xml"], "neither an http(s) address nor a file"),
        (["resolve", "http://t/", "--resolve", "nonsense"], "HOST=ADDRESS:PORT"),
        (["resolve", "http://t/", "--cacert", "no-such.pem"], "does not exist"),
    ],
)
def test_mistakes_are_explained(args: list[str], says: str) -> None:
    """A wrong argument ends with code 2 and says what was expected."""
    result = CliRunner().invoke(app, ["vast", *args], env={"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exit_code == 2
    assert says in result.output


def test_authorities_that_are_none_are_explained(tmp_path: Path) -> None:
    """A --cacert file without certificates is a wrong setting, not a crash."""
    (tmp_path / "junk.pem").write_bytes(b"no certificate")
    args = ["vast", "resolve", "http://t/", "--cacert", str(tmp_path / "junk.pem")]
    result = CliRunner().invoke(app, args, env={"COLUMNS": "400", "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exit_code == 2
    assert "holds no certificates in PEM form" in result.output


def test_a_document_may_come_through_a_pipe(server: AdServer, tmp_path: Path) -> None:
    """What a shell offers as a file, though it is none, is read like one."""
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(vast(inline("1")),))
    writing.start()
    assert answer_of(vast_app, server, "resolve", str(tmp_path / "pipe"))["play_order"] == ["1"]
    writing.join()


def test_a_large_file_of_one_s_own_is_read_whole(server: AdServer, tmp_path: Path) -> None:
    """What would be refused of a server, thousands of ads in one document, is shown from disk."""
    (tmp_path / "a.xml").write_bytes(vast(*(inline(str(n)) for n in range(6_000))))
    assert len(answer_of(vast_app, server, "resolve", str(tmp_path / "a.xml"))["ads"]) == 6_000


def test_a_scheme_that_is_not_http_is_unavailable() -> None:
    """The command asks nothing of ftp or file addresses."""
    result = CliRunner().invoke(vast_app, ["resolve", "ftp://h/x", "--json"])
    assert json.loads(result.stdout)["errors_fired"] == [{"code": 301, "urls": []}]


def test_vmap_show_requests_the_playlist_alone(server: AdServer) -> None:
    """Without --fetch no ad tag is asked."""
    server.routes["/v"] = playlist(
        ad_break('timeOffset="25%" breakType="linear" breakId="a"', tag("http://t/ad")),
        ad_break(
            'timeOffset="#2" breakType="nonlinear" breakId="b"', "<vmap:CustomAdData>x</vmap:CustomAdData>"
        ),
    )
    found = answer_of(vmap_app, server, "show", "http://t/v")
    assert [(b["breakId"], b["offset"], b["ad"], b["source"]["kind"]) for b in found["breaks"]] == [
        ("a", "25%", "AdTagURI http://t/ad", "AdTagURI"),
        ("b", "#2", None, "CustomAdData"),
    ]
    assert server.paths == ["/v"]


def test_vmap_fetch_adds_ads_or_codes(server: AdServer) -> None:
    """--fetch asks each tag: ads where there are any, else VMAP's or VAST's own code, told to the break."""
    server.routes |= {
        "/ok": Answer(vast(inline("2", 2), inline("1", 1))),
        "/none": Answer(vast()),
        "/broken": Answer(b"<VAST"),
        "/html": Answer(b"<html/>"),
        "/old": Answer(vast(version="1.0")),
    }
    error = "http://t/told/[ERROR_CODE]/[ERRORCODE]"
    breaks = [
        ad_break('timeOffset="start" breakType="linear"', tag(uri), error)
        for uri in ("/ok", "/none", "/broken", "/html", "/old", "/gone")
    ]
    breaks.append(ad_break('timeOffset="end" breakType="linear"', tag("/x", "proprietary"), error))
    text = f"<![CDATA[{vast(inline('text')).decode()}]]>"
    custom = f'<vmap:CustomAdData templateType="vast2">{text}</vmap:CustomAdData>'
    breaks.append(ad_break('timeOffset="end" breakType="linear"', custom, error))
    server.routes["/v"] = playlist(*breaks)
    found = answer_of(vmap_app, server, "show", "http://t/v", "--fetch")
    assert [found["error"] for found in found["breaks"]] == [None, 303, 1006, 1006, 102, 1008, 1005, None]
    assert found["breaks"][0]["ads"] == ["1", "2"]
    assert found["breaks"][7]["ads"] == ["text"]
    assert found["breaks"][5]["errors_fired"] == [{"code": 1008, "urls": ["http://t/told/1008/1008"]}]
    told = [path for path in server.paths if path.startswith("/told/")]
    assert sorted(told) == sorted(f"/told/{code}/{code}" for code in (303, 1006, 1006, 102, 1008, 1005))


def test_a_single_ad_source_plays_one_ad(server: AdServer) -> None:
    """allowMultipleAds="false" on a source takes the first stand-alone ad, or else the pod's first."""
    pod = vast(inline("2", 2), inline("1", 1))
    buffet = vast(inline("p", 1), inline("a"), inline("b"))
    sources = "".join(
        '<vmap:AdBreak timeOffset="start" breakType="linear"><vmap:AdSource allowMultipleAds="false"><vmap:VASTAdData>'
        f"{body.decode()}</vmap:VASTAdData></vmap:AdSource></vmap:AdBreak>"
        for body in (pod, buffet)
    )
    server.routes["/v"] = playlist(sources.encode())
    for args in (["show", "http://t/v"], ["show", "http://t/v", "--fetch"]):
        found = answer_of(vmap_app, server, *args)
        assert [found["ads"] for found in found["breaks"]] == [["1"], ["a"]]


def test_wrappers_inside_a_break_are_followed_with_fetch(server: AdServer) -> None:
    """VASTAdData with a Wrapper is resolved; followRedirects="false" ignores it."""
    server.routes["/b"] = Answer(vast(inline("1")))
    breaks = "".join(
        f'<vmap:AdBreak timeOffset="start" breakType="linear"><vmap:AdSource {follow}><vmap:VASTAdData>'
        f"{vast(wrapper('w', 'http://t/b')).decode()}</vmap:VASTAdData></vmap:AdSource></vmap:AdBreak>"
        for follow in ("", 'followRedirects="false"')
    )
    server.routes["/v"] = playlist(breaks.encode())
    found = answer_of(vmap_app, server, "show", "http://t/v", "--fetch", "--no-fire")
    assert [(found["ads"], found["error"]) for found in found["breaks"]] == [(["1"], None), ([], 303)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"<html/>", 200, 1000), (b"<x", 200, 1002), (b'<VMAP version="3"/>', 200, 1001), (b"", 500, 1008)],
)
def test_a_playlist_that_cannot_be_read_has_a_code(
    server: AdServer, body: bytes, status: int, code: int
) -> None:
    """Any other root is 1000, malformed XML 1002, another version 1001, an error status 1008."""
    server.routes["/v"] = Answer(body, status)
    found = answer_of(vmap_app, server, "show", "http://t/v")
    assert (found["error"], found["breaks"]) == (code, [])


def test_a_vast_root_is_followed_with_fetch(server: AdServer) -> None:
    """vmap show --fetch of a VAST document resolves it; without it the Wrapper is only shown."""
    server.routes |= {"/a": Answer(vast(wrapper("w", "b"))), "/b": Answer(vast(inline("1")))}
    read = answer_of(vmap_app, server, "show", "http://t/a")
    assert (read["kind"], read["ads"]) == ("VAST", [])
    assert read["wrappers"] == [{"id": "w", "sequence": None, "url": "b"}]
    followed = answer_of(vmap_app, server, "show", "http://t/a", "--fetch")
    assert (followed["kind"], followed["play_order"]) == ("VAST", ["1"])


def test_a_vast_root_of_a_wrong_version_has_a_code(server: AdServer) -> None:
    """A VAST document that cannot be used is shown with VAST's code."""
    server.routes["/a"] = Answer(vast(version="9.0"))
    assert answer_of(vmap_app, server, "show", "http://t/a")["errors_fired"] == [{"code": 102, "urls": []}]


def test_lines_for_people(server: AdServer) -> None:
    """The printed form tells the same story."""
    server.routes |= {
        "/a": Answer(vast(wrapper("w", "b"), inline("2", extra='<Category authority="x">cat</Category>'))),
        "/b": Answer(b""),
        "/v": playlist(ad_break('timeOffset="00:00:75" breakType="linear" breakId="mid"', tag("/a"))),
    }
    text = run(vast_app, server, "resolve", "http://t/a", "--no-fire").stdout
    assert "categories cat" in text
    assert "error 100" in text
    assert "Error http://e/w?100" in text
    server.routes["/none"] = Answer(vast())
    assert run(vmap_app, server, "show", "http://t/none").stdout == "no ads\n"
    text = run(vmap_app, server, "show", "http://t/v", "--fetch", "--no-fire").stdout
    assert "break mid at 75 s: AdTagURI, 2" in text
    assert "warning: timeOffset" in text
