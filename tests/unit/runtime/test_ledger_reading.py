"""Reading a ledger back, a message at a time, from a log that is slow to show what it has."""

from __future__ import annotations

import pytest
from engine_kit import Deployment

from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.ledger import BlockHeader, encode_block
from adgovernor.runtime.chain import Walk
from adgovernor.runtime.memory_log import MemoryShardLog
from adgovernor.runtime.ports import READ_TRIES, LedgerEntry
from adgovernor.runtime.reading import entry_from, walk_ledger
from adgovernor.runtime.world import World


class Hesitant(MemoryShardLog):
    """Shows nothing as often as it is told to, each time before it shows something."""

    empty = 0
    asked = 0

    async def read_ledger(self, offset: int, max_bytes: int) -> tuple[list[LedgerEntry], int]:
        self.asked += 1
        entries, end = await super().read_ledger(offset, max_bytes)
        return ([] if self.asked % (self.empty + 1) else entries), end


def world_of(*values: bytes, empty: int = 0) -> World:
    """A shard whose ledger has these messages, and is read one by one."""
    deployment = Deployment(read_bytes=1)
    world = deployment.world("u0")
    world.log = log = Hesitant(deployment.broker, "u0")
    log.empty = empty
    for value in values:
        deployment.broker.produce("ledger", 0, None, value)
    return world


def block() -> bytes:
    """A ledger's first block."""
    return encode_block(BlockHeader("test", "u0", 1, "", "me", "", 0, False, 1, {}, 0, {}), [])[0]


async def heights(world: World, past: int | None = None) -> list[int]:
    """Of the blocks that count."""
    return [found.header.height async for found, _ in walk_ledger(world, Walk("test", "u0"), past)]


async def test_what_is_to_be_passed_is_read_too() -> None:
    """Walking past an offset ends behind what lies there, however much of others' lies before it."""
    assert await heights(world_of(b"another's", block(), b"later"), past=1) == [1]


async def test_a_log_that_hesitates_is_read_to_its_end() -> None:
    """Readings that show nothing are counted in a row: a long ledger may have more of them than one place may."""
    others = [b"another's"] * READ_TRIES
    assert await heights(world_of(*others, block(), empty=2)) == [1]


async def test_a_log_that_never_shows_what_it_promises_is_given_up() -> None:
    """Where a place stays empty though the end is behind it, the ledger cannot be read now."""
    world = world_of(block(), empty=READ_TRIES)
    with pytest.raises(Unavailable, match="shows nothing at offset 0, its end is 1"):
        await heights(world)
    assert isinstance(world.log, Hesitant)
    assert world.log.asked == READ_TRIES


@pytest.mark.parametrize(("empty", "found"), [(READ_TRIES - 1, True), (READ_TRIES, False)])
async def test_one_message_is_looked_for_several_times(empty: int, found: bool) -> None:
    """A message that a reading does not show may be there; after several it counts as not there."""
    entry = await entry_from(world_of(block(), empty=empty), 0)
    assert (entry is not None) == found
