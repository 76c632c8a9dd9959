"""The store behind one shard: what an answer that does not come means, and how often is often enough."""

from __future__ import annotations

import asyncio
from typing import Any

from engine_kit import Deployment
from faulty import FaultyStore

from adgovernor.contracts.ledger import BlockHeader, encode_block
from adgovernor.runtime.chain import Spine, new_spine
from adgovernor.runtime.trail import Trail
from adgovernor.stores.base import NOTHING


class Behind:
    """A trail whose store is empty, and a ledger that grows."""

    def __init__(self, **settings: Any) -> None:
        deployment = Deployment(**settings)
        deployment.store = self.store = FaultyStore()
        self.spine: Spine = new_spine("u0")
        self.trail = Trail(deployment.world("u0"), deployment.machine("u0"), self.spine, NOTHING)
        self.grow()

    def grow(self) -> None:
        """One more block is in the ledger."""
        height = self.spine.height + 1
        header = BlockHeader("test", "u0", height, self.spine.chain, "me", "", height, False, 1, {}, 0, {})
        _, chain = encode_block(header, [])
        self.spine.advance(header, chain, height, {})

    async def write(self) -> None:
        """One try to bring the store to the ledger's tip."""
        self.trail.pump()
        assert self.trail._task is not None
        await asyncio.wait({self.trail._task})


async def test_one_write_that_got_lost_is_no_refusal() -> None:
    """A store that answers where it is, and takes the next write, is neither away nor full."""
    behind = Behind(backoff_s=0.05)
    behind.store.swaps = ["lost"]
    await behind.write()
    assert behind.trail.confirmed == NOTHING
    assert not behind.trail.fails
    assert behind.trail.stuck_s == 0
    assert await behind.trail.bring(5), "it is tried again after a pause"


async def test_a_store_that_takes_nothing_is_told_from_one_that_is_away() -> None:
    """A full store answers, so it is not away; since when nothing can be written is known, until something can."""
    behind = Behind()
    behind.store.full = True
    assert not await behind.trail.bring(0.1)
    assert behind.trail.refuses
    assert behind.trail.stuck_s > behind.trail.away_s == 0
    behind.store.full = False
    assert await behind.trail.bring(5)
    assert not behind.trail.fails
    assert behind.trail.stuck_s == 0


async def test_a_write_whose_answer_got_lost_holds_nothing_up() -> None:
    """Where the store says that it is there, the next write need not wait."""
    behind = Behind(backoff_s=60.0, backoff_max_s=60.0)
    behind.store.swaps = ["unanswered"]
    await behind.write()
    assert behind.trail.confirmed == behind.spine.tip
    behind.grow()
    assert await behind.trail.bring(5)


async def test_a_write_that_lands_late_is_on_the_path() -> None:
    """A write that was given up, and lands before the next one, leaves the store where this owner once wanted it: it
    goes on from there, and nobody starts over."""
    behind = Behind()
    behind.store.swaps = ["late"]
    await behind.write()
    assert behind.trail.confirmed == NOTHING
    behind.grow()
    assert await behind.trail.bring(5)
    meta = await behind.store.read_meta("u0")
    assert meta is not None
    assert meta.tip == behind.spine.tip


async def test_a_store_that_is_at_the_tip_is_asked_now_and_then() -> None:
    """Where nothing is to be written the store is asked where it is once in `store_check_s`, and not each time."""
    behind = Behind(store_check_s=60.0)
    assert await behind.trail.bring(5)
    written = behind.trail._task
    behind.trail.pump()
    assert behind.trail._task is written
    behind.trail._heard_s -= 60
    await behind.write()
    asked = behind.trail._task
    assert asked is not written
    behind.trail.pump()
    assert behind.trail._task is asked
