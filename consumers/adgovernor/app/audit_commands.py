"""``adgovernor audit``: prove a deployment's history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer

from adgovernor.app.console import EXIT_FOUND, AsJson, run_async, screen, settings_of

if TYPE_CHECKING:
    from rich.table import Table

    from adgovernor.app.settings import Settings
    from adgovernor.audit.report import Report

_NOTES_SHOWN: Final = 8
"""A deployment that works has messages under way between most pairs of shards."""


def audit(
    context: typer.Context,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="Prove a copied history (see --copy-to) instead of Kafka's.")
    ] = None,
    copy_to: Annotated[
        Path | None,
        typer.Option("--copy-to", help="Copy the whole history to this folder, and prove the copy."),
    ] = None,
    store: Annotated[bool, typer.Option(help="Compare Redis with the ledger, too.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that follow shards at the same time.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Prove every decision and every cent from the ledger; 0 where all holds, 1 where something does not.

    Reads the ledgers and the public topics from their beginnings, proves the chain, decides everything again and
    compares: bytes, inputs, outputs, side messages, money, and the state in Redis.

    Example: adgovernor audit --jobs 4 --json | jq .findings
    """
    settings = settings_of(context)
    report = run_async(_audit(settings, from_folder, copy_to, jobs, with_store=store and from_folder is None))
    if as_json:
        typer.echo(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2).decode())
    else:
        show(report)
    if not report.green:
        raise typer.Exit(EXIT_FOUND)


async def _audit(
    settings: Settings, from_folder: Path | None, copy_to: Path | None, jobs: int, *, with_store: bool
) -> Report:
    from adgovernor.audit.apart import Apart, Source
    from adgovernor.audit.history import KafkaHistory, copy
    from adgovernor.audit.verify import audit as prove
    from adgovernor.runtime.collector import Collector

    kafka, prefix = settings.kafka.connection(), settings.prefix
    if copy_to is not None and from_folder is None:
        async with KafkaHistory(kafka, prefix) as history:
            await copy(history, copy_to)
    redis = settings.redis.config() if with_store else None
    source = Source(prefix, kafka, from_folder or copy_to, redis)
    collector = Collector()
    try:
        async with source.opened() as (read, store):
            apart = Apart(source, jobs) if jobs > 1 else None
            return await prove(read, prefix, store, collector=collector, apart=apart)
    finally:
        collector.close()


def show(report: Report) -> None:
    """Prints a report for a person."""
    from rich.markup import escape

    console = screen()
    console.print(_checks(report))
    for finding in report.findings:
        console.print(f"[bold red]{finding.check}[/] {escape(finding.place)}: ", end="")
        console.print(finding.message, markup=False)
    if report.campaigns:
        console.print(_campaigns(report))
    for note in report.notes[:_NOTES_SHOWN]:
        console.print(f"note: {note}", markup=False)
    if len(report.notes) > _NOTES_SHOWN:
        console.print(f"and {len(report.notes) - _NOTES_SHOWN} notes more; --json has them all")
    console.print(", ".join(f"{number} {what}" for what, number in report.counted.items()), markup=False)
    console.print("[bold green]green[/]: every number agrees" if report.green else "[bold red]red[/]")


def _checks(report: Report) -> Table:
    from rich.table import Table

    from adgovernor.audit.report import CHECKS

    table = Table(title="Audit", title_justify="left")
    table.add_column("check")
    table.add_column("proves")
    table.add_column("result")
    for name, proves in CHECKS.items():
        if report.found[name]:
            result = f"[red]{report.found[name]} findings[/]"
        elif name in report.skipped:
            result = f"skipped: {report.skipped[name]}"
        else:
            result = "[green]holds[/]"
        table.add_row(name, proves, result)
    return table


def _campaigns(report: Report) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from adgovernor.contracts.money import decimal_of

    table = Table(title="topped up = unleased + in flight + lease + reserved + spent", title_justify="left")
    names = ("topped_up", "unleased", "in_flight", "lease", "reserved", "spent", "unfunded")
    table.add_column("campaign")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for campaign, row in sorted(report.campaigns.items()):
        table.add_row(escape(campaign), *(str(decimal_of(row[f"{name}_micros"])) for name in names))
    return table
