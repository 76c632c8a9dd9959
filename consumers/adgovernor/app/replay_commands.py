"""``adgovernor replay``: a ledger's recorded inputs, published into a fresh deployment."""

from __future__ import annotations

import asyncio
import heapq
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from adgovernor.app.console import AsJson, complain, counted, print_json, run_async, settings_of
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, BadSettings

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.audit.history import History
    from adgovernor.contracts.ledger import ReadBlock

_READ_BYTES = 1_000_000
"""All ledgers are open at once, so each may have a little in memory only."""
_UNREADABLE = "unreadable"
_PAUSE_S = 0.01
"""Inputs are held back for at least so long: a timer for each would cost more than it."""
_LARGEST = 1_040_000
"""Just under what a topic takes by default; an input came through one."""


def replay(
    context: typer.Context,
    to: Annotated[
        str, typer.Argument(metavar="PREFIX", help="The fresh deployment; its topics may exist, empty.")
    ],
    per_s: Annotated[
        float | None,
        typer.Option(
            "--per-s", min=0.1, help="At most so many inputs a second. Left out: as fast as it goes."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish the inputs recorded in this deployment's ledgers into another, in the order they were taken.

    Topics are made with the same number of partitions where they are missing. Workers on the new prefix, with
    --clock events, take the same inputs under their own rules. Definitions and money come to a shard at other moments
    than they did: a request that is ahead of them has no winner (`unknown_campaign`, `no_lease`). For decisions that
    resemble those that were made, let workers run already and publish no faster than a few times the traffic of
    then (--per-s). `adgovernor audit` is what proves the decisions that were made.

    Example: adgovernor --prefix trial topics create; adgovernor --prefix trial run --clock events &

    adgovernor --prefix prod replay trial --per-s 1000
    """
    from adgovernor.app.settings import PREFIX

    settings = settings_of(context)
    if not re.fullmatch(PREFIX, to):
        raise BadInput(f"{to!r} is no prefix; give 1 to 80 letters, digits, dots, dashes and underscores")
    if to == settings.prefix:
        raise BadInput("a history cannot be replayed into its own deployment; give another prefix")
    counts: Counter[str] = Counter()
    try:
        run_async(_replay(settings, to, per_s, counts))
    except KeyboardInterrupt:
        complain(
            f"interrupted: {counted(counts.total(), 'input')} were handed over to {to}, and not all of them may have "
            "landed. A history is replayed from its beginning: do it again, into another prefix that was never used"
        )
        raise
    unreadable = counts.pop(_UNREADABLE, 0)
    if as_json:
        print_json(
            {
                "from": settings.prefix,
                "to": to,
                "published": dict(sorted(counts.items())),
                _UNREADABLE: unreadable,
            }
        )
        return
    told = ", ".join(f"{count} {topic}" for topic, count in sorted(counts.items())) or "nothing"
    typer.echo(f"published to {to}: {told}")
    if unreadable:
        typer.echo(f"{unreadable} inputs were erased and cannot be replayed", err=True)


async def _replay(settings: Settings, to: str, per_s: float | None, counts: Counter[str]) -> None:
    from adgovernor.audit.history import KafkaHistory
    from adgovernor.publish import Bulk, Publisher
    from adgovernor.runtime.topics_admin import create_topics, partition_count

    connection = settings.kafka.connection()
    partitions = await partition_count(connection, settings.prefix)
    await create_topics(connection, to, partitions)
    await _must_be_empty(settings, to)
    clock = asyncio.get_running_loop().time
    began: float | None = None
    async with (
        KafkaHistory(connection, settings.prefix, read_bytes=_READ_BYTES) as history,
        Publisher(connection, prefix=to, partitions=partitions, message_bytes=_LARGEST) as publisher,
    ):
        bulk = Bulk(publisher, topics.AD_REQUESTS)
        try:
            async for block in in_order(history, settings.prefix):
                partition = topics.partition_of_shard(block.header.shard)
                for record in block.records:
                    if record.topic not in topics.PUBLIC_INPUTS:
                        continue
                    key, value = record.key(), record.value()
                    if key is None and value is None:
                        counts[_UNREADABLE] += 1
                        continue
                    name = f"{record.topic}-{partition}-{record.offset}"
                    headers = topics.cloud_headers(
                        record.topic, f"/adgovernor/replay/{settings.prefix}", name
                    )
                    await bulk.put(key, value, headers, partition, record.topic)
                    if began is None:
                        began = clock()  # Connecting took its time, which is not to be caught up with.
                    counts[record.topic] += 1
                    if per_s is not None and (ahead := began + counts.total() / per_s - clock()) > _PAUSE_S:
                        await asyncio.sleep(ahead)
            await bulk.finish()
        finally:
            bulk.abandon()


async def _must_be_empty(settings: Settings, prefix: str) -> None:
    from adgovernor.subscribe import PartitionReader

    # Workers may run already: what their ledgers hold without any input is that they took the shards over.
    for topic in topics.PUBLIC_INPUTS:
        name = topics.full_name(prefix, topic)
        async with PartitionReader(
            settings.kafka.connection(), name, client_id="adgovernor-replay"
        ) as reader:
            if any((await reader.ends(reader.partitions())).values()):
                raise BadSettings(f"topic {name} is not empty; replay into a prefix that was never used")


async def in_order(history: History, prefix: str) -> AsyncIterator[ReadBlock]:
    """The blocks of all ledgers, in the order of their owners' clocks; each ledger's own order is kept."""
    partitions = range(await history.partitions())
    shards = [make(p) for make in (topics.treasury_shard, topics.user_shard) for p in partitions]
    streams = [_blocks(history, prefix, shard) for shard in shards]
    heap: list[tuple[int, int, ReadBlock]] = []
    for place, stream in enumerate(streams):
        first = await anext(stream, None)
        if first is not None:
            heap.append((first.header.now_ms, place, first))
    heapq.heapify(heap)
    while heap:
        _, place, block = heapq.heappop(heap)
        yield block
        after = await anext(streams[place], None)
        if after is not None:
            heapq.heappush(heap, (after.header.now_ms, place, after))


async def _blocks(history: History, prefix: str, shard: str) -> AsyncIterator[ReadBlock]:
    """The blocks of one ledger that count, opened as far as the keys are still there."""
    from adgovernor.audit.history import take_new_keys
    from adgovernor.runtime.chain import Walk, cut
    from adgovernor.runtime.ports import LedgerEntry
    from adgovernor.runtime.unsealing import Keys

    walk, keys = Walk(prefix, shard), Keys()
    ledger, partition = topics.ledger_topic(shard), topics.partition_of_shard(shard)
    if first := await history.first(ledger, partition):
        raise BadInput(cut(f"{topics.full_name(prefix, ledger)}[{partition}]", first, 0))
    async for message in history.messages(ledger, partition):
        block = walk.step(LedgerEntry(message.offset, message.time_ms, message.value or b""))
        if block is None:
            continue
        if keys.behind(block):
            for place, wrong in await take_new_keys(history, keys, partition):
                raise BadInput(f"{place}: {wrong}")
        keys.open(block)
        yield block
