"""`adgovernor pods`: what a request's ad pods look like, and how bids would fill them. Offline, no servers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import orjson
import typer

from adgovernor.app.console import AsJson
from adgovernor.app.pods_plan import plan, summary
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.openrtb import parse_request, parse_response
from adgovernor.contracts.openrtb_documents import BadOpenRtb
from adgovernor.core.podfill import Separation

_Parsed = TypeVar("_Parsed")

pods_app = typer.Typer(help="Plan ad pods offline.", no_args_is_help=True)

_SEPARATIONS: dict[str, Separation] = {"pod": "pod", "adjacent": "adjacent", "none": "none"}


@pods_app.callback()
def _pods() -> None:
    """Plan ad pods offline."""


@pods_app.command("plan")
def plan_command(
    request: Annotated[
        Path,
        typer.Argument(
            help="An OpenRTB 2.5/2.6 bid request, or a Prebid test document; `-` is standard input."
        ),
    ],
    bids: Annotated[
        Path | None,
        typer.Option("--bids", help="A bid response to fill the pods from, or a Prebid test document."),
    ] = None,
    separation: Annotated[
        str,
        typer.Option(
            help="Ads of one advertiser or category: pod (once a pod), adjacent (not side by side) or none. "
            "A request's own poddedupe comes first."
        ),
    ] = "pod",
    as_json: AsJson = False,
) -> None:
    """Show the pods that a request offers and, with --bids, their most valuable lawful fill.

    Example: adgovernor pods plan bid-request.json --bids bid-response.json
    """
    if separation not in _SEPARATIONS:
        raise typer.BadParameter("give pod, adjacent or none", param_hint="--separation")
    asked = _read(request, parse_request)
    answered = None if bids is None else _read(bids, parse_response)
    result = plan(asked, answered, _SEPARATIONS[separation])
    if as_json:
        typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
        return
    for line in summary(result):
        typer.echo(line)


def _read(path: Path, parse: Callable[[bytes], _Parsed]) -> _Parsed:
    """What a file says. An error names the file before the field that is wrong."""
    if str(path) == "-" and sys.stdin is not None:
        name, content = "standard input", sys.stdin.buffer.read()
    else:
        try:
            name, content = str(path), path.read_bytes()
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}; give a file that can be read") from error
    try:
        return parse(content)
    except BadOpenRtb as error:
        raise BadInput(f"{name}: {error}") from error
