"""Ledgers that lost their ends: what gives it away, whatever else hides it."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from engine_kit import Deployment
from faulty import FaultyLog, FaultyStore, Truncated

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.runtime.chain import new_spine
from adgovernor.runtime.recover import NothingLost, recover, resend
from adgovernor.stores.base import Meta, Tip


async def _served(requests: int, **settings: object) -> tuple[Deployment, Truncated, FaultyStore]:
    """A deployment that has decided requests, each in a block of its own."""
    deployment = Deployment(1, store_deadline_s=0.05, **settings)
    broker = deployment.broker = Truncated(1, deployment.clock)
    store = deployment.store = FaultyStore()
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    for number in range(requests):
        deployment.request(f"r{number}", f"user{number}")
        await deployment.settle()
    return deployment, broker, store


def _cut(broker: Truncated, blocks: int) -> None:
    broker.cut(topics.LEDGER, 0, broker.end(topics.LEDGER, 0) - blocks)


@pytest.mark.parametrize("wipe", [False, True])
async def test_a_witness_ahead_of_the_ledger_halts_the_shard(wipe: bool) -> None:
    """When the log lost its tail, the store's state, or else the last output, gives it away."""
    deployment, broker, store = await _served(10)
    await deployment.stop()
    _cut(broker, 5)
    if wipe:
        store.wipe()
    with pytest.raises(Halted, match="recover u0 --accept-loss") as halted:
        await deployment.engine("u0").run()
    assert halted.value.reason == "ledger_truncated"


async def test_recovery_begins_an_epoch_that_readers_can_follow() -> None:
    """After a person accepted the loss, numbers go on behind what was published, and the store is rebuilt."""
    deployment, broker, _ = await _served(10)
    await deployment.stop()
    _cut(broker, 5)
    before = len(deployment.decisions())
    told = await recover(deployment.world("u0"), why="the disk of the only broker was replaced")
    assert told.epoch == 1
    assert told.dn["decisions"] == before + 1
    deployment.start()
    await deployment.settle()
    deployment.request("after", "user3")
    await deployment.settle()
    block = next(block for block in deployment.ledger("u0") if block.header.recovery is not None)
    assert block.header.recovery is not None
    assert block.header.recovery["why"].startswith("the disk")
    assert deployment.decisions()[-1]["decision_id"] == "after"
    assert deployment.decisions()[-1]["dn"] == len(deployment.decisions())
    meta = await deployment.store.read_meta("u0")
    assert meta is not None
    assert meta.tip.chain == deployment.ledger("u0")[-1].chain
    assert orjson.loads(meta.spine)["epoch"] == 1
    await deployment.stop()


async def test_an_old_output_at_the_end_does_not_hide_newer_ones() -> None:
    """An owner that hung and sent again what it had sent before is not taken for the end of what was sent."""
    deployment, broker, store = await _served(10)
    await deployment.stop()
    _cut(broker, 5)
    store.wipe()
    old = broker.read(topics.DECISIONS, 0, 0, 1)[0]
    broker.produce(topics.DECISIONS, 0, old.key, old.value, old.headers)
    with pytest.raises(Halted) as halted:
        async with asyncio.timeout(10):
            await deployment.engine("u0").run()
    assert halted.value.reason == "ledger_truncated"
    told = await recover(deployment.world("u0"), why="a disk was lost")
    assert told.dn["decisions"] == 11


async def test_a_shard_that_lost_nothing_is_left_as_it_is() -> None:
    """A new epoch of a shard with which all witnesses agree is refused before anything is done, unless it is insisted
    on; afterwards as before, while old messages of the lost history are still there."""
    deployment, broker, store = await _served(10)
    await deployment.stop()
    end, meta = broker.end(topics.LEDGER, 0), await store.read_meta("u0")
    for shard in ("u0", "t0"):
        with pytest.raises(NothingLost, match="agree with its ledger"):
            await recover(deployment.world(shard), why="a test")
    assert (broker.end(topics.LEDGER, 0), await store.read_meta("u0")) == (end, meta)
    assert (await recover(deployment.world("u0"), why="a test", even_if_healthy=True)).epoch == 1
    _cut(broker, 5)
    store.wipe()
    assert (await recover(deployment.world("u0"), why="a disk was lost")).epoch == 1
    with pytest.raises(NothingLost, match="epoch 1"):
        await recover(deployment.world("u0"), why="a test")


@pytest.mark.parametrize("store_says", [True, False])
async def test_a_ledger_that_only_the_store_contradicts_is_recovered(store_says: bool) -> None:
    """Where nothing that was lost had been published, what the store says is enough to accept a loss."""
    deployment = Deployment(1, store_deadline_s=0.05)
    broker = deployment.broker = Truncated(1, deployment.clock)
    store = deployment.store = FaultyStore()
    for _ in range(2):
        deployment.start()
        await deployment.settle()
        await deployment.stop()
    broker.cut(topics.LEDGER, 0, 1)
    if store_says:
        assert (await recover(deployment.world("u0"), why="a disk was lost")).epoch == 1
        return
    store.wipe()
    with pytest.raises(NothingLost):
        await recover(deployment.world("u0"), why="a test")


async def test_a_store_that_belongs_to_a_lost_ledger_is_given_up_with_it() -> None:
    """A ledger that lost everything begins anew though the store, which has nothing yet, was begun for the old one."""
    deployment = Deployment(1, store_deadline_s=0.05)
    store = deployment.store = FaultyStore()
    await store.reset("u0", None, Meta(Tip("lost", 0, ""), new_spine("u0").encode()))
    with pytest.raises(Halted, match="store_of_another_ledger"):
        await deployment.engine("u0").run()
    assert (await recover(deployment.world("u0"), why="a disk was lost")).epoch == 1
    deployment.start(["u0"])
    await deployment.settle()
    await deployment.stop()


async def test_sending_again_waits_until_a_loss_is_accepted() -> None:
    """Nothing is sent again from a ledger that lost its end: behind it, nobody would see how far that had come."""
    deployment, broker, _ = await _served(10)
    await deployment.stop()
    _cut(broker, 5)
    sent = broker.end(topics.DECISIONS, 0)
    with pytest.raises(Halted, match="accept-loss") as halted:
        await resend(deployment.world("u0"), 1)
    assert halted.value.reason == "ledger_truncated"
    assert broker.end(topics.DECISIONS, 0) == sent
    await recover(deployment.world("u0"), why="a disk was lost")
    assert await resend(deployment.world("u0"), 1) > 0


async def test_an_owner_remembers_how_far_its_ledger_reached() -> None:
    """Where the log loses blocks under an owner that goes back to it after an error, the owner halts, though neither
    store nor outputs were looked at."""
    deployment, broker, store = await _served(0, resend_limit=0)
    await deployment.stop()
    log = FaultyLog(broker, "u0")
    task = deployment.run(deployment.engine("u0", log))
    for number in range(5):
        deployment.request(f"r{number}", f"user{number}")
        await deployment.settle()
    _cut(broker, 3)
    store.wipe()
    log.appends.append("lost")
    deployment.request("r5", "user5")
    with pytest.raises(Halted) as halted:
        async with asyncio.timeout(10):
            await task
    assert halted.value.reason == "ledger_truncated"
