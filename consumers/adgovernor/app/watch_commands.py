"""``adgovernor watch``: decisions, campaign events and resolved ads as they happen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from adgovernor.app.console import (
    hear_kafka,
    leave_unsaid,
    nobody_reads,
    opened_store,
    run_async,
    settings_of,
)
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.subscribe import AdReader, Position, Subscriber

_TOPICS = (*topics.PUBLIC_OUTPUTS, *topics.STAGE_OUTPUTS)

_KINDS = {topics.DECISIONS: "decision", topics.ADS: "ad"}
_LOOK_S: Final = 0.5
"""How often it is looked whether anybody still reads what is printed."""


def watch(
    context: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(metavar="TOPIC...", help=f"{', '.join(_TOPICS)}."),
    ],
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="Begin with the first event that is kept; else with the next one."),
    ] = False,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop where the topics end now, rather than wait for more.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
) -> None:
    """Print events, one JSON object a line, each once and in order for each partition.

    Every object begins with its `type`: decision, ad, pod-created, pod-completed, pod-abandoned, or the topic's name.
    Republished messages are not shown again, and missing ones are an error (exit code 1); of ads, which have no
    numbers, only repetitions are noticed.

    Example: adgovernor watch budget-exhausted campaign-paused campaign-resumed
    """
    wrong = [name for name in names if name not in _TOPICS]
    if wrong:
        raise BadInput(f"there is no topic {', '.join(wrong)} to watch; there are {', '.join(_TOPICS)}")
    settings = settings_of(context)
    try:
        run_async(_watch(context, settings, list(dict.fromkeys(names)), from_start, until_end, limit))
    except BrokenPipeError:
        # However many events were asked for: it is for whoever reads them, and ends with them.
        leave_unsaid()


async def _watch(
    context: typer.Context,
    settings: Settings,
    names: list[str],
    from_start: bool,
    until_end: bool,
    limit: int | None,
) -> None:
    starts = await (_first_kept if from_start else _from_now)(settings, names)
    left = limit
    done = asyncio.Event()

    async def follow(topic: str) -> None:
        nonlocal left
        kind = _KINDS.get(topic, topic)
        async with _subscriber(settings, topic, starts, from_start, until_end) as events:
            hear_kafka(context)
            async for event in events:
                if left == 0:
                    return
                body = event.model_dump(mode="json", exclude_none=True)
                # A pod's event says itself which of three it is.
                typer.echo(orjson.dumps({"type": kind, **body}).decode())
                if left is not None:
                    left -= 1
                    if left == 0:
                        done.set()
                        return

    tasks = [asyncio.create_task(follow(name), name=f"watch {name}") for name in names]
    endings = {
        asyncio.create_task(done.wait(), name="enough"),
        asyncio.create_task(_nobody_reads(), name="nobody reads"),
    }
    try:
        pending: set[asyncio.Task[Any]] = set(tasks)
        finished: set[asyncio.Task[Any]] = set()
        while pending and not finished & endings:
            finished, _ = await asyncio.wait(pending | endings, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                pending.discard(task)
                task.result()
    finally:
        for task in (*tasks, *endings):
            task.cancel()
        await asyncio.gather(*tasks, *endings, return_exceptions=True)


async def _nobody_reads() -> None:
    """Comes back once nobody reads any more. The next event would say so too, but may be long in coming."""
    while not nobody_reads():  # noqa: ASYNC110 - the system wakes nobody who writes nothing
        await asyncio.sleep(_LOOK_S)


async def _first_kept(settings: Settings, names: list[str]) -> dict[str, dict[int, Position]]:
    """Where the topics begin of which retention has taken the beginning; and says so."""
    from adgovernor.app.starts import first_kept

    starts: dict[str, dict[int, Position]] = {}
    async with opened_store(settings) as store:
        kafka = settings.kafka.connection()
        for name in names:
            if name == topics.ADS:
                continue
            found = await first_kept(kafka, settings.prefix, store, name)
            starts[name] = {partition: position for partition, (position, _) in found.items()}
            for partition, (position, offset) in sorted(found.items()):
                typer.echo(
                    f"{name}[{partition}] begins with number {position.dn + 1} (offset {offset}): what was before has "
                    "expired by the topic's retention",
                    err=True,
                )
    return starts


def _subscriber(
    settings: Settings, topic: str, starts: dict[str, dict[int, Position]], from_start: bool, until_end: bool
) -> Subscriber[Any] | AdReader:
    """Who reads a topic from where ``starts`` says. Ads have no numbers, and begin at either end."""
    from adgovernor.subscribe import AdReader, Subscriber

    connection, client_id = settings.kafka.connection(), "adgovernor-watch"
    if topic == topics.ADS:
        return AdReader(
            connection,
            prefix=settings.prefix,
            from_end=not from_start,
            until_end=until_end,
            client_id=client_id,
        )
    return Subscriber(
        connection,
        topic,
        prefix=settings.prefix,
        start=starts.get(topic),
        until_end=until_end,
        client_id=client_id,
    )


async def _from_now(settings: Settings, names: list[str]) -> dict[str, dict[int, Position]]:
    from adgovernor.app.starts import from_now

    async with opened_store(settings) as store:
        kafka = settings.kafka.connection()
        return {
            name: await from_now(kafka, settings.prefix, store, name) for name in names if name != topics.ADS
        }
