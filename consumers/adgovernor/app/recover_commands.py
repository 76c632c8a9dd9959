"""``adgovernor recover``: a halted shard starts again, after a person has looked; ``adgovernor resend``: what topics
lost is sent again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from adgovernor.app.console import AsJson, complain, print_json, run_async, settings_of
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.contracts.topics import shard_named

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.runtime.recover import Recovery
    from adgovernor.runtime.world import World


def recover(
    context: typer.Context,
    shard: Annotated[
        str, typer.Argument(help="Such as u3 or t0: the worker's log and `state shard` name it.")
    ],
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Yes: what the ledger no longer has is lost.")
    ] = False,
    why: Annotated[
        str, typer.Option(help="What happened and who decided; it is recorded in the ledger.")
    ] = "",
    position: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC=OFFSET",
            help="Where an input is read from next, where what lies between is lost too; may be repeated.",
        ),
    ] = None,
    even_if_healthy: Annotated[
        bool,
        typer.Option(
            "--even-if-healthy",
            help="Begin a new epoch although nothing says that anything was lost.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a halted shard again after its ledger lost its tail. Money may be spent twice: look first.

    The ledger gets a block that begins a new epoch and says why; outputs go on behind what was published, and the
    shard's part of Redis is built up again from the ledger. Restart the shard's worker afterwards. A shard of which
    outputs, messages and Redis agree with its ledger is left as it is (exit code 2): it lost nothing.

    Example: adgovernor recover u3 --accept-loss --why "both replicas of ledger 3 burnt, INC-77"
    """
    shard_named(shard)
    if not accept_loss or not why.strip():
        raise BadInput(
            f"recovering {shard} accepts that what its ledger lost is gone: decisions and spend of that time are "
            "unknown to it, and may happen again. Look at the brokers first; then give --accept-loss and --why TEXT"
        )
    settings = settings_of(context)
    done = run_async(
        _recover(settings, shard, why.strip(), _positions(shard, position or []), even_if_healthy)
    )
    if as_json:
        print_json(
            {
                "shard": shard,
                "epoch": done.epoch,
                "height": done.height,
                "next_dn": done.dn,
                "taken": done.taken,
                "passed": done.passed,
                "positions": done.positions,
                "keys_given_up": done.keys,
            }
        )
    else:
        _tell(shard, done)


def _tell(shard: str, done: Recovery) -> None:
    """Says for a person how a shard goes on."""
    typer.echo(f"{shard} begins epoch {done.epoch} at height {done.height}")
    for topic, number in sorted(done.dn.items()):
        typer.echo(f"  {topic} goes on with number {number}, behind what the lost tail had published")
    for source, (number, _) in sorted(done.taken.items()):
        typer.echo(f"  messages of {source} count from number {number + 1} on, whatever it continues")
    for source, ranges in sorted(done.passed.items()):
        places = ", ".join(f"{first}-{last}" for first, last in ranges)
        typer.echo(
            f"  messages of {source} at offsets {places} do not count: they are of a history that it lost"
        )
    if done.keys:
        typer.echo(f"  {done.keys} keys of people are gone: what is sealed with them stays unreadable")
    typer.echo("restart the shard's worker; its part of Redis is built up from the ledger")


