"""From now on: where a reader of an output topic starts that wants only what comes next.

The number comes from the ledger, never from the topic: the topic's newest message may be a repetition.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.runtime.chain import Spine, Walk, count_outputs, cut, new_spine, spine_of
from adgovernor.runtime.outputs import place_of
from adgovernor.runtime.ports import LedgerEntry
from adgovernor.subscribe import PartitionReader, Position

if TYPE_CHECKING:
    from adgovernor.stores.base import Store

_READ = 2_000
_FEW = 10
_WAIT_S = 0.5
_SILENT_READS = 20
"""A ledger that shows nothing for so many reads although its end is further is not readable."""


def writer_of(topic: str, partition: int) -> str:
    """The shard that writes a partition of an output topic."""
    source = topics.letters_about(topic)
    if topic in (topics.DECISIONS, topics.PODS) or source in topics.USER_INPUTS:
        return topics.user_shard(partition)
    return topics.treasury_shard(partition)


async def _bring_to_end(reader: PartitionReader, prefix: str, spines: dict[int, tuple[str, Spine]]) -> None:
    """Moves each spine, by partition, to the end that its ledger has now.

    Raises:
        Unavailable: where a ledger shows less than its end promises.
        BadInput: where what is to be read of it was deleted.
    """
    ends = await reader.ends(spines)
    walks = {
        partition: Walk(prefix, shard, offset=spine.offset, height=spine.height, chain=spine.chain)
        for partition, (shard, spine) in spines.items()
        if spine.offset < ends[partition]
    }
    if not walks:
        return
    await reader.read_from({partition: walk.offset for partition, walk in walks.items()})
    for partition, walk in walks.items():
        if (first := reader.beginnings[partition]) > walk.offset:
            raise BadInput(cut(f"{reader.full_name}[{partition}]", first, walk.offset))
    silent = 0
    while behind := [partition for partition, walk in walks.items() if walk.offset < ends[partition]]:
        messages = await reader.read(_READ, _WAIT_S)
        silent = 0 if messages else silent + 1
        if silent > _SILENT_READS:
            raise Unavailable(
                f"{reader.full_name}[{behind[0]}] shows nothing at offset {walks[behind[0]].offset}, its end is "
                f"{ends[behind[0]]}"
            )
        for message in messages:
            walk = walks[message.partition]
            block = walk.step(LedgerEntry(message.offset, message.time_ms, message.value or b""))
            if block is not None:
                spine = spines[message.partition][1]
                spine.advance(block.header, block.chain, message.offset, count_outputs(block))
                spine.places.clear()


async def now(
    connection: KafkaConnection | str, topic: str, *, prefix: str, redis: str
) -> dict[int, Position]:
    """Where an output topic is now: the ``start`` of a subscriber that wants only what comes next::

        start = await now("localhost:9092", "decisions", prefix="prod", redis="redis://localhost:6379")
        async with subscribe.decisions("localhost:9092", prefix="prod", start=start) as decisions:
            ...

    Args:
        redis: the deployment's store, which knows the ledgers' ends. Where it does not answer, the ledgers are read
            from their beginnings, which takes as long as they are.

    Raises:
        Unavailable: where Kafka cannot be used.
        BadSettings: where a topic does not exist or may not be read, or an address is wrong.
    """
    from adgovernor.stores.redis import RedisStore
    from adgovernor.stores.redis_client import RedisConfig

    store = RedisStore(RedisConfig.from_url(redis), prefix)
    try:
        return await from_now(KafkaConnection.of(connection), prefix, store, topic)
    finally:
        await store.close()


async def from_now(connection: KafkaConnection, prefix: str, store: Store, topic: str) -> dict[int, Position]:
    """Where each partition of an output topic is now, by its ledger.

    The topic's end is taken first and the number afterwards: what is published later has a number beyond it, and
    what was published before the end has not.
    """
    async with PartitionReader(
        connection, topics.full_name(prefix, topic), client_id="adgovernor-watch"
    ) as outputs:
        partitions = outputs.partitions()
        ends = await outputs.ends(partitions)
    by_ledger: dict[str, list[int]] = {}
    for partition in partitions:
        by_ledger.setdefault(topics.ledger_topic(writer_of(topic, partition)), []).append(partition)
    result: dict[int, Position] = {}
    for ledger, wanted in by_ledger.items():
        spines = {p: (writer_of(topic, p), await _known(store, writer_of(topic, p))) for p in wanted}
        async with PartitionReader(
            connection, topics.full_name(prefix, ledger), client_id="adgovernor-watch"
        ) as reader:
            await _bring_to_end(reader, prefix, spines)
        for partition, (_, spine) in spines.items():
            result[partition] = Position(ends[partition], spine.dn.get(topic, 1) - 1)
    return result


async def first_kept(
    connection: KafkaConnection, prefix: str, store: Store, topic: str
) -> dict[int, tuple[Position, int]]:
    """Where those partitions of an output topic begin of which retention has taken the beginning: the position before
    the first message that is left, and that message's offset. A partition that has none left begins where it is now.

    Raises:
        Unavailable: where Kafka cannot be used, or shows less than it promises.
        BadInput: where a partition is empty and its ledger, which alone knows the number, cannot be read.
    """
    found: dict[int, tuple[Position, int]] = {}
    async with PartitionReader(
        connection, topics.full_name(prefix, topic), client_id="adgovernor-watch"
    ) as reader:
        firsts = {p: first for p, first in (await reader.first_offsets(reader.partitions())).items() if first}
        ends = await reader.ends(firsts)
        wanted = [partition for partition, first in firsts.items() if first < ends[partition]]
        # One after the other: of each a message or a few are wanted.
        for partition in wanted:
            await reader.read_from({partition: firsts[partition]})
            silent = 0
            while partition not in found and reader.next[partition] < ends[partition]:
                messages = await reader.read(_FEW, _WAIT_S)
                silent = 0 if messages else silent + 1
                if silent > _SILENT_READS:
                    raise Unavailable(
                        f"{reader.full_name}[{partition}] shows nothing at offset {reader.next[partition]}"
                    )
                for message in messages:
                    place = place_of(message.headers, message.value, topic in topics.DLQS)
                    if place is not None:
                        position = Position(message.offset, place["dn"] - 1)
                        found[partition] = (position, message.offset)
                        break
    if len(found) < len(firsts):
        ends_now = await from_now(connection, prefix, store, topic)
        found |= {p: (ends_now[p], ends_now[p].offset) for p in firsts if p not in found}
    return found


async def _known(store: Store, shard: str) -> Spine:
    """A place in the ledger from which it need not be walked again; its start where the store knows none."""
    try:
        async with asyncio.timeout(5.0):
            meta = await store.read_meta(shard)
    except (Unavailable, TimeoutError):
        return new_spine(shard)
    return new_spine(shard) if meta is None or not meta.tip.height else spine_of(meta)
