"""``adgovernor topics``: a deployment's topics."""

from __future__ import annotations

from typing import Annotated

import typer

from adgovernor.app.console import AsJson, complain, print_json, print_table, run_async, settings_of

topics_app = typer.Typer(no_args_is_help=True)


@topics_app.callback()
def _topics() -> None:
    """Create and show the topics of a deployment.

    All topics have the same number of partitions, which is the number of shards and fixed from the start: take the
    largest number of workers that you will ever want, times two.
    """


@topics_app.command("create")
def create(
    context: typer.Context,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of every topic; left out: as set, or 8.")
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Replicas of each; left out: 3, or as many as there are brokers."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create every topic that is missing. Existing ones stay as they are, so it can be run again.

    With three brokers or more, topics get three replicas of which two must acknowledge. Where brokers may still be
    starting, ask for `--replication 3`: it is refused until there are as many.

    Example: adgovernor --prefix prod topics create --partitions 16 --replication 3
    """
    from adgovernor.runtime.topics_admin import create_topics

    settings = settings_of(context)
    count = partitions or settings.partitions
    created = run_async(create_topics(settings.kafka.connection(), settings.prefix, count, replication))
    if as_json:
        print_json({"prefix": settings.prefix, "partitions": count, "created": created})
    elif created:
        typer.echo(f"created {len(created)} topics with {count} partitions: {', '.join(created)}")
    else:
        typer.echo(f"all topics of {settings.prefix} exist already, with {count} partitions")


@topics_app.command("list")
def list_topics(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the topics that exist."""
    from adgovernor.runtime.topics_admin import describe_topics

    settings = settings_of(context)
    found = run_async(describe_topics(settings.kafka.connection(), settings.prefix))
    states = sorted(found.values(), key=lambda state: state.name)
    if as_json:
        print_json(
            [
                {"topic": state.name, "partitions": state.partitions, "replication": state.replication}
                for state in states
            ]
        )
        return
    if not states:
        complain(
            f"there are no topics with the prefix {settings.prefix}, or this user may not see them; make them with "
            "`adgovernor topics create`, mend the prefix, or give this user DESCRIBE on them"
        )
        return
    rows = [(state.name, state.partitions, state.replication) for state in states]
    print_table("", ("topic", "partitions", "replication"), rows)
