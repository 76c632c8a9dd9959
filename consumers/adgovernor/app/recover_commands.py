"""``adgovernor recover``: a halted shard starts again, after a person has looked."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated

import typer

from adgovernor.app.console import AsJson, print_json, run_async, settings_of
from adgovernor.contracts.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.core.machine import Machine
    from adgovernor.runtime.recover import Recovery


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
    as_json: AsJson = False,
) -> None:
    """Start a halted shard again after its ledger lost its tail. Money may be spent twice: look first.

    The ledger gets a block that begins a new epoch and says why; outputs go on behind what was published, and the
    shard's part of Redis is built up again from the ledger. Restart the shard's worker afterwards.

    Example: adgovernor recover u3 --accept-loss --why "both replicas of ledger 3 burnt, INC-77"
    """
    if shard[:1] not in ("u", "t") or not shard[1:].isdigit():
        raise BadInput(f"{shard!r} is no shard; shards are named u0, u1… (users) and t0, t1… (treasuries)")
    if not accept_loss or not why.strip():
        raise BadInput(
            f"recovering {shard} accepts that what its ledger lost is gone: decisions and spend of that time are "
            "unknown to it, and may happen again. Look at the brokers first; then give --accept-loss and --why TEXT"
        )
    settings = settings_of(context)
    done = run_async(_recover(settings, shard, why.strip(), _positions(shard, position or [])))
    if as_json:
        print_json(
            {
                "shard": shard,
                "epoch": done.epoch,
                "height": done.height,
                "next_dn": done.dn,
                "positions": done.positions,
            }
        )
        return
    typer.echo(f"{shard} begins epoch {done.epoch} at height {done.height}")
    for topic, number in sorted(done.dn.items()):
        typer.echo(f"  {topic} goes on with number {number}, behind what the lost tail had published")
    typer.echo("restart the shard's worker; its part of Redis is built up from the ledger")


def _positions(shard: str, given: list[str]) -> dict[str, int]:
    from adgovernor.contracts import topics

    result: dict[str, int] = {}
    for one in given:
        topic, _, offset = one.partition("=")
        if topic not in topics.input_topics(shard) or not offset.isdigit():
            allowed = ", ".join(topics.input_topics(shard))
            raise BadInput(f"--position {one!r}: give TOPIC=OFFSET with one of {allowed}")
        result[topic] = int(offset)
    return result


async def _recover(settings: Settings, shard: str, why: str, positions: dict[str, int]) -> Recovery:
    from adgovernor.contracts.topics import is_treasury, partition_of_shard
    from adgovernor.core.treasury import Treasury
    from adgovernor.core.user_shard import UserShard
    from adgovernor.runtime.clock import WallClock
    from adgovernor.runtime.kafka_log import KafkaLogOptions, KafkaShardLog
    from adgovernor.runtime.kafka_reader import KafkaReaders
    from adgovernor.runtime.observer import Silent
    from adgovernor.runtime.recover import recover as begin_epoch
    from adgovernor.runtime.topics_admin import partition_count
    from adgovernor.runtime.world import StartOver, World
    from adgovernor.stores.redis import RedisStore

    connection = settings.kafka.connection()
    partitions = await partition_count(connection, settings.prefix)
    if partition_of_shard(shard) >= partitions:
        raise BadInput(f"there is no shard {shard}: the deployment has {partitions} partitions")
    rules = settings.rules_for(partitions)

    def machine() -> Machine:
        return Treasury(shard, rules) if is_treasury(shard) else UserShard(shard, rules)

    store = RedisStore(settings.redis.config(), settings.prefix)
    readers = KafkaReaders(connection, 1)
    log = KafkaShardLog(shard, connection, KafkaLogOptions(settings.prefix), None, readers)
    world = World(
        shard,
        machine,
        log,
        store,
        WallClock(),
        settings.engine_for(partitions),
        Silent(),
        random.SystemRandom(),
    )
    try:
        return await begin_epoch(world, why=why, positions=positions)
    except StartOver as error:
        raise Unavailable(
            f"{error}: another owner writes {shard}; stop its workers and run this again"
        ) from error
    finally:
        await log.close()
        await readers.close()
        await store.close()
