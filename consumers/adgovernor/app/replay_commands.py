"""``adgovernor replay``: a ledger's recorded inputs, published into a fresh deployment."""

from __future__ import annotations

import heapq
import re
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adgovernor.app.console import AsJson, print_json, run_async, settings_of
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.contracts.ledger import ReadBlock
    from adgovernor.runtime.unsealing import Keys
    from adgovernor.subscribe import PartitionReader

_REFILL = 50
_HOLD_MS = 20
_WAIT_S = 0.5
_SILENT_READS = 20
_UNREADABLE = "unreadable"
_LARGEST = 1_040_000
"""Just under what a topic takes by default; an input came through one."""


def replay(
    context: typer.Context,
    to: Annotated[
        str, typer.Argument(metavar="PREFIX", help="The fresh deployment; its topics may exist, empty.")
    ],
    as_json: AsJson = False,
) -> None:
    """Publish the inputs recorded in this deployment's ledgers into another, in the order they were taken.

    Topics are made with the same number of partitions where they are missing. Run workers on the new prefix with
    --clock events afterwards: the same events happen again under the rules of these workers. Money moves between
    shards at other moments, so near the end of a budget single decisions may differ; `adgovernor audit` is what proves
    the decisions that were made.

    Example: adgovernor --prefix prod replay trial && adgovernor --prefix trial run --clock events
    """
    from adgovernor.app.settings import PREFIX

    settings = settings_of(context)
    if not re.match(PREFIX, to) or to.endswith("\n"):
        raise BadInput(f"{to!r} is no prefix; give 1 to 80 letters, digits, dots, dashes and underscores")
    if to == settings.prefix:
        raise BadInput("a history cannot be replayed into its own deployment; give another prefix")
    counts = run_async(_replay(settings, to))
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


async def _replay(settings: Settings, to: str) -> Counter[str]:
    from adgovernor.publish import Bulk, Publisher
    from adgovernor.runtime.topics_admin import create_topics, partition_count

    connection = settings.kafka.connection()
    partitions = await partition_count(connection, settings.prefix)
    await create_topics(connection, to, partitions)
    await _must_be_empty(settings, to)
    counts: Counter[str] = Counter()
    async with Publisher(connection, prefix=to, partitions=partitions, message_bytes=_LARGEST) as publisher:
        bulk = Bulk(publisher, topics.AD_REQUESTS)
        try:
            async for block in _in_order(settings, partitions):
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
                    counts[record.topic] += 1
            await bulk.finish()
        finally:
            bulk.abandon()
    return counts


async def _must_be_empty(settings: Settings, prefix: str) -> None:
    from adgovernor.subscribe import PartitionReader

    for topic in (*topics.PUBLIC_INPUTS, *topics.LEDGERS):
        name = topics.full_name(prefix, topic)
        async with PartitionReader(
            settings.kafka.connection(), name, client_id="adgovernor-replay"
        ) as reader:
            if any((await reader.ends(reader.partitions())).values()):
                raise BadSettings(f"topic {name} is not empty; replay into a prefix that was never used")


async def _in_order(settings: Settings, partitions: int) -> AsyncIterator[ReadBlock]:
    """The blocks of all ledgers, in the order of their owners' clocks; each ledger's own order is kept."""
    from adgovernor.audit.history import KafkaHistory
    from adgovernor.runtime.unsealing import Keys
    from adgovernor.subscribe import PartitionReader

    connection = settings.kafka.connection()
    readers: dict[str, Any] = {}
    keys = [Keys() for _ in range(partitions)]
    try:
        streams: list[_Stream] = []
        for ledger, shard_of in (
            (topics.TREASURY_LEDGER, topics.treasury_shard),
            (topics.LEDGER, topics.user_shard),
        ):
            name = topics.full_name(settings.prefix, ledger)
            reader = PartitionReader(connection, name, client_id="adgovernor-replay", hold_ms=_HOLD_MS)
            await reader.open()
            readers[ledger] = reader
            ends = await reader.ends(range(partitions))
            streams += [
                _Stream(reader, settings.prefix, shard_of(p), ends[p], keys[p]) for p in range(partitions)
            ]
        # After the ends: a key is there before the block that names it, so a worker may go on meanwhile.
        async with KafkaHistory(connection, settings.prefix) as history:
            for partition, found in enumerate(keys):
                async for message in history.messages(topics.PERSON_KEYS, partition):
                    found.take(message.offset, message.key, message.value)
        heap: list[tuple[int, int, ReadBlock]] = []
        for place, stream in enumerate(streams):
            block = await stream.next()
            if block is not None:
                heap.append((block.header.now_ms, place, block))
        heapq.heapify(heap)
        while heap:
            _, place, block = heapq.heappop(heap)
            yield block
            after = await streams[place].next()
            if after is not None:
                heapq.heappush(heap, (after.header.now_ms, place, after))
    finally:
        for reader in readers.values():
            await reader.close()


class _Stream:
    """The blocks of one ledger partition that count, a few in memory at a time. Streams share a reader."""

    def __init__(self, reader: PartitionReader, prefix: str, shard: str, end: int, keys: Keys) -> None:
        from adgovernor.runtime.chain import Walk

        self._reader = reader
        self._walk = Walk(prefix, shard)
        self._end = end
        self._partition = topics.partition_of_shard(shard)
        self._blocks: deque[ReadBlock] = deque()
        self._keys = keys

    async def next(self) -> ReadBlock | None:
        """The next block; None at the end."""
        if not self._blocks and self._walk.offset < self._end:
            await self._refill()
        return self._blocks.popleft() if self._blocks else None

    async def _refill(self) -> None:
        from adgovernor.runtime.ports import LedgerEntry

        await self._reader.read_from({self._partition: self._walk.offset})
        silent = 0
        while not self._blocks and self._walk.offset < self._end:
            messages = await self._reader.read(_REFILL, _WAIT_S)
            silent = 0 if messages else silent + 1
            if silent > _SILENT_READS:
                raise Unavailable(
                    f"the ledger of {self._walk.shard} shows nothing at offset {self._walk.offset}, its end is "
                    f"{self._end}"
                )
            for message in messages:
                if message.partition != self._partition or message.offset < self._walk.offset:
                    continue
                block = self._walk.step(LedgerEntry(message.offset, message.time_ms, message.value or b""))
                if block is not None:
                    self._keys.open(block)
                    self._blocks.append(block)
