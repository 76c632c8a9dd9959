"""``adgovernor dlq``: inputs that could not be used."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adgovernor.app.console import (
    EXIT_FOUND,
    AsJson,
    moment,
    print_json,
    print_table,
    run_async,
    settings_of,
)
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.subscribe import DeadLetter

dlq_app = typer.Typer(no_args_is_help=True)

Topic = Annotated[
    str, typer.Argument(help="The input topic: ad-requests, impressions, user-events or campaigns.")
]
Reason = Annotated[str | None, typer.Option(help="Only letters with this reason.")]

_SHOWN = 500
"""Letters in a table; --json prints them all."""


@dlq_app.callback()
def _dlq() -> None:
    """Inputs that could not be used: what, why and where from.

    Their bytes are untouched. A dead letter stays where it is; replaying publishes it to its input topic again, which
    helps once the workers understand it.
    """


@dlq_app.command("list")
def list_letters(
    context: typer.Context,
    topic: Annotated[str | None, typer.Argument(help="One input topic; left out, all.")] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters. Exit code 1 where there are any.

    Example: adgovernor dlq list ad-requests --reason not_json
    """
    settings = settings_of(context)
    names = [_checked(topic)] if topic else list(topics.PUBLIC_INPUTS)
    letters = [
        letter
        for name in names
        for letter in run_async(_letters(settings, name))
        if reason in (None, letter.reason)
    ]
    if as_json:
        for letter in letters:
            print_json(_row(letter))
    elif not letters:
        typer.echo("no dead letters")
    else:
        counts = Counter((letter.topic, letter.reason) for letter in letters)
        print_table(
            "", ("topic", "reason", "letters"), [(*key, count) for key, count in sorted(counts.items())]
        )
        print_table(
            "",
            ("topic", "partition", "number", "time", "reason", "message"),
            [
                (one.topic, one.partition, one.dn, moment(one.time_ms), one.reason, one.message)
                for one in letters[:_SHOWN]
            ],
        )
        if len(letters) > _SHOWN:
            typer.echo(f"… and {len(letters) - _SHOWN} more; --json prints them all")
    if letters:
        raise typer.Exit(EXIT_FOUND)


@dlq_app.command("show")
def show(
    context: typer.Context,
    topic: Topic,
    partition: Annotated[int, typer.Argument(min=0)],
    number: Annotated[int, typer.Argument(min=1, help="The letter's number in its partition.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole.

    Example: adgovernor dlq show ad-requests 3 1
    """
    settings = settings_of(context)
    for letter in run_async(_letters(settings, _checked(topic), partition)):
        if letter.dn == number:
            break
    else:
        raise BadInput(
            f"{topic}.dlq has no letter {number} in partition {partition}; see `adgovernor dlq list`"
        )
    row = _row(letter)
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        typer.echo(f"{name:10} {moment(value) if name == 'time_ms' else value}")


@dlq_app.command("replay")
def replay(
    context: typer.Context,
    topic: Topic,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition's.")] = None,
    number: Annotated[int | None, typer.Option(min=1, help="Only this letter, of --partition.")] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Publish dead letters to their input topic again, with their own key and bytes.

    Example: adgovernor dlq replay ad-requests --reason invalid
    """
    settings = settings_of(context)
    if number is not None and partition is None:
        raise BadInput("--number counts in a partition; give --partition too")
    count = run_async(_replay(settings, _checked(topic), partition, number, reason))
    if as_json:
        print_json({"topic": topic, "published": count})
    else:
        typer.echo(f"published {count} dead letters to {topic} again")


def _checked(topic: str) -> str:
    if topic not in topics.PUBLIC_INPUTS:
        raise BadInput(f"{topic!r} is no input topic; it must be one of {', '.join(topics.PUBLIC_INPUTS)}")
    return topic


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "number": letter.dn,
        "time_ms": letter.time_ms,
        "reason": letter.reason,
        "message": letter.message,
        "shard": letter.shard,
        "height": letter.height,
        "index": letter.index,
        **_text("key", letter.key),
        **_text("value", letter.value),
    }


def _text(name: str, raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        return {name: None}
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {name + "_b64": b64encode(raw).decode()}


async def _letters(settings: Settings, topic: str, partition: int | None = None) -> list[DeadLetter]:
    from adgovernor.subscribe import dead_letters

    async with dead_letters(
        settings.kafka.connection(),
        topic,
        prefix=settings.prefix,
        partitions=None if partition is None else [partition],
        until_end=True,
    ) as letters:
        return [letter async for letter in letters]


async def _replay(
    settings: Settings, topic: str, partition: int | None, number: int | None, reason: str | None
) -> int:
    from adgovernor.publish import Bulk, Publisher

    wanted = [
        letter
        for letter in await _letters(settings, topic, partition)
        if number in (None, letter.dn) and reason in (None, letter.reason)
    ]
    async with Publisher(settings.kafka.connection(), prefix=settings.prefix) as publisher:
        bulk = Bulk(publisher, topic)
        try:
            for letter in wanted:
                again = topics.cloud_headers(
                    topic, "/adgovernor/dlq", f"{topic}-{letter.partition}-{letter.offset}"
                )
                # A letter without a key goes where it came from; with one, to whom it belongs.
                place = letter.partition if letter.key is None else None
                await bulk.put(letter.key, letter.value, again, partition=place)
            await bulk.finish()
        finally:
            bulk.abandon()
    return bulk.acknowledged