def resend(
    context: typer.Context,
    shard: Annotated[str, typer.Argument(help="The shard that sent: such as t0 or u3.")],
    since: Annotated[
        int, typer.Option(metavar="HEIGHT", min=1, help="The first block whose messages are sent again.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Publish again all that a shard's ledger says it has sent: outputs, and messages to other shards.
    In place of what was sent about people who were erased since, messages that name nobody; in place of messages to
    other shards that an accepted loss took from the ledger, messages that say so, and the other shard goes on.

    For topics that lost messages although they had acknowledged them; the metric adgovernor_records_total with kind
    directive_gap or report_gap tells of such a gap between shards. Readers take what they miss and ignore the rest,
    so it does no harm, and workers may go on meanwhile. Nothing is sent from a ledger that itself lost its end: accept
    that loss first (adgovernor recover).

    Example: adgovernor resend t0 --since 48000
    """
    shard_named(shard)
    try:
        count = run_async(_resend(settings_of(context), shard, since))
    except KeyboardInterrupt:
        complain("interrupted: what was sent again does no harm; run this again for all of it")
        raise
    if as_json:
        print_json({"shard": shard, "since": since, "messages": count})
    else:
        typer.echo(f"{count} messages of {shard} were sent again")


def _positions(shard: str, given: list[str]) -> dict[str, int]:
    from adgovernor.contracts import topics

    result: dict[str, int] = {}
    for one in given:
        topic, _, offset = one.partition("=")
        if topic not in topics.input_topics(shard) or not offset.isdecimal():
            allowed = ", ".join(topics.input_topics(shard))
            raise BadInput(f"--position {one!r}: give TOPIC=OFFSET with one of {allowed}")
        result[topic] = int(offset)
    return result


async def _recover(
    settings: Settings, shard: str, why: str, positions: dict[str, int], even_if_healthy: bool
) -> Recovery:
    from adgovernor.runtime.recover import NothingLost
    from adgovernor.runtime.recover import recover as begin_epoch
    from adgovernor.runtime.world import StartOver

    async with _world(settings, shard) as world:
        try:
            return await begin_epoch(world, why=why, positions=positions, even_if_healthy=even_if_healthy)
        except NothingLost as error:
            raise BadInput(
                f"{error}. Nothing was done. Restart the shard's worker; where it halts again, its log says what is "
                "wrong. Where input is lost, say with --position where reading goes on; to begin a new epoch all the "
                "same, give --even-if-healthy"
            ) from error
        except StartOver as error:
            raise Unavailable(
                f"{error}: another owner writes {shard}; stop its workers and run this again"
            ) from error


async def _resend(settings: Settings, shard: str, since: int) -> int:
    from adgovernor.runtime.recover import resend as send_again

    async with _world(settings, shard) as world:
        return await send_again(world, since)


@asynccontextmanager
async def _world(settings: Settings, shard: str) -> AsyncIterator[World]:
    """What maintenance of a shard works with."""
    from adgovernor.contracts.topics import is_treasury, partition_of_shard
    from adgovernor.core.machines import machine_of
    from adgovernor.runtime.clock import WallClock
    from adgovernor.runtime.kafka_keys import KafkaKeyLog, key_producers
    from adgovernor.runtime.kafka_log import KafkaLogOptions, KafkaShardLog
    from adgovernor.runtime.kafka_reader import KafkaReaders
    from adgovernor.runtime.observer import Observer
    from adgovernor.runtime.topics_admin import partition_count
    from adgovernor.runtime.world import World
    from adgovernor.stores.redis import RedisStore

    connection = settings.kafka.connection()
    partitions = await partition_count(connection, settings.prefix)
    if partition_of_shard(shard) >= partitions:
        raise BadInput(f"there is no shard {shard}: the deployment has {partitions} partitions")
    rules = settings.rules_for(partitions)

    store = RedisStore(settings.redis.config(), settings.prefix)
    readers = KafkaReaders(connection, 1)
    log = KafkaShardLog(shard, connection, KafkaLogOptions(settings.prefix), None, readers)
    keys = None
    if rules.sealing and not is_treasury(shard):
        keys = KafkaKeyLog(shard, settings.prefix, readers, key_producers(connection, f"adgovernor-{shard}"))
    world = World(
        shard,
        lambda: machine_of(shard, rules),
        log,
        store,
        WallClock(),
        settings.engine_for(partitions),
        Observer(),
        random.SystemRandom(),
        keys,
    )
    try:
        yield world
    finally:
        await log.close()
        if keys is not None:
            await keys.close()
        await readers.close()
        await store.close()
