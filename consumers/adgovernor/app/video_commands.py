"""``adgovernor vast`` and ``adgovernor vmap``: look at what an ad tag comes to."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from adgovernor.app.console import AsJson
from adgovernor.app.fetching import AllowPrivate, CaFile, Overrides, policy_of
from adgovernor.app.video_report import (
    document_json,
    resolution_json,
    resolution_lines,
    vmap_json,
    vmap_lines,
)
from adgovernor.sessions.addresses import AddressPolicy
from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.errors import FetchError, FetchTimeoutError
from adgovernor.sessions.fetch import Fetched, Fetcher, FetchLimits
from adgovernor.sessions.httpx_transport import HttpxTransport
from adgovernor.sessions.pods import VmapOutcome, as_read, follow_breaks
from adgovernor.sessions.request_macros import RequestMacros
from adgovernor.sessions.resolver import ChainLimits, ChainResolver, FiredError
from adgovernor.sessions.retry import NO_RETRY
from adgovernor.sessions.tracking import TrackingLimits, TrackingSender
from adgovernor.video import VastFormatError, VmapError, VmapFormatError, expand, read_vast
from adgovernor.video.vast import is_vast_root
from adgovernor.video.vmap import BreakFault, parse_xml_of_vmap, read_vmap
from adgovernor.video.xmltree import XmlDocument

vast_app = typer.Typer(help="Resolve VAST ad tags.", no_args_is_help=True)
vmap_app = typer.Typer(help="Show VMAP ad breaks.", no_args_is_help=True)

# One tag, or a file of one's own, may hold as much as memory does.
_LIMITS = ChainLimits(max_xml_bytes=2**40, max_breaks=10_000)
# Somebody waits at a terminal: an error address that does not answer soon is left.
_TRACKING_TIMEOUT_MS = 2_000

Source = Annotated[str, typer.Argument(metavar="URL|FILE", help="An http(s) address, or a file.")]
Fire = Annotated[
    bool, typer.Option("--fire/--no-fire", help="Tell the Error addresses what went wrong, as a player does.")
]


@dataclass(frozen=True, slots=True)
class _Options:
    source: str
    policy: AddressPolicy
    ca_file: Path | None
    fire: bool


@vast_app.callback()
def _vast() -> None:
    """Resolve VAST ad tags."""


@vmap_app.callback()
def _vmap() -> None:
    """Show VMAP ad breaks."""


@vast_app.command("resolve")
def vast_resolve(
    source: Source,
    as_json: AsJson = False,
    allow_private: AllowPrivate = False,
    resolve: Overrides = None,
    cacert: CaFile = None,
    fire: Fire = True,
) -> None:
    """Follow a VAST tag through its wrappers and show the ads, what plays, and the errors.

    A tag that comes to nothing is an answer too: its errors are shown and the exit code is 0.

    Example: adgovernor vast resolve https://ads.example/tag --no-fire
    """
    options = _options(source, allow_private, resolve, cacert, fire)
    answer = asyncio.run(_resolve(options))
    _print(answer, as_json, resolution_lines)


@vmap_app.command("show")
def vmap_show(
    source: Source,
    as_json: AsJson = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Request the ads of each break.")] = False,
    allow_private: AllowPrivate = False,
    resolve: Overrides = None,
    cacert: CaFile = None,
    fire: Fire = True,
) -> None:
    """Show the ad breaks of a VMAP document; a VAST document is shown as VAST.

    Only the document itself is requested, unless --fetch is given.

    Example: adgovernor vmap show playlist.xml --fetch
    """
    options = _options(source, allow_private, resolve, cacert, fire and fetch)
    answer = asyncio.run(_show(options, fetch))
    _print(answer, as_json, resolution_lines if answer.get("kind") == "VAST" else vmap_lines)


def _options(
    source: str, allow_private: bool, resolve: list[str] | None, cacert: Path | None, fire: bool
) -> _Options:
    policy = policy_of(allow_private, resolve)
    if not _is_url(source) and (not Path(source).exists() or Path(source).is_dir()):
        raise typer.BadParameter(
            f"{source!r} is neither an http(s) address nor a file", param_hint="URL|FILE"
        )
    return _Options(source, policy, cacert, fire)


def _is_url(source: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def _print(answer: dict[str, Any], as_json: bool, lines: Any) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        for line in lines(answer):
            typer.echo(line)


def _read_file(path: Path) -> Fetched:
    try:
        return Fetched(path.absolute().as_uri(), 200, path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="URL|FILE") from error


class _Session:
    """What one run of a command needs: a session's fetcher, macros and sender."""

    def __init__(self, options: _Options) -> None:
        self.options = options
        self.macros = RequestMacros(SessionContext.create())
        self.transport = HttpxTransport(options.policy, ca_file=options.ca_file)
        self.fetcher = Fetcher(self.transport)
        self.resolver = ChainResolver(self.fetcher, _LIMITS)

    async def entry(self) -> Fetched:
        """The document that was asked for; raises FetchError."""
        if _is_url(self.options.source):
            return await self.fetcher.fetch(expand(self.options.source, self.macros()))
        return await asyncio.to_thread(_read_file, Path(self.options.source))

    async def tell(self, errors: list[FiredError]) -> None:
        """Fire the Error addresses, within a bounded time."""
        if not self.options.fire or not any(error.uris for error in errors):
            return
        limits = FetchLimits(hop_timeout_ms=_TRACKING_TIMEOUT_MS, max_body_bytes=65_536)
        fetcher = Fetcher(self.transport, limits, self.fetcher.cookies)
        bounds = TrackingLimits(close_timeout_ms=_TRACKING_TIMEOUT_MS)
        async with TrackingSender(fetcher, self.macros, retry=NO_RETRY, limits=bounds) as sender:
            sender.fire_errors(errors, uuid.uuid4())


