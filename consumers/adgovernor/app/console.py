"""What all commands share: settings, exit codes, and how results and errors are shown.

Exit codes: 0 well done; 1 something was found or failed (a bad line, a refused command, a halted shard); 2 what was
asked is wrong (arguments, files, settings); 3 a server cannot be used, trying again later may help. 130: interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import orjson
import typer

from adgovernor.contracts.errors import AdGovernorError, BadInput, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

    from adgovernor.app.settings import Settings
    from adgovernor.stores.redis import RedisStore

_T = TypeVar("_T")

EXIT_FOUND: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_UNAVAILABLE: Final = 3

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(slots=True)
class Invocation:
    """The options before the command's name."""

    config: Path | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        """The settings of this invocation. Raises `BadSettings`."""
        from adgovernor.app.settings import load

        return load(self.config, **self.given)


def settings_of(context: typer.Context, *, quiet: bool = True) -> Settings:
    """The settings, with logging set up by them; ``quiet``: warnings and errors only."""
    from adgovernor.app.logs import configure

    invocation = context.find_root().obj
    settings: Settings = (invocation if isinstance(invocation, Invocation) else Invocation()).settings()
    configure(
        settings.log_format, "warning" if quiet and settings.log_level == "info" else settings.log_level
    )
    return settings


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[RedisStore]:
    """The deployment's store, closed in the end. Raises `BadSettings`."""
    from adgovernor.stores.redis import RedisStore

    store = RedisStore(settings.redis.config(), settings.prefix)
    try:
        yield store
    finally:
        await store.close()


def exit_code(error: AdGovernorError) -> int:
    """The exit code that an error means."""
    if isinstance(error, BadInput):
        return EXIT_BAD_INPUT
    return EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_FOUND


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a command's work to its end."""
    import asyncio

    return asyncio.run(work)


def complain(message: str) -> None:
    """Says on standard error what is wrong."""
    typer.echo(message, err=True)


def print_json(value: Any) -> None:
    """One JSON document on one line of standard output, written at once, so that a pipe sees it."""
    typer.echo(orjson.dumps(value, default=_plain).decode())


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people. Numbers stand to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold")
    body = [[_cell(value) for value in row] for row in rows]
    for place, column in enumerate(columns):
        numeric = bool(body) and all(row[place].replace(".", "").isdigit() for row in body if row[place])
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    screen().print(table)


def screen() -> Console:
    """Where tables are shown: as wide as the terminal, and wide enough for any of them in a file or a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width, highlight=False, soft_wrap=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def counted(number: int, one: str) -> str:
    """So many of a thing, such as ``1 event`` and ``2 events``."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def money(micros: int, currency: str = "") -> str:
    """An amount for people: in units of the currency, with as many places as it needs, at least two."""
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    places = f"{micros % 1_000_000:06d}".rstrip("0").ljust(2, "0")
    return f"{sign}{micros // 1_000_000}.{places}{' ' + currency if currency else ''}"


def moment(time_ms: int) -> str:
    """A point in time for people, in UTC."""
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
