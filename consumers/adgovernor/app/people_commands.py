"""``adgovernor people``: what a person may ask of a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from adgovernor.app.console import AsJson, counted, print_json, run_async, settings_of
from adgovernor.contracts import topics
from adgovernor.stores.clock import wall_clock_ms

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings

people_app = typer.Typer(no_args_is_help=True)

RoutingIds = Annotated[
    list[str],
    typer.Argument(metavar="ROUTING-ID...", help="Whom: the routing id, as decisions carry it."),
]


@people_app.callback()
def _people() -> None:
    """Forget people, as they may ask.

    These are user events like any other: `adgovernor publish user-events` takes them from a file.
    """


@people_app.command("erase")
def erase(
    context: typer.Context,
    routing_ids: RoutingIds,
    everywhere: Annotated[
        bool,
        typer.Option(
            "--everywhere",
            help="Ask every shard, for events that were once published with a wrong key: they are sealed where "
            "they arrived.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forget people: their state is removed, and where the ledger is sealed their keys are destroyed.

    Takes effect when a worker reads it, after what was published before. The money stays in the books: `adgovernor
    audit` goes on adding up, and counts the records that cannot be read any more. What is on `decisions` and in the
    input topics goes by those topics' retention.

    Example: adgovernor people erase household-17
    """
    count = run_async(_erase(settings_of(context), routing_ids, everywhere=everywhere))
    if as_json:
        print_json({"erased": routing_ids, "events": count})
    else:
        typer.echo(f"published {counted(count, 'erasure')}")


async def _erase(settings: Settings, routing_ids: list[str], *, everywhere: bool) -> int:
    from adgovernor.contracts.catalogue import contract_of
    from adgovernor.publish import Publisher

    now_ms = wall_clock_ms()
    contract = contract_of(topics.USER_EVENTS)
    # All are looked at before the first is published.
    events = [
        contract.parse(orjson.dumps({"type": "erasure", "routing_id": routing_id, "time_ms": now_ms}))
        for routing_id in routing_ids
    ]
    count = 0
    async with Publisher(settings.kafka.connection(), prefix=settings.prefix) as publisher:
        for event in events:
            if not everywhere:
                await publisher.user_event(event)
                count += 1
                continue
            key, value, headers = publisher.message(topics.USER_EVENTS, event)
            for partition in range(await publisher.partitions(topics.USER_EVENTS)):
                await publisher.raw(topics.USER_EVENTS, key, value, headers, partition=partition)
                count += 1
    return count
