"""``adgovernor simulate``: what would have happened, from two files and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer


def simulate(
    campaigns: Annotated[
        Path, typer.Option(help="Campaigns, accounts or commands: JSON lines, or one JSON array.")
    ],
    events: Annotated[
        Path,
        typer.Option(
            help="Ad requests, impressions, user events and commands, in order: JSON lines or an array."
        ),
    ],
    auto_impressions: Annotated[
        bool, typer.Option("--auto-impressions", help="Show each filled slot at its request's time, at once.")
    ] = False,
    shards: Annotated[int, typer.Option(min=1, max=1024, help="How many user shards and treasuries.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; the last one is the totals.")
    ] = False,
) -> None:
    """Run events through the engine without servers: what would have been decided, spent, paused?

    The same rules as live, with time taken from the events. Before the next event all side messages are delivered, and
    money that it may want is leased. Money of ads that were not shown in time is kept back for late impressions only
    where the file has late ones.

    Example: adgovernor simulate --campaigns campaigns.jsonl --events events.jsonl --auto-impressions
    """
    from adgovernor.app.simulate_view import View
    from adgovernor.audit.lines import opened
    from adgovernor.audit.whatif import EVENT_NAMES, WhatIf, comes_late

    out = sys.stdout.buffer
    view = View()
    with opened(campaigns) as definitions, opened(events) as happenings:
        # Both are read before anything is said: a file that cannot be read is not found out half-way.
        late = comes_late(definitions, happenings)
        run = WhatIf.begin(shards, auto_impressions=auto_impressions, late=late)
        for source in (run.campaigns(definitions), run.events(happenings)):
            for topic, body in source:
                name = EVENT_NAMES.get(topic, topic)
                if as_json:
                    out.write(orjson.dumps({"type": name, **_whole(topic, body)}) + b"\n")
                else:
                    view.event(name, body)
    totals = run.finish()
    if as_json:
        out.write(orjson.dumps({"type": "totals", **totals}) + b"\n")
        out.flush()
    else:
        view.totals(totals)
    for complaint in run.rejected:
        typer.echo(f"rejected: {complaint}", err=True)
    if run.rejected:
        raise typer.Exit(1)


def _whole(topic: str, body: dict[str, Any]) -> dict[str, Any]:
    """An event with the fields that messages leave out because they are as usual, as ``watch`` prints it."""
    from adgovernor.contracts.catalogue import CATALOGUE

    contract = CATALOGUE.get(topic)
    if contract is None:  # A dead letter is no event of ours.
        return body
    event = contract.parse(orjson.dumps(body))
    whole: dict[str, Any] = event.model_dump(mode="json", exclude_none=True)
    return whole
