"""``adgovernor schemas``: the contracts as JSON Schemas and as an AsyncAPI document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adgovernor.app.console import AsJson, print_json

schemas_app = typer.Typer(no_args_is_help=True)


@schemas_app.callback()
def _schemas() -> None:
    """JSON Schemas and the AsyncAPI document of the public topics."""


@schemas_app.command("export")
def export_schemas(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to; made where it does not exist.")],
    as_json: AsJson = False,
) -> None:
    """Write a JSON Schema for each topic and the AsyncAPI 3.0 document of all of them.

    Example: adgovernor schemas export build/schemas
    """
    from adgovernor.contracts.errors import BadInput
    from adgovernor.contracts.export import export

    try:
        written = export(folder)
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror}") from error
    if as_json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        typer.echo(str(path))
