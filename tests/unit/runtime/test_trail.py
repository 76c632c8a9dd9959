"""The store behind one shard: what an answer that does not come means, and how often is often enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from engine_kit import Deployment
from faulty import FaultyStore

from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.ledger import BlockHeader, encode_block
from adgovernor.runtime.chain import Spine, new_spine
from adgovernor.runtime.trail import Trail
from adgovernor.runtime.world import StartOver
from adgovernor.stores.base import NOTHING, Meta, Tip


class Behind:
    """A trail whose store is empty, and a ledger that grows."""

    def __init__(self, store: FaultyStore | None = None, **settings: Any) -> None:
        deployment = Deployment(**settings)
        deployment.store = self.store = store or FaultyStore()
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


class Slow(FaultyStore):
    """Serves a read once it is told to, and answers it once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.serves, self.answers = asyncio.Event(), asyncio.Event()

    async def read_fields(
        self, shard: str, bucket: str, fields: Sequence[str]
    ) -> tuple[Meta | None, list[bytes | None]]:
        await self.serves.wait()
        answer = await super().read_fields(shard, bucket, fields)
        await self.answers.wait()
        return answer


@pytest.mark.parametrize("served_first", [True, False])
async def test_a_read_beside_a_write_is_good_whichever_was_served_first(served_first: bool) -> None:
    """What a cold read finds is this owner's at the tip before the write, and at the one after it."""
    store = Slow()
    behind = Behind(store)
    assert await behind.trail.bring(5)
    behind.grow()
    if served_first:
        store.serves.set()
    reading = asyncio.create_task(behind.trail.read(["ann"]))
    await asyncio.sleep(0.01)  # The read is where it waits.
    await behind.write()
    assert behind.trail.confirmed == behind.spine.tip
    store.serves.set()
    store.answers.set()
    assert await reading == [None]


async def test_what_is_read_of_another_owners_state_is_not_believed() -> None:
    """Where the store is at a tip that this owner never wrote, memory is dropped."""
    behind = Behind()
    assert await behind.trail.bring(5)
    other = Meta(Tip(behind.spine.ledger, 2, "f" * 64), b"{}")
    assert await behind.store.swap("u0", behind.spine.tip, other, {}) is None
    with pytest.raises(StartOver, match="which this owner did not write"):
        await behind.trail.read(["ann"])


async def test_a_read_that_is_answered_says_that_the_store_is_back() -> None:
    """Whatever answers first ends the time in which the store counts as away."""

    class Mute(FaultyStore):
        async def read_meta(self, shard: str, touch: Sequence[str] = ()) -> Meta | None:
            raise Unavailable("no answer")

    behind = Behind(Mute())
    assert await behind.trail.bring(5)
    behind.trail.went_away()
    away = [behind.trail.away]
    await behind.trail.read(["ann"])
    assert [*away, behind.trail.away] == [True, False]
    behind.trail.discard()
