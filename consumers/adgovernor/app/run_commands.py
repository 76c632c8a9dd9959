"""``adgovernor run``: a worker."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from adgovernor.app.console import EXIT_FOUND, settings_of

if TYPE_CHECKING:
    from adgovernor.app.health import Health
    from adgovernor.app.metrics import Metrics
    from adgovernor.app.settings import Settings
    from adgovernor.contracts.connections import KafkaConnection
    from adgovernor.runtime.worker import Worker
    from adgovernor.stores.base import Store

_ASK_AGAIN_S: Final = 1.0
"""How soon a server that did not answer at the start is asked again."""


def run(
    context: typer.Context,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of /metrics, /healthz and /readyz; 0: a free one.")
    ] = None,
    clock: Annotated[
        str | None, typer.Option(help="wall, or events: time is the greatest event time read (old logs).")
    ] = None,
) -> None:
    """Run a worker until SIGTERM or SIGINT; it then finishes what is in flight and hands its shards over.

    Start as many as you like, up to the number of partitions: they share the shards. A worker that ends in any other
    way exits with an error, so let something supervise it. Where Kafka or Redis does not answer at the start, it waits
    for them as long as start_wait_s says (60 s), and then exits with 3; for missing topics as well, and with 2.

    Example: adgovernor --prefix prod run --metrics-port 9464
    """
    from adgovernor.contracts.errors import BadSettings
    from adgovernor.runtime.allocator import keep_freed_memory

    settings = settings_of(context, quiet=False)
    changed: dict[str, Any] = {}
    if metrics_port is not None:
        changed["metrics_port"] = metrics_port
    if clock is not None:
        if clock not in ("wall", "events"):
            raise BadSettings(f"--clock is {clock!r}; it must be wall or events")
        changed["clock"] = clock
    settings = settings.model_copy(update=changed)
    keep_freed_memory()
    try:
        import uvloop
    except ImportError:
        # There is none for Windows; asyncio's own loop does the same, slower.
        halted = asyncio.run(work(settings))
    else:
        from adgovernor.runtime.kafka_transport import translate_closed_transports

        translate_closed_transports()
        halted = uvloop.run(work(settings))
    if halted:
        raise typer.Exit(EXIT_FOUND)


class _Started:
    """What a process says of itself while it waits for its servers, and once it works."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.worker: Worker | None = None
        self.waiting = "it starts"
        """What it waits for, while there is no worker."""
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Asks it to end."""
        self.stopping.set()
        if self.worker is not None:
            self.worker.stop()

    def live(self) -> Health:
        """Whether it is alive. Starting anew would only find the same servers away."""
        from adgovernor.app.health import Health

        if self.worker is None:
            return Health(True, {"detail": self.waiting})
        health = self.worker.health()
        return Health(health.alive, {"detail": health.detail})

    def ready(self) -> Health:
        """Whether it is ready."""
        from adgovernor.app.health import Health

        if self.worker is None:
            return Health(False, {"detail": self.waiting, "shards": {}})
        health = self.worker.health()
        away = self._metrics.without_store()
        detail = (
            f"the store does not answer, or refuses what is written: {', '.join(away)}"
            if away
            else health.detail
        )
        return Health(health.ready and not away, {"detail": detail, "shards": health.shards})


async def work(settings: Settings) -> bool:
    """Runs a worker until it is asked to stop; whether a shard had halted by then.

    Raises:
        BadSettings: as `Worker.run`; where topics are missing, after `start_wait_s`.
        Unavailable: when Kafka or Redis cannot be reached for `start_wait_s`, or the worker loses what it needs.
    """
    import structlog

    from adgovernor.app.health import HealthServer
    from adgovernor.app.metrics import Metrics
    from adgovernor.contracts.sealing import check_available
    from adgovernor.core.machines import machine_of
    from adgovernor.runtime.worker import Worker, WorkerSettings
    from adgovernor.stores.redis import RedisStore

    log = structlog.get_logger("adgovernor.worker")
    connection = settings.kafka.connection()
    metrics = Metrics()
    store = RedisStore(settings.redis.config(), settings.prefix)
    started = _Started(metrics)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, started.stop)
    try:
        async with HealthServer(
            settings.metrics_host,
            settings.metrics_port,
            metrics=metrics.text,
            live=started.live,
            ready=started.ready,
        ) as server:
            partitions = await _found(settings, connection, store, started)
            if partitions is None:
                log.info("told to stop before the servers answered")
                return False
            rules = settings.rules_for(partitions)
            if rules.sealing:
                check_available()
            worker = started.worker = Worker(
                connection,
                store,
                lambda shard: machine_of(shard, rules),
                WorkerSettings(
                    settings.prefix, settings.worker_group, settings.session_timeout_ms, sealing=rules.sealing
                ),
                settings.engine_for(partitions),
                observer=metrics,
            )
            log.info(
                "worker starts",
                prefix=settings.prefix,
                partitions=partitions,
                metrics_port=server.port,
                clock=settings.clock,
            )
            await worker.run()
            halted = any(state not in ("running", "taking over") for state in worker.health().shards.values())
            log.info("worker stopped", halted=halted)
            return halted
    finally:
        await store.close()


async def _found(
    settings: Settings, connection: KafkaConnection, store: Store, started: _Started
) -> int | None:
    """The deployment's partition count, once Kafka and Redis answer; None where a stop was asked for before that."""
    asking = asyncio.create_task(_servers(settings, connection, store, started), name="servers")
    stopping = asyncio.create_task(started.stopping.wait(), name="stopping")
    try:
        await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return asking.result() if asking.done() else None
    finally:
        for task in (asking, stopping):
            task.cancel()
        await asyncio.gather(asking, stopping, return_exceptions=True)


async def _servers(settings: Settings, connection: KafkaConnection, store: Store, started: _Started) -> int:
    import structlog

    from adgovernor.contracts.errors import NoTopics, Unavailable
    from adgovernor.runtime.topics_admin import partition_count

    log = structlog.get_logger("adgovernor.worker")
    loop = asyncio.get_running_loop()
    began, told = loop.time(), ("", "")
    while True:
        try:
            partitions = await partition_count(connection, settings.prefix)
            await store.ping()
        except (Unavailable, NoTopics) as error:
            left = settings.start_wait_s - (loop.time() - began)
            if left <= 0:
                raise
            started.waiting = str(error)
            # Of topics that are being made fewer are missing each time, which is no news.
            what, news = ("topics", "") if isinstance(error, NoTopics) else ("servers", str(error))
            if (what, news) != told:
                told = (what, news)
                log.warning(f"waiting for the {what}", why=str(error), at_most_s=round(left))
            await asyncio.sleep(min(left, _ASK_AGAIN_S))
        else:
            if any(told):
                log.info("what it waited for is there", after_s=round(loop.time() - began, 1))
            return partitions
