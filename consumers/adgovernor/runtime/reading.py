"""Reading a shard's ledger back: block by block along the chain, or what lies at one offset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.runtime.chain import NewerFormat, Walk
from adgovernor.runtime.ports import READ_TRIES, LedgerEntry
from adgovernor.runtime.world import World


async def walk_ledger(
    world: World, walk: Walk, past: int | None = None
) -> AsyncIterator[tuple[ReadBlock, int]]:
    """The blocks that count from the walk's place to the ledger's end, or past offset ``past``, each with its offset.

    Where the reader stops at a block, the walk stands right behind it.

    Raises:
        Unavailable: when the ledger shows less than its end promises.
        Halted: when a newer release wrote it.
    """
    tries = 0
    while True:
        entries, end = await world.log.read_ledger(walk.offset, world.settings.read_bytes)
        for entry in entries:
            try:
                block = walk.step(entry)
            except NewerFormat as error:
                raise world.halt("ledger_format", str(error)) from error
            if block is not None:
                yield block, entry.offset
        if walk.offset > past if past is not None else walk.offset >= end:
            return
        tries = 0 if entries else tries + 1
        if tries >= READ_TRIES:
            raise Unavailable(
                f"the ledger of {world.shard} shows nothing at offset {walk.offset}, its end is {end}: is a replica "
                "missing, or was the topic compacted (`adgovernor check`)?"
            )
        if tries:
            await asyncio.sleep(world.pause_s(tries))


async def entry_from(world: World, offset: int) -> LedgerEntry | None:
    """The first message at an offset or behind it; None where several readings show none.

    Raises:
        Unavailable: when the ledger cannot be read.
    """
    for tries in range(READ_TRIES):
        if tries:
            await asyncio.sleep(world.pause_s(tries))
        entries, _ = await world.log.read_ledger(offset, 1)
        if entries:
            return entries[0]
    return None