async def _resolve(options: _Options) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        session = _Session(options)
        stack.push_async_callback(session.transport.aclose)
        if _is_url(options.source):
            resolution = await session.resolver.resolve(options.source, session.macros)
        else:
            resolution = await session.resolver.resolve_fetched(await session.entry(), session.macros)
        await session.tell(list(resolution.errors))
        return resolution_json(options.source, resolution)


async def _show(options: _Options, fetch: bool) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        session = _Session(options)
        stack.push_async_callback(session.transport.aclose)
        try:
            fetched = await session.entry()
        except FetchError as error:
            timed_out = isinstance(error, FetchTimeoutError)
            code = VmapError.RESPONSE_TIMEOUT if timed_out else VmapError.RESPONSE_RETRIEVAL
            return vmap_json(options.source, VmapOutcome(fault=BreakFault(code, str(error))))
        return await _show_document(session, fetched, fetch)


async def _show_document(session: _Session, fetched: Fetched, fetch: bool) -> dict[str, Any]:
    source = session.options.source
    try:
        tree = parse_xml_of_vmap(fetched.body, fetched.charset)
        if is_vast_root(tree.root):
            return await _show_vast(session, fetched, tree, fetch)
        document = read_vmap(tree)
    except VmapFormatError as error:
        return vmap_json(source, VmapOutcome(fault=BreakFault(error.code, str(error))))
    if not fetch:
        return vmap_json(source, as_read(document))
    outcome = await follow_breaks(document, fetched.url, session.resolver, session.macros)
    await session.tell(list(outcome.errors))
    return vmap_json(source, outcome)


async def _show_vast(session: _Session, fetched: Fetched, tree: XmlDocument, fetch: bool) -> dict[str, Any]:
    if fetch:
        resolution = await session.resolver.resolve_fetched(fetched, session.macros)
        await session.tell(list(resolution.errors))
        return {**resolution_json(session.options.source, resolution), "kind": "VAST"}
    prefixes = tuple(f"undeclared namespace prefix {prefix!r}" for prefix in tree.undeclared_prefixes)
    try:
        return document_json(session.options.source, read_vast(tree.root, prefixes))
    except VastFormatError as error:
        failed: dict[str, Any] = {
            "entry": session.options.source,
            "kind": "VAST",
            "version": None,
            "ads": [],
            "wrappers": [],
        }
        return {
            **failed,
            "warnings": list(prefixes),
            "errors_fired": [{"code": int(error.code), "urls": []}],
            "messages": [str(error)],
        }
