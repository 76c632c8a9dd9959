"""Appending a block, and finding out what became of it."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.runtime.chain import Verdict, Walk, chain_in, verdict
from adgovernor.runtime.ports import READ_TRIES, AppendUnknown
from adgovernor.runtime.reading import walk_ledger
from adgovernor.runtime.world import StartOver, World

UNKNOWN: Final = "unknown"
"""Why a shard starts over whose block may have landed, or not."""


class _Tip(NamedTuple):
    height: int
    chain: str
    offset: int
    """Where it lies."""


async def commit(world: World, walk: Walk, data: bytes, chain: str) -> int:
    """Appends a block that follows the walk's last one; its offset, once it counts. The walk is then past it.

    Raises:
        StartOver: when another owner's block came first, or nothing certain could be learned.
        Halted: when the log lost messages that had been read.
    """
    loop = asyncio.get_running_loop()
    if world.unacknowledged_since is None:
        world.unacknowledged_since = loop.time()
    try:
        offset = await _commit(world, walk, data, chain)
    except StartOver as lost:
        if lost.reason != UNKNOWN:
            world.unacknowledged_since = None
        raise
    world.unacknowledged_since = None
    return offset


async def _commit(world: World, walk: Walk, data: bytes, chain: str) -> int:
    height = walk.height + 1
    before = _Tip(walk.height, walk.chain, walk.tip_offset)
    error: Exception | None = None
    for attempt in range(1 + world.settings.resend_limit):
        if attempt:
            await asyncio.sleep(world.pause_s(attempt))
        walked = walk.offset
        world.progress += 1
        try:
            acknowledged = await world.log.append(data, world.settings.append_deadline_s)
        except AppendUnknown as unknown:
            # It may have landed or land yet, so what the log shows decides. Absence proves nothing: the same
            # bytes are sent again, and whichever copy comes first is the block.
            error = unknown
            world.observer.append_unknown(world.shard, height=height, error=str(unknown))
            try:
                found = await _look(world, walk, chain, None)
            except Unavailable as unreadable:
                error = unreadable
                continue
            if found is not None:
                await _prove(world, before)
                return found
            continue
        match verdict(acknowledged, walked):
            case Verdict.ACCEPTED:
                if error is not None:
                    await _prove(world, before)
                walk.take_own(acknowledged, height, chain)
                return acknowledged
            case Verdict.LOST:
                raise _truncated(
                    world,
                    f"gave offset {acknowledged} to a block that was sent when {walked} messages had been read",
                )
            case Verdict.GAP:
                try:
                    found = await _look(world, walk, chain, acknowledged)
                except Unavailable as unreadable:
                    raise StartOver(
                        UNKNOWN, f"block {height} cannot be read back: {unreadable}"
                    ) from unreadable
                if found is not None:
                    await _prove(world, before)
                    return found
                raise StartOver(
                    UNKNOWN, f"the message at offset {acknowledged} is not the block that was sent"
                )
    raise StartOver(UNKNOWN, f"block {height} was not acknowledged: {error}")


async def _prove(world: World, before: _Tip) -> None:
    """Makes sure that the block before one that was sent more than once still lies where it was. A log that lost it
    could have given its place to one copy, and another copy would lie just where the block is expected.

    Raises:
        Halted: when something else lies there.
        StartOver: when it cannot be read.
    """
    if before.height == 0:
        return
    for tries in range(READ_TRIES):
        if tries:
            await asyncio.sleep(world.pause_s(tries))
        try:
            entries, _ = await world.log.read_ledger(before.offset, world.settings.read_bytes)
        except Unavailable:
            continue
        if entries:
            if entries[0].offset != before.offset or chain_in(entries[0].value) != before.chain:
                raise _truncated(
                    world, f"has something else at offset {before.offset} than block {before.height}"
                )
            return
    raise StartOver(UNKNOWN, f"block {before.height} cannot be read back at offset {before.offset}")


def _truncated(world: World, what: str) -> Halted:
    return world.halt(
        "ledger_truncated",
        f"the ledger {what}: the log lost messages. Look at the broker's log directories and replicas; when the loss "
        f"is understood, run `adgovernor recover {world.shard} --accept-loss --why TEXT`",
    )


async def _look(world: World, walk: Walk, chain: str, until: int | None) -> int | None:
    """Walks on to the log's end, or past offset ``until``, looking for the block with ``chain``; its offset.

    The walk stops right behind the block, so that what others wrote after it is met by the next append.

    Raises:
        StartOver: when another block took its place.
        Unavailable: when the log cannot be read that far.
    """
    async for block, offset in walk_ledger(world, walk, until):
        if block.chain == chain:
            return offset
        world.observer.block_void(world.shard, height=block.header.height)
        raise StartOver("void", f"{block.header.owner} wrote block {block.header.height} first")
    return None
