"""``adgovernor run``: a worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adgovernor.app.console import EXIT_FOUND, settings_of

if TYPE_CHECKING:
    from adgovernor.app.health import Health
    from adgovernor.app.metrics import Metrics
    from adgovernor.app.settings import Settings
    from adgovernor.runtime.worker import Worker


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
    way exits with an error, so let something supervise it.

    Example: adgovernor --prefix prod run --metrics-port 9464
    """
    from adgovernor.app.logs import configure
    from adgovernor.contracts.errors import BadSettings
    from adgovernor.runtime.allocator import keep_freed_memory

    settings = settings_of(context)
    configure(settings.log_format, settings.log_level)
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
        halted = uvloop.run(work(settings))
    if halted:
        raise typer.Exit(EXIT_FOUND)


async def work(settings: Settings) -> bool:
    """Runs a worker until it is asked to stop; whether a shard had halted by then.

    Raises:
        BadSettings, Unavailable: as `Worker.run`.
    """
    import structlog

    from adgovernor.app.health import HealthServer
    from adgovernor.app.metrics import Metrics
    from adgovernor.contracts.sealing import check_available
    from adgovernor.core.machines import machine_of
    from adgovernor.runtime.topics_admin import partition_count
    from adgovernor.runtime.worker import Worker, WorkerSettings
    from adgovernor.stores.redis import RedisStore

    log = structlog.get_logger("adgovernor.worker")
    connection = settings.kafka.connection()
    partitions = await partition_count(connection, settings.prefix)
    rules = settings.rules_for(partitions)
    if rules.sealing:
        check_available()

    metrics = Metrics()
    store = RedisStore(settings.redis.config(), settings.prefix)
    worker = Worker(
        connection,
        store,
        lambda shard: machine_of(shard, rules),
        WorkerSettings(
            settings.prefix, settings.worker_group, settings.session_timeout_ms, sealing=rules.sealing
        ),
        settings.engine_for(partitions),
        observer=metrics,
    )
    live, ready = _probes(worker, metrics)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    try:
        async with HealthServer(
            settings.metrics_host, settings.metrics_port, metrics=metrics.text, live=live, ready=ready
        ) as server:
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


def _probes(worker: Worker, metrics: Metrics) -> tuple[Callable[[], Health], Callable[[], Health]]:
    """What a worker answers when it is asked whether it is alive, and whether it is ready."""
    from adgovernor.app.health import Health

    def live() -> Health:
        health = worker.health()
        return Health(health.alive, {"detail": health.detail})

    def ready() -> Health:
        health = worker.health()
        away = metrics.without_store()
        detail = (
            f"the store does not answer, or refuses what is written: {', '.join(away)}"
            if away
            else health.detail
        )
        return Health(health.ready and not away, {"detail": detail, "shards": health.shards})

    return live, ready
