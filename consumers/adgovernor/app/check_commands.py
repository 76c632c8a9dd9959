"""``adgovernor check``: are the servers and topics of a deployment fit, and how is what is not to be mended?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import typer

from adgovernor.app.console import (
    EXIT_BAD_INPUT,
    EXIT_FOUND,
    EXIT_UNAVAILABLE,
    AsJson,
    print_json,
    run_async,
    settings_of,
)
from adgovernor.app.kafka_advice import why_no_kafka
from adgovernor.contracts.errors import BadSettings, NoKafka, Unavailable

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings

_MARKS: Final = {"ok": "ok", "warning": "warning", "error": "ERROR"}
_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at."""

    where: str
    """``settings``, ``kafka``, ``topics`` or ``redis``."""
    level: str
    """``ok``, ``warning`` or ``error``."""
    message: str
    mend: str = ""


def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Test settings, connections, versions, topics and Redis; say how to mend each failure.

    Nothing is changed but a few keys in Redis, written and removed again to prove the rights. Exit code 0: nothing
    stands against running a worker (warnings are for production); 1: something does; 2: settings are wrong; 3: a server
    cannot be used.

    Example: adgovernor --kafka kafka-1:9092 --redis redis://redis:6379/0 check
    """
    settings = settings_of(context)
    found = [
        Checked("settings", "ok", f"prefix {settings.prefix}, Kafka at {settings.kafka.bootstrap_servers}"),
        *run_async(_all(settings, context.find_root().obj.kafka_said)),
    ]
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        for one in found:
            mark = typer.style(f"{_MARKS[one.level]:8}", fg=_COLOURS[one.level])
            typer.echo(f"{mark} {one.where:9} {one.message}")
            if one.mend:
                typer.echo(f"{'':18} → {one.mend}")
    errors = [one for one in found if one.level == "error"]
    if any(one.where == "settings" for one in errors):
        raise typer.Exit(EXIT_BAD_INPUT)
    if any(one.where == "kafka" or one.message.startswith("Redis at") for one in errors):
        raise typer.Exit(EXIT_UNAVAILABLE)
    if errors:
        raise typer.Exit(EXIT_FOUND)


async def _all(settings: Settings, kafka_said: list[str]) -> list[Checked]:
    return [*await _kafka(settings, kafka_said), *await _redis(settings)]


async def _kafka(settings: Settings, said: list[str]) -> list[Checked]:
    from adgovernor.runtime.topics_admin import check_replicas, check_topics, describe_topics

    connection = settings.kafka.connection()
    try:
        topics = await describe_topics(connection, settings.prefix)
    except BadSettings as error:
        return [Checked("settings", "error", str(error), "correct the table kafka of the settings")]
    except NoKafka as error:
        why, mend = why_no_kafka(said, tls=error.tls)
        return [Checked("kafka", "error", f"{error}{'; the client says: ' + why if why else ''}", mend)]
    reached = Checked("kafka", "ok", f"{connection.bootstrap_servers} answers")
    return [
        reached,
        *(Checked("kafka", one.level, one.message, one.mend) for one in check_replicas(topics)),
        *(Checked("topics", one.level, one.message, one.mend) for one in check_topics(topics)),
        *await _whole(settings, topics),
    ]


async def _whole(settings: Settings, found: Mapping[str, object]) -> list[Checked]:
    """What is wrong with ledgers of which a part was deleted."""
    from adgovernor.contracts import topics
    from adgovernor.runtime.chain import cut
    from adgovernor.subscribe import PartitionReader

    lost: list[Checked] = []
    for ledger in (name for name in topics.LEDGERS if name in found):
        name = topics.full_name(settings.prefix, ledger)
        try:
            async with PartitionReader(
                settings.kafka.connection(), name, client_id="adgovernor-check"
            ) as reader:
                firsts = await reader.first_offsets(reader.partitions())
        except BadSettings as error:
            return [*lost, Checked("topics", "error", str(error), "give this user READ on the ledgers")]
        except Unavailable as error:
            # Some broker has answered, so it is one of the others that does not.
            return [*lost, Checked("kafka", "error", str(error), "start the brokers that are away")]
        lost += [
            Checked(
                "topics",
                "error",
                cut(f"{name}[{partition}]", first, 0),
                "keep Redis, which alone has the state now, and see deploy/OPERATIONS.md",
            )
            for partition, first in sorted(firsts.items())
            if first > 0
        ]
    return lost


async def _redis(settings: Settings) -> list[Checked]:
    from adgovernor.stores.redis import RedisStore

    try:
        store = RedisStore(settings.redis.config(), settings.prefix)
    except BadSettings as error:
        return [Checked("settings", "error", str(error), "correct the table redis of the settings")]
    try:
        return [
            Checked("redis", finding.level, f"{finding.subject}: {finding.message}", finding.mend)
            if finding.subject != "connection"
            else Checked("redis", finding.level, finding.message, finding.mend)
            for finding in await store.check()
        ]
    finally:
        await store.close()
