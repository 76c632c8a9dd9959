"""Corners that the simulation turned up: each the smallest case that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from engine_kit import Deployment, until
from faulty import FaultyLog

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import DAY_MS, Cap
from adgovernor.contracts.errors import Halted
from adgovernor.contracts.ledger import BlockHeader, Draft, encode_block
from adgovernor.core import caps
from adgovernor.core.machine import Input, Machine
from adgovernor.core.rules import Rules
from adgovernor.core.treasury import Treasury
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.takeover import take_over
from adgovernor.stores.base import Meta
from adgovernor.stores.memory import MemoryStore


async def test_outputs_are_republished_from_a_store_that_is_at_the_tip() -> None:
    """A resync that has nothing to fold, because the store is at the tip, still finds what to publish again."""
    deployment = Deployment()
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    deployment.request("r1")
    await deployment.settle()
    await deployment.kill()
    stored = await deployment.store.read_meta("u0")
    assert stored is not None
    memory = await take_over(deployment.world("u0"), claim=False)
    assert memory.folded == 0
    assert memory.spine.published.height == memory.spine.height == stored.tip.height


@pytest.mark.parametrize("sealing", [False, True])
async def test_a_takeover_that_fails_lets_its_states_go(sealing: bool) -> None:
    """What a takeover had read is free at once when it fails, without the cyclic collector, which workers keep off."""
    deployment = Deployment(sealing=sealing)
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    deployment.request("r1")
    await deployment.settle()
    await deployment.kill()
    deployment.store = MemoryStore()
    made: list[Machine] = []

    def machine() -> Machine:
        made.append(deployment.machine("u0"))
        return made[-1]

    log = FaultyLog(deployment.broker, "u0")
    log.appends = ["low"]
    world = replace(deployment.world("u0"), machine_factory=machine, log=log)
    with pytest.raises(Halted):
        await take_over(world, claim=True)
    assert made
    for each in made:
        assert isinstance(each, UserShard)
        assert not each.shares
        assert not each.persons
        assert not each.open


async def test_a_misrouted_request_is_refused_in_the_first_block() -> None:
    """The number of partitions is known before the first block has put the rules in force."""
    deployment = Deployment(partitions=2)
    stranger = next(name for name in map(str, range(100)) if deployment.partition(name) == 1)
    deployment.request("r1", stranger)
    (event,) = deployment.broker.read(topics.AD_REQUESTS, 1, 0, 1)
    deployment.broker.produce(topics.AD_REQUESTS, 0, event.key, event.value)
    deployment.start(["u0"])
    await deployment.settle()
    (decision,) = deployment.decisions()
    assert [slot["no_fill"] for slot in decision["slots"]] == ["misrouted"]
    await deployment.stop()


async def test_an_idle_shard_fills_an_emptied_store_again() -> None:
    """A shard that has nothing to write notices that the store lost its state, and rebuilds it."""
    deployment = Deployment(store_check_s=0.02)
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    assert isinstance(deployment.store, MemoryStore)
    deployment.store._shards.clear()
    await until(lambda: set(deployment.store._shards) == {"u0", "t0"})  # type: ignore[attr-defined]
    await deployment.settle()
    _, stored = await deployment.store.read_buckets("t0", ("campaigns",))
    assert set(stored["campaigns"]) == {"c1"}
    await deployment.stop()


async def test_a_busy_shard_notices_that_the_store_lost_what_it_does_not_write() -> None:
    """A part of the state that is gone from the store comes back also while the shard writes others all the time."""
    deployment = Deployment(store_check_s=0.3)
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    assert isinstance(deployment.store, MemoryStore)
    shards = deployment.store._shards
    del shards["t0"].buckets["commands"]

    def whole() -> bool:
        # What is not JSON changes no state; the block that says so is written all the same.
        deployment.broker.produce(topics.CAMPAIGNS, 0, b"x", b"not json")
        return "t0" in shards and "commands" in shards["t0"].buckets

    await until(whole)
    await deployment.stop()


class _Confused(Treasury):
    """Cannot make sense of its input; ``before`` says what happens meanwhile, and whether it is confused at all."""

    def __init__(self, before: Callable[[], bool]) -> None:
        super().__init__("t0", Rules())
        self._before = before

    def decide(self, event: Input, **options: Any) -> Draft:
        if self._before():
            raise KeyError("c1")
        return super().decide(event, **options)


def _treasury_engine(deployment: Deployment, before: Callable[[], bool]) -> asyncio.Task[None]:
    def machine(shard: str) -> Machine:
        return _Confused(before)

    deployment.machine = machine  # type: ignore[method-assign]
    return deployment.run(deployment.engine("t0"))


async def test_an_owner_that_was_overtaken_folds_again_before_it_believes_in_a_bug() -> None:
    """An input may follow from another owner's blocks: one that makes no sense is read again after those."""
    deployment = Deployment()
    confused = [True]

    def overtaken() -> bool:
        if not confused:
            return False
        confused.clear()
        tip = deployment.ledger("t0")[-1]
        header = BlockHeader(
            prefix="test",
            shard="t0",
            height=tip.header.height + 1,
            prev_chain=tip.chain,
            owner="another",
            nonce="1",
            now_ms=tip.header.now_ms,
            drained=False,
            rules=tip.header.rules,
            positions=tip.header.positions,
            published=tip.header.published,
            dn={},
        )
        deployment.broker.produce(topics.TREASURY_LEDGER, 0, None, encode_block(header, [])[0])
        return True

    deployment.campaign()
    _treasury_engine(deployment, overtaken)
    await deployment.settle()
    assert [len(block.records) for block in deployment.ledger("t0")][-1] > 0
    await deployment.stop()


