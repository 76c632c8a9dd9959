"""Proves a history: walks every ledger from its first block, decides everything again, and compares.

The machines are the live ones; what is compared with them (bytes, offsets, sums) is read from the topics and the
store. A shard whose chain is broken is not followed beyond the break. Memory holds one shard's state at a time, a part
of its people, and a few blocks: histories may be of any length.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from adgovernor.audit.again import decide_again
from adgovernor.audit.beside import Inputs, Outputs
from adgovernor.audit.followed import Followed
from adgovernor.audit.history import History, take_new_keys
from adgovernor.audit.report import Report
from adgovernor.audit.shelf import Shelf
from adgovernor.audit.stored import StoreState, compare_store
from adgovernor.audit.sums import check_links, check_money
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.ledger import ReadBlock, parse_block
from adgovernor.contracts.sealing import id_of
from adgovernor.core.machine import RULES
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.chain import Walk, cut, new_spine
from adgovernor.runtime.collector import Collector
from adgovernor.stores.base import Store

_ROUNDS = 20
"""How often shards are followed further; each time less is left to follow."""


async def audit(
    history: History, prefix: str, store: Store | None, *, collector: Collector | None = None
) -> Report:
    """Proves a whole deployment's history. ``collector``: of a process that does nothing else; it sweeps after each
    shard.

    Raises:
        BadInput: when there is no history to prove.
        Unavailable: when a server does not answer.
    """
    report = Report()
    partitions = await history.partitions()
    if store is None:
        report.skipped["store"] = "no store was named"
    shards = [topics.treasury_shard(p) for p in range(partitions)]
    shards += [topics.user_shard(p) for p in range(partitions)]
    followed: dict[str, Followed] = {}
    with tempfile.TemporaryDirectory(prefix="adgovernor-audit-") as folder:
        for shard in shards:
            followed[shard] = await _follow(history, prefix, shard, partitions, store, Path(folder), report)
            if collector is not None:
                collector.sweep()
        await _even_out(history, followed, report)
        await _check_keys(history, followed, report)
        check_links(followed, report)
        check_money(followed, report)
        for rules, records in sorted(report.others.items()):
            report.notes.append(
                f"{records} records were decided by rules {rules}, and this release decides by {RULES}: they were "
                "folded and not decided again; the release that wrote them can do that"
            )
        for one in followed.values():
            one.people.close()
    return report


async def _even_out(history: History, followed: dict[str, Followed], report: Report) -> None:
    """Follows further, on a deployment that is at work, those shards whose messages others took after their own
    ledger was read: one shard is read after the other, and the sums need one moment for all."""
    for _ in range(_ROUNDS):
        moved = False
        for name, one in followed.items():
            if not one.broken and any(
                other.machine.links.taken.get(name, (0, ""))[0]
                > one.machine.links.sent.get(shard, (0, ""))[0]
                for shard, other in followed.items()
            ):
                moved = await _go_on(history, one, report) or moved
        if not moved:
            return


# --- One ledger ------------------------------------------------------------------------------------------------


async def _follow(
    history: History,
    prefix: str,
    shard: str,
    partitions: int,
    store: Store | None,
    folder: Path,
    report: Report,
) -> Followed:
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
        await _read_keys(history, one, report)
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


async def _read_keys(history: History, one: Followed, report: Report) -> None:
    for place, wrong in await take_new_keys(history, one.keys, topics.partition_of_shard(one.shard)):
        report.fault("keys", place, wrong)


async def _go_on(history: History, one: Followed, report: Report) -> bool:
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
                await _read_keys(history, one, report)
            one.keys.open(block)
        except BadInput as error:
            report.fault("keys", f"{place}, height {block.header.height}", str(error))
            one.broken = True
            return
        yield block, f"{place}, height {block.header.height}"


async def _check_keys(history: History, followed: dict[str, Followed], report: Report) -> None:
    if not any(one.keys.sealed for one in followed.values()):
        report.skipped["keys"] = "the ledger is not sealed"
    for one in followed.values():
        keys = one.keys
        if one.broken or not keys.sealed:
            continue
        await _read_keys(history, one, report)
        for name in sorted(keys.missing):
            report.fault(
                "keys", one.shard, f"key {name} is gone, and no erasure ended it: what it sealed is unproved"
            )
        for _ in keys.given_up:
            report.count("keys whose loss was accepted")
        for name, height in keys.ended.items():
            if id_of(name) not in keys.there or id_of(name) in keys.gone:
                report.count("keys ended by erasures")
            elif height <= one.spine.published.height:
                report.fault(
                    "keys",
                    one.shard,
                    f"key {name} is there, though an erasure ended it at {height}: the topic lost that; "
                    f"`adgovernor recover {one.shard}` ends it again",
                )
            else:
                report.notes.append(f"{one.shard}: key {name} was ended at {height}, its tombstone follows")
