"""``adgovernor demo``: the whole thing at work, on real servers or in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from adgovernor.app.console import EXIT_FOUND, opened_store, settings_of
from adgovernor.stores.clock import wall_clock_ms

if TYPE_CHECKING:
    from adgovernor.app.demo_plan import Plan
    from adgovernor.app.demo_show import Show
    from adgovernor.app.demo_workers import Workers
    from adgovernor.app.embedded import Embedded
    from adgovernor.app.settings import Settings
    from adgovernor.audit.report import Report
    from adgovernor.publish import Publisher
    from adgovernor.stores.base import Store
    from adgovernor.subscribe import Reader, Subscriber

_PARTITIONS: Final = 4
_WORKERS: Final = 2
_SECONDS: Final = {True: 18.0, False: 25.0}
"""How long the stream lasts, embedded or not: the second has a takeover in it."""
_CLIENT: Final = "adgovernor-demo"


def demo(
    context: typer.Context,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="In one process, the log and the store in memory: no servers.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, max=86_400, help="How long requests come, at least: until the story is told."),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(min=1, max=10_000_000, help="Exactly so many requests; instead of --seconds."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=20_000, help="Requests a second.")] = 40.0,
    seed: Annotated[int, typer.Option(help="Another seed, other traffic.")] = 1,
    kill: Annotated[
        bool,
        typer.Option("--kill/--no-kill", help="Kill one worker with SIGKILL midway; not with --embedded."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; the last one is the totals.")
    ] = False,
) -> None:
    """Watch the whole thing at work: decisions with reasons, budgets draining, campaigns pausing and resuming.

    Campaigns are applied, and a stream of ad requests and impressions is published in real time, with repetitions,
    stragglers and poison in it. One budget is soon exhausted, and topped up; one campaign is paused and resumed by
    hand; one worker of two is killed, and the other takes over. Then everything is proved from the ledger.

    Kafka and Redis are those of the settings; ./deploy/demo brings its own. Every run has a prefix of its own.

    Exit codes: 1 where the totals and the ledger disagree; others as everywhere.

    Example: adgovernor demo --embedded --seconds 30 --rate 200
    """
    from adgovernor.app.demo_plan import Plan
    from adgovernor.app.demo_show import JsonShow, LiveShow, PlainShow
    from adgovernor.app.logs import configure

    settings = settings_of(context)
    live = not as_json and sys.stdout.isatty()
    # Fresh topics make the Kafka client warn of leaders that are not there yet. Errors end the demonstration anyway.
    configure(settings.log_format, "error")
    wanted = requests if requests is not None else round((seconds or _SECONDS[embedded]) * rate)
    plan = Plan(max(1, wanted), rate, seed, exact=requests is not None)
    prefix = f"demo-{wall_clock_ms():x}"
    settings = settings.model_copy(update={"prefix": prefix, "partitions": _PARTITIONS, "group": None})
    where = "in one process, log and store in memory" if embedded else f"Kafka and Redis, prefix {prefix}"
    show: Show = JsonShow() if as_json else LiveShow(f"adgovernor demo, {where}") if live else PlainShow()
    run = _embedded(prefix, plan, show) if embedded else _on_servers(settings, plan, show, kill=kill)
    if not _until_signalled(run):
        raise typer.Exit(EXIT_FOUND)


def _until_signalled(work: Coroutine[Any, Any, bool]) -> bool:
    """Runs the work; SIGTERM and SIGHUP end it as Ctrl-C does, with everything that it started."""

    async def run() -> bool:
        task = asyncio.current_task()
        assert task is not None
        received: list[int] = []

        def end(number: int) -> None:
            received.append(number)
            task.cancel()

        if os.name == "posix":
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, end, number)
        try:
            return await work
        except asyncio.CancelledError:
            if received:
                raise SystemExit(128 + received[0]) from None
            raise

    return asyncio.run(run())


async def _tell(
    stage: _KafkaStage | _EmbeddedStage, plan: Plan, show: Show, *, kill: bool
) -> Callable[[Report], bool]:
    """Tells the story; gives what tells its end."""
    from adgovernor.app.demo_story import Story

    story = Story(stage, plan, show, kill=kill)
    await story.tell()

    def end(report: Report) -> bool:
        totals = story.counted.totals(report)
        show.end(totals, report)
        return report.green and bool(totals["agree"])

    return end


# --- In one process ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _EmbeddedStage:
    governor: Embedded
    prefix: str
    partitions: int
    publisher: Publisher
    store: Store
    workers: Workers | None = None

    def subscriber(self, topic: str) -> Subscriber[Any]:
        from adgovernor.subscribe import Subscriber

        return Subscriber(self.governor, topic)

    def reader(self, topic: str) -> Reader:
        return self.governor.reader(topic)


async def _embedded(prefix: str, plan: Plan, show: Show) -> bool:
    from adgovernor.app.embedded import Embedded

    with show:
        async with Embedded(partitions=_PARTITIONS, prefix=prefix) as governor:
            stage = _EmbeddedStage(governor, prefix, _PARTITIONS, governor.publisher, governor.store)
            end = await _tell(stage, plan, show, kill=False)
        return end(await governor.audit())


# --- On servers ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _KafkaStage:
    settings: Settings
    prefix: str
    partitions: int
    publisher: Publisher
    store: Store
    workers: Workers | None

    def subscriber(self, topic: str) -> Subscriber[Any]:
        from adgovernor.subscribe import Subscriber

        connection = self.settings.kafka.connection()
        return Subscriber(connection, topic, prefix=self.prefix, client_id=_CLIENT)

    def reader(self, topic: str) -> Reader:
        from adgovernor.contracts.topics import full_name
        from adgovernor.subscribe import PartitionReader

        connection = self.settings.kafka.connection()
        return PartitionReader(connection, full_name(self.prefix, topic), client_id=_CLIENT)


async def _on_servers(settings: Settings, plan: Plan, show: Show, *, kill: bool) -> bool:
    from adgovernor.audit.history import KafkaHistory
    from adgovernor.audit.verify import audit
    from adgovernor.publish import Publisher
    from adgovernor.runtime.topics_admin import create_topics

    connection = settings.kafka.connection()
    with show:
        async with opened_store(settings) as store:
            show.note(
                f"Kafka at {settings.kafka.bootstrap_servers}: creating the topics {settings.prefix}.*, "
                f"{settings.partitions} partitions each"
            )
            await store.ping()
            await create_topics(connection, settings.prefix, settings.partitions)
            async with _workers(settings) as workers:
                for _ in range(_WORKERS):
                    number = await workers.start()
                    show.note(f"worker {number} starts (process {workers.pid(number)})")
                async with Publisher(connection, prefix=settings.prefix, client_id=_CLIENT) as publisher:
                    stage = _KafkaStage(
                        settings, settings.prefix, settings.partitions, publisher, store, workers
                    )
                    end = await _tell(stage, plan, show, kill=kill)
            show.note("the workers have stopped; reading the whole ledger to prove it")
            async with KafkaHistory(connection, settings.prefix) as history:
                return end(await audit(history, settings.prefix, store))


def _workers(settings: Settings) -> Workers:
    from adgovernor.app.demo_workers import Workers
    from adgovernor.app.settings import ENVIRONMENT

    # What the command line said reaches the workers by the environment, which goes before a settings file.
    return Workers(
        {
            f"{ENVIRONMENT}PREFIX": settings.prefix,
            f"{ENVIRONMENT}PARTITIONS": str(settings.partitions),
            f"{ENVIRONMENT}GROUP": settings.worker_group,
            f"{ENVIRONMENT}KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
            f"{ENVIRONMENT}REDIS__URL": settings.redis.url,
            f"{ENVIRONMENT}LOG_FORMAT": "json",
            f"{ENVIRONMENT}LOG_LEVEL": "info",
        }
    )