async def test_a_bug_in_the_core_ends_the_owner_of_the_tip() -> None:
    """An input that makes no sense at the chain's own end is a bug, and must not be tried for ever."""
    deployment = Deployment()
    deployment.campaign()
    with pytest.raises(KeyError):
        await asyncio.wait_for(_treasury_engine(deployment, lambda: True), 10)


def test_servings_are_kept_for_a_day_where_a_cap_counts_by_session() -> None:
    """Nobody says when a session ends, so a `stream` cap keeps a day of history even where less is configured."""
    assert caps.horizon_ms((Cap(window="stream", limit=1),)) == DAY_MS


async def test_a_small_block_is_followed_no_sooner_than_asked() -> None:
    """Events that come one by one right after a block share the next one."""
    deployment = Deployment(gather_s=0.5)
    (engine,) = deployment.start(["u0"])
    await until(lambda: engine.ready)
    deployment.request("r0")
    await until(lambda: next_request(engine) == 1)
    height = engine.height
    for number in range(1, 6):
        deployment.request(f"r{number}")
        await asyncio.sleep(0.01)
    await until(lambda: next_request(engine) == 6)
    assert engine.height == height + 1
    await deployment.stop()


async def test_what_waits_goes_into_one_block_a_few_at_a_time() -> None:
    """A block takes what there is, up to its limit, although only a few events are decoded at a time; in order."""
    deployment = Deployment(max_events=7, bite_events=3)
    for number in range(9):
        deployment.request(f"r{number}", f"user{number % 2}")
    (engine,) = deployment.start(["u0"])
    await until(lambda: next_request(engine) == 9)
    blocks = [[record.offset for record in block.records] for block in deployment.ledger("u0")]
    assert [block for block in blocks if block] == [[0, 1, 2, 3, 4, 5, 6], [7, 8]]
    await deployment.stop()


async def test_what_comes_while_states_are_read_waits_for_the_next_block() -> None:
    """The first event of a block does not wait for those that come while its own state is read, nor for theirs."""
    reading, answer = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def read_fields(
            self, shard: str, bucket: str, fields: Sequence[str]
        ) -> tuple[Meta | None, list[bytes | None]]:
            reading.set()
            await answer.wait()
            return await super().read_fields(shard, bucket, fields)

    deployment = Deployment()
    deployment.store = Slow()
    (engine,) = deployment.start(["u0"])
    deployment.request("r0", "ann")
    answer.set()
    await until(lambda: next_request(engine) == 1 and engine.settled)
    reading.clear()
    answer.clear()
    deployment.request("r1", "bob")
    await until(reading.is_set)
    deployment.request("r2", "cid")
    answer.set()
    await until(lambda: next_request(engine) == 3)
    blocks = [[record.offset for record in block.records] for block in deployment.ledger("u0")]
    assert [block for block in blocks if block] == [[0], [1], [2]]
    await deployment.stop()


def next_request(engine: ShardEngine) -> int:
    """The next ad request to handle."""
    return engine.positions.get(topics.AD_REQUESTS, 0)


async def test_an_owner_that_stops_in_the_middle_of_a_block_still_knows_how_far_it_came() -> None:
    """The block in flight when a stop is asked for counts, and its inputs do not look unhandled after the end."""
    deployment = Deployment()
    deployment.campaign()
    deployment.start(["t0"])
    asked = asyncio.Event()

    class StopsMeanwhile(FaultyLog):
        async def append(self, block: bytes, deadline_s: float) -> int:
            if asked.is_set():
                engine.stop()
            return await super().append(block, deadline_s)

    engine = deployment.engine("u0", StopsMeanwhile(deployment.broker, "u0"))
    running = deployment.run(engine)
    await deployment.settle()
    asked.set()
    deployment.request("r1")
    async with asyncio.timeout(10):
        await running
    assert engine.positions[topics.AD_REQUESTS] == 1


@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_ledger_of_another_number_of_partitions_halts_the_shard(partitions: int) -> None:
    """Where somebody gave the topics more partitions, people and money would belong to other shards: nothing is
    decided."""
    deployment = Deployment(partitions)
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    await deployment.stop()
    grown = Deployment(4)
    grown.broker, grown.store = deployment.broker, deployment.store
    grown.broker.partitions = 4
    for shard in deployment.shards():
        blocks = len(grown.ledger(shard))
        if not any(block.records for block in grown.ledger(shard)):
            continue
        with pytest.raises(Halted, match=f"with {partitions} partitions") as halted:
            async with asyncio.timeout(10):
                await grown.engine(shard).run()
        assert halted.value.reason == "partitions"
        assert len(grown.ledger(shard)) == blocks
