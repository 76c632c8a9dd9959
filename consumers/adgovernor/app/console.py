"""What all commands share: settings, exit codes, and how results and errors are shown.

Exit codes: 0 well done; 1 something was found or failed (a bad line, a refused command, a halted shard); 2 what was
asked is wrong (arguments, files, settings); 3 a server cannot be used, trying again later may help. 130: interrupted;
141: nobody reads any more what is printed, as after ``| head -1``, so it was not done to its end.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
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
EXIT_UNREAD: Final = 141

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(slots=True)
class Invocation:
    """The options before the command's name."""

    config: Path | None = None
    given: dict[str, Any] = field(default_factory=dict)
    kafka_said: list[str] = field(default_factory=list)
    """What the Kafka client has logged since it was told to be quiet."""
    hushed: ExitStack = field(default_factory=ExitStack)
    """Ends the client's silence."""

    def settings(self) -> Settings:
        """The settings of this invocation. Raises `BadSettings`."""
        from adgovernor.app.settings import load

        return load(self.config, **self.given)


def settings_of(context: typer.Context, *, quiet: bool = True) -> Settings:
    """The settings, with logging set up by them; ``quiet``: warnings and errors only, and what the Kafka client logs is
    kept for the message of an error, unless ``log_level`` is ``debug``."""
    from adgovernor.app.logs import captured, configure

    root = context.find_root()
    invocation = root.obj if isinstance(root.obj, Invocation) else Invocation()
    settings = invocation.settings()
    configure(
        settings.log_format, "warning" if quiet and settings.log_level == "info" else settings.log_level
    )
    if quiet and settings.log_level != "debug":
        root.call_on_close(invocation.hushed.close)
        invocation.kafka_said = invocation.hushed.enter_context(captured("aiokafka"))
    return settings


def hear_kafka(context: typer.Context) -> None:
    """From here on the Kafka client's log is shown: a command that goes on for long has reached its servers."""
    invocation = context.find_root().obj
    if isinstance(invocation, Invocation):
        invocation.hushed.close()


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

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise  # It is the same as with all else that is printed, see `cli.CommandTree.invoke`.

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Screen(width=width, highlight=False, soft_wrap=True)


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is gone, as after ``| head -1``."""
    try:
        told = select.poll()
        told.register(sys.stdout.fileno(), 0)  # That the other end is gone is told unasked.
    except (OSError, ValueError):
        return False  # No file of the system's, so it has no other end.
    return bool(told.poll(0))


def leave_unsaid() -> None:
    """Lets what was printed and has not gone out go nowhere: writing it once more would only fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
