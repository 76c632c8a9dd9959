"""``adgovernor resolve``: the stage that turns decided tags into playable ads."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adgovernor.app.console import opened_store, run_async, settings_of
from adgovernor.app.fetching import AllowPrivate, CaFile, Overrides, policy_of
from adgovernor.contracts import topics

if TYPE_CHECKING:
    from adgovernor.app.resolve_metrics import ResolveMetrics
    from adgovernor.app.settings import Settings
    from adgovernor.sessions.addresses import AddressPolicy
    from adgovernor.sessions.resolve_stage import ResolveStage
    from adgovernor.subscribe import Position


@dataclass(frozen=True, slots=True)
class _Options:
    metrics_port: int | None
    concurrent: int
    from_start: bool
    stale: bool
    policy: AddressPolicy
    ca_file: Path | None


def resolve(
    context: typer.Context,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of /metrics, /healthz and /readyz; 0: a free one.")
    ] = None,
    concurrent: Annotated[int, typer.Option(min=1, max=10_000, help="Decisions worked on at once.")] = 64,
    from_start: Annotated[
        bool,
        typer.Option("--from-start", help="The first time, begin with the first decision, not the next one."),
    ] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Ask for ads of decisions whose time is long over, too.")
    ] = False,
    allow_private: AllowPrivate = False,
    resolve_host: Overrides = None,
    cacert: CaFile = None,
) -> None:
    """Fetch the ads of decisions whose winner is a tag, until SIGTERM or SIGINT.

    Each tag (a candidate's `tag_url`) is followed through its wrappers, and what it comes to is published on `ads`,
    keyed as the decision is: the ad with the tracking of its whole chain, or the errors. Positions are kept in Kafka
    as group PREFIX.resolve once the ads are acknowledged; after a crash the last ones may be published again.

    What each session asked for is told to its shard on `user-events`.

    Start as many as you like, up to one a partition: they divide the partitions, and one that stops or dies hands
    its share to the others.

    Example: adgovernor --prefix prod resolve --metrics-port 9465
    """
    settings = settings_of(context, quiet=False)
    options = _Options(
        metrics_port,
        concurrent,
        from_start,
        stale,
        policy_of(allow_private, resolve_host),
        cacert,
    )
    run_async(work(settings, options))


async def work(settings: Settings, options: _Options) -> None:
    """Runs the stage until it is asked to stop.

    Raises:
        BadInput, BadSettings, Unavailable, Gap: as `ResolveStage.run`.
    """
    from adgovernor.app.resolve_metrics import ResolveMetrics
    from adgovernor.contracts.decisions import Decision
    from adgovernor.publish import Publisher
    from adgovernor.sessions.httpx_transport import HttpxTransport
    from adgovernor.sessions.resolve_stage import ResolveSettings, ResolveStage
    from adgovernor.subscribe import SharedSubscriber

    connection = settings.kafka.connection()
    metrics = ResolveMetrics()
    bounds = ResolveSettings(concurrent=options.concurrent)
    if options.stale:
        bounds = replace(bounds, grace_ms=None)
    async with (
        SharedSubscriber[Decision](
            connection,
            topics.DECISIONS,
            prefix=settings.prefix,
            group=f"{settings.prefix}.resolve",
            otherwise=None if options.from_start else await _now(settings),
            session_timeout_ms=settings.session_timeout_ms,
            client_id="adgovernor-resolve",
        ) as source,
        Publisher(connection, prefix=settings.prefix, client_id="adgovernor-resolve") as publisher,
        HttpxTransport(options.policy, ca_file=options.ca_file) as transport,
    ):
        stage = ResolveStage(
            source, publisher, transport, commit=source.commit, settings=bounds, observer=metrics
        )
        source.handover = stage
        await _run(settings, options, stage, metrics)


async def _run(settings: Settings, options: _Options, stage: ResolveStage, metrics: ResolveMetrics) -> None:
    """Runs a stage until a signal ends it, with its metrics and probes."""
    import structlog

    from adgovernor.app.health import Health, HealthServer

    log = structlog.get_logger("adgovernor.resolve")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stage.stop)
    running = asyncio.create_task(stage.run(), name="resolve")

    def health() -> Health:
        return Health(not running.done(), {"detail": "ended" if running.done() else "running"})

    port = settings.metrics_port if options.metrics_port is None else options.metrics_port
    try:
        async with HealthServer(
            settings.metrics_host, port, metrics=metrics.text, live=health, ready=health
        ) as server:
            log.info("resolve stage starts", prefix=settings.prefix, metrics_port=server.port)
            await running
    finally:
        running.cancel()
        await asyncio.wait({running})
    log.info("resolve stage stopped")


async def _now(settings: Settings) -> dict[int, Position]:
    from adgovernor.app.starts import from_now

    async with opened_store(settings) as store:
        return await from_now(settings.kafka.connection(), settings.prefix, store, topics.DECISIONS)
