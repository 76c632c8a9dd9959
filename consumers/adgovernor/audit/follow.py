"""One shard's ledger, followed along its chain: each block is decided again and compared with what lies beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from adgovernor.audit.again import decide_again
from adgovernor.audit.beside import Inputs, Outputs
from adgovernor.audit.followed import Followed
from adgovernor.audit.history import History, take_new_keys
from adgovernor.audit.report import Report
from adgovernor.audit.shelf import Shelf
from adgovernor.audit.stored import StoreState, compare_store
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.ledger import ReadBlock, parse_block
from adgovernor.core.machine import RULES
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.chain import Walk, cut, new_spine
from adgovernor.stores.base import Store


async def follow(
    history: History,
    prefix: str,
    shard: str,
    partitions: int,
    store: Store | None,
    folder: Path,
    report: Report,
) -> Followed:
    """Follows a shard from its first block to the end of its ledger, as it is then. ``folder``: for what is too much
    for memory; ``report``: takes what is found."""
    machine = machine_of(shard, Rules(partitions=partitions))
    one = Followed(
        shard,
        Walk(prefix, shard),
        machine,
        new_spine(shard),
        Shelf(folder / shard),
        Inputs(history, shard, report),
        Outputs(history, shard, report),
    )
    if not topics.is_treasury(shard):
        await read_keys_of(history, one, report)
    expected = await StoreState.read(store, machine) if store is not None else None
    async for block, place in _blocks(history, one, report):
        if expected is not None and expected.height < block.header.height:
            compare_store(one, expected, report)
            expected = None
        await decide_again(one, block, place, report)
        if one.broken:
            break
    if expected is not None and not one.broken:
        compare_store(one, expected, report)
    if one.astray and not one.broken:
        # An owner goes on from what it believes to count. What it believed in was there, then, and is not any more.
        report.fault(
            "chain", one.astray, "this block continues one that does not count: the ledger lost a block"
        )
    await _rest(one)
    return one


async def read_keys_of(history: History, one: Followed, report: Report) -> None:
    """Takes the keys that were made since they were last read."""
    for place, wrong in await take_new_keys(history, one.keys, topics.partition_of_shard(one.shard)):
        report.fault("keys", place, wrong)


async def go_on(history: History, one: Followed, report: Report) -> bool:
    """Follows a shard from where it was left; whether there was more."""
    height = one.spine.height
    async for block, place in _blocks(history, one, report):
        await decide_again(one, block, place, report)
        if one.broken:
            break
    await _rest(one)
    return one.spine.height > height


async def _rest(one: Followed) -> None:
    """Ends what is only done once, and keeps of a shard that was read what all shards together are judged by."""
    spine = one.spine
    if one.inputs is not None and not one.broken:
        await one.inputs.finish(spine.positions)
    if one.outputs is not None and not one.broken:
        one.outputs.finish(spine.published.height)
    one.inputs = one.outputs = None
    if isinstance(one.machine, UserShard):
        one.people.put_away(one.machine, 0)
        one.people.close()


async def _blocks(history: History, one: Followed, report: Report) -> AsyncIterator[tuple[ReadBlock, str]]:
    ledger, partition = topics.ledger_topic(one.shard), topics.partition_of_shard(one.shard)
    first = await history.first(ledger, partition)
    if first > one.walk.offset:
        report.fault("chain", f"{ledger}[{partition}]", cut(f"{ledger}[{partition}]", first, one.walk.offset))
        one.broken = True
        return
    async for message in history.messages(ledger, partition, one.walk.offset):
        place = f"{ledger}[{partition}] offset {message.offset}"
        try:
            block = parse_block(message.value or b"", causes_of=RULES)
        except BadInput as error:
            report.fault("chain", place, str(error))
            one.broken = True
            return
        if not one.walk.take(message.offset, block):
            report.count("void blocks")
            header = block.header
            if header.shard == one.shard and header.height > one.walk.height + 1:
                # Not one that came second, but one that came after what is not there.
                if header.prev_chain in one.void:
                    one.astray = one.astray or place
                one.void.add(block.chain)
            continue
        if block.header.recovery is not None:
            one.astray = ""
        report.count("blocks")
        try:
            if one.keys.behind(block):
                await read_keys_of(history, one, report)
            one.keys.open(block)
        except BadInput as error:
            report.fault("keys", f"{place}, height {block.header.height}", str(error))
            one.broken = True
            return
        yield block, f"{place}, height {block.header.height}"
