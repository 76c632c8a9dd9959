"""The store behind the ledger: lost answers, outages, wipes, old copies and strangers."""

from __future__ import annotations

import asyncio
import random

import pytest
from engine_kit import Deployment, until
from faulty import FaultyLog, FaultyStore

from adgovernor.contracts.errors import Halted
from adgovernor.core.machine import Machine
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.observer import Observer
from adgovernor.stores.base import NOTHING, Meta, Tip


async def prepared(**settings: object) -> tuple[Deployment, FaultyStore]:
    """A running deployment with a campaign, over a store that can go wrong."""
    deployment = Deployment(1, **{"store_deadline_s": 0.05, **settings})
    store = deployment.store = FaultyStore()
    deployment.campaign(caps=[{"scope": "campaign", "window": "lifetime", "limit": 2}], budget=10**9)
    deployment.start()
    await deployment.settle()
    return deployment, store


async def decide(deployment: Deployment, name: str, user: str = "ann") -> str | None:
    """The first slot's no-fill reason of one request; None where it was filled."""
    seen = len(deployment.decisions())
    deployment.request(name, user)
    await until(lambda: len(deployment.decisions()) > seen)
    found = next(body for body in deployment.decisions() if body["decision_id"] == name)
    reason: str | None = found["slots"][0].get("no_fill")
    return reason


async def assert_store_is_the_fold(deployment: Deployment, shard: str = "u0") -> None:
    """The store holds exactly what folding the whole ledger into an empty state gives."""
    machine = deployment.machine(shard)
    for block in deployment.ledger(shard):
        for key in machine.missing_for_fold(block.records):
            machine.load(key, None)
        machine.begin_fold(block.header.height, block.header.now_ms, block.header.drained)
        for record in block.records:
            who = record.personal
            machine.fold(record.draft(), who.get("routing"), who.get("session"), who.get("ids"))
    buckets = (*machine.resident_buckets(), "users")
    _, stored = await deployment.store.read_buckets(shard, buckets)
    expected = {
        bucket: {name: value for name, value in fields.items() if value is not None}
        for bucket, fields in machine.encode(machine.take_changes()).items()
    }
    for bucket in buckets:
        assert stored[bucket] == expected.get(bucket, {}), bucket


async def test_the_store_is_the_fold_of_the_ledger() -> None:
    """When all is quiet the store is at the tip and equals the fold."""
    deployment, _ = await prepared()
    for n in range(20):
        deployment.request(f"r{n}", f"user{n % 4}")
    await deployment.settle()
    for n in range(20):
        deployment.impression(f"r{n}", f"user{n % 4}")
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await assert_store_is_the_fold(deployment, "t0")
    await deployment.stop()


@pytest.mark.parametrize("fault", ["lost", "unanswered"])
async def test_a_swap_without_an_answer_is_looked_up_not_repeated(fault: str) -> None:
    """The store's own word decides whether a write happened; the rest follows from there."""
    deployment, store = await prepared()
    store.swaps = [fault, fault]
    for n in range(10):
        deployment.request(f"r{n}", f"user{n}")
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_an_emptied_store_is_rebuilt_while_running() -> None:
    """Wiped under a running shard, the store is built up again from the ledger, and caps still hold."""
    deployment, store = await prepared(rebuild_fields=3)
    for n in range(30):
        deployment.request(f"r{n}", f"user{n}")
    assert await decide(deployment, "a1") is None
    assert await decide(deployment, "a2") is None
    await deployment.settle()
    store.wipe()
    assert await decide(deployment, "a3") is not None, "the cap of two holds"
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


@pytest.mark.parametrize("bucket", ["users", "open", "campaigns", "core"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "taken-over"])
async def test_a_store_that_lost_one_bucket_is_rebuilt(bucket: str, restart: bool) -> None:
    """A bucket that is gone alone is noticed by the owner and by whoever takes over: caps hold, the state is whole."""
    deployment, store = await prepared(keep_states=0, store_check_s=0.01)
    assert [await decide(deployment, "r1"), await decide(deployment, "r2")] == [None, None]
    assert await decide(deployment, "r3") == "no_candidate"
    await deployment.settle()
    if restart:
        await deployment.stop()
    del store._shards["u0"].buckets[bucket]
    if restart:
        deployment.start()
    assert await decide(deployment, "r4") == "no_candidate"
    assert await decide(deployment, "r5", "bob") is None
    await until(lambda: "u0" in store._shards and bucket in store._shards["u0"].buckets)
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_questions_to_the_store_hold_up_no_write() -> None:
    """Where it is time to ask the store at every turn, what is to be written is written all the same."""
    deployment, _ = await prepared(store_check_s=0)
    assert await decide(deployment, "r1") is None
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_an_old_copy_of_the_store_is_brought_up_again() -> None:
    """A failover that loses the store's tail, or a restored copy, is followed up from where it stands."""
    deployment, store = await prepared(keep_states=1)
    for n in range(10):
        deployment.request(f"r{n}", f"user{n}")
    await deployment.settle()
    meta, buckets = await store.read_buckets("u0", ("core", "campaigns", "open", "users"))
    assert meta is not None
    for n in range(10):
        deployment.request(f"s{n}", f"user{n}")
    await deployment.settle()
    present = await store.read_meta("u0")
    assert present is not None
    await store.reset("u0", present.tip, Meta(NOTHING, b""))
    await store.swap("u0", NOTHING, meta, buckets)
    for n in range(10):
        assert await decide(deployment, f"t{n}", f"user{n}") is not None, "both earlier servings count"
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_states_leave_memory_and_come_back() -> None:
    """Memory keeps a bounded number of people; who left is read again and their caps hold."""
    deployment, _ = await prepared(keep_states=8, max_events=5)
    for turn in range(2):
        for n in range(50):
            deployment.request(f"r{turn}-{n}", f"user{n}")
        await deployment.settle()
    machine = deployment.engines[0].machine
    assert machine is not None
    assert machine.resident() <= 9 + 5
    assert await decide(deployment, "last", "user3") is not None
    await deployment.stop()


async def test_decisions_go_on_without_the_store_and_say_so() -> None:
    """For somebody not in memory the history is assumed, recorded and flagged; afterwards the store is whole."""
    deployment, store = await prepared(keep_states=0, max_events=5)
    for n in range(2):
        assert await decide(deployment, f"r{n}") is None
    assert await decide(deployment, "other", "bob") is None
    await deployment.settle()
    deployment.engines[0].machine.evict(0, set())  # type: ignore[union-attr]
    store.away = True
    assert await decide(deployment, "r2") is None, "the policy is open, and the history is not known"
    body = next(found for found in deployment.decisions() if found["decision_id"] == "r2")
    assert body["degraded"] is True
    store.away = False
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    assert await decide(deployment, "r3") is not None, "all three servings are known again"
    await deployment.stop()


async def test_intake_stops_when_too_much_is_unwritten() -> None:
    """While the store is away memory grows up to its limit; then input waits, and goes on when the store is back."""
    deployment, store = await prepared(dirty_limit=20, max_events=5)
    store.away = True
    for n in range(100):
        deployment.request(f"r{n}", f"user{n}")
    await until(lambda: len(deployment.decisions()) >= 20)
    await asyncio.sleep(0.2)
    assert len(deployment.decisions()) <= 20 + 5
    store.away = False
    await deployment.settle()
    assert len(deployment.decisions()) == 100
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


class Watched(Observer):
    """Keeps what was last shown of the store."""

    failing = False

    def store_trail(self, shard: str, *, blocks: int, dirty: int, away: bool) -> None:
        self.failing = away


async def test_a_full_store_is_shown_and_decisions_go_on() -> None:
    """A store that answers but takes nothing is shown as failing, is not called without pause, and holds nothing up
    before the states that are not in it reach their limit; nothing is assumed, since it can be read."""
    deployment, store = await prepared(trail_blocks=3, max_events=1, keep_states=0, dirty_limit=20)
    shown = deployment.engines[0]._world.observer = Watched()
    assert await decide(deployment, "r0") is None
    await deployment.settle()
    store.full, before = True, len(store.refused)
    for n in range(1, 31):
        deployment.request(f"r{n}", f"user{n}")
    await until(lambda: len(deployment.decisions()) >= 20)
    await until(lambda: shown.failing)
    await asyncio.sleep(0.3)
    assert len(deployment.decisions()) <= 1 + 20 + 1
    assert not any(body.get("degraded") for body in deployment.decisions())
    assert len(store.refused) - before < 20
    store.full = False
    await until(lambda: not shown.failing)
    await deployment.settle()
    assert len(deployment.decisions()) == 31
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_an_idle_shard_shows_that_the_store_is_away() -> None:
    """Without any traffic the store's absence is shown, and its return."""
    deployment, store = await prepared(store_check_s=0.05)
    shown = deployment.engines[0]._world.observer = Watched()
    store.away = True
    await until(lambda: shown.failing)
    store.away = False
    await until(lambda: not shown.failing)
    await deployment.stop()


async def test_a_shard_starts_without_the_store_from_the_ledger_alone() -> None:
    """With the store away at takeover the whole ledger is folded, so nothing needs to be assumed."""
    deployment, store = await prepared()
    assert await decide(deployment, "r0") is None
    assert await decide(deployment, "r1") is None
    await deployment.stop()
    store.away = True
    deployment.start()
    assert await decide(deployment, "r2") == "capped" or deployment.decisions()[-1]["slots"][0]["no_fill"]
    store.away = False
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_another_ledgers_store_halts_the_shard() -> None:
    """A store that belongs to another ledger is neither used nor overwritten."""
    deployment, _ = await prepared()
    await deployment.settle()
    await deployment.stop()
    other = Deployment(1)
    other.store = deployment.store
    other.clock.time_ms += 1
    other.campaign("c9")
    for n in range(5):
        other.request(f"x{n}")
    before = await other.store.read_meta("u0")
    engine = other.engine("u0")
    with pytest.raises(Halted) as halted:
        await engine.run()
    assert halted.value.reason in {"store_of_another_ledger", "ledger_truncated"}
    assert await other.store.read_meta("u0") == before


@pytest.mark.parametrize(
    ("bucket", "name", "value"),
    [
        ("core", "state", b"{}"),
        ("core", "state", b"\xff"),
        ("campaigns", "c1", b'{"campaign": 7}'),
        ("users", "ann", b'{"q": {"r1": 5}}'),
        ("users", "ann", b"[1"),
    ],
)
async def test_a_stored_state_that_cannot_be_read_halts_its_shard(
    bucket: str, name: str, value: bytes
) -> None:
    """What another release, or somebody's hand, has written into the store is the shard's halt, which says what to do,
    and not the end of the whole worker; without it the state is built up again."""
    deployment, store = await prepared()
    assert await decide(deployment, "r1") is None
    await deployment.settle()
    await deployment.stop()
    meta = await store.read_meta("u0")
    assert meta is not None
    await store.swap("u0", meta.tip, meta, {bucket: {name: value}})
    deployment.request("r2", "ann")
    with pytest.raises(Halted, match="delete the shard's keys") as halted:
        async with asyncio.timeout(10):
            await deployment.engine("u0").run()
    assert halted.value.reason == "store_unreadable"
    store.wipe()
    deployment.start()
    await deployment.settle()
    assert [body["decision_id"] for body in deployment.decisions()] == ["r1", "r2"]
    await assert_store_is_the_fold(deployment)
    await deployment.stop()


async def test_a_store_of_another_ledger_at_its_start_halts_too() -> None:
    """A rebuild of another ledger that was just begun is no more ours than a finished one."""
    deployment, store = await prepared()
    await deployment.stop()
    store.wipe()
    await store.reset("u0", None, Meta(Tip("f" * 64, 0, ""), b"{}"))
    with pytest.raises(Halted, match=r"do not belong together|belongs to ledger"):
        await deployment.engine("u0").run()


async def test_a_late_answer_to_an_older_read_is_still_good() -> None:
    """A cold read that was served before a write and answered after it shows the earlier tip; nobody starts over."""
    deployment, store = await prepared(keep_states=0, max_events=3)
    takeovers = 0

    class Counting(Observer):
        def took_over(self, shard: str, *, height: int, folded: int, seconds: float, reason: str) -> None:
            nonlocal takeovers
            takeovers += 1

    slow = FaultyStore.read_fields

    async def late(self: FaultyStore, shard: str, bucket: str, fields: list[str]) -> object:
        answer = await slow(self, shard, bucket, fields)
        await asyncio.sleep(0.005)
        return answer

    store.read_fields = late.__get__(store)  # type: ignore[method-assign]
    await deployment.stop()
    machine: Machine = deployment.machine("u0")
    engine = ShardEngine(
        "u0", lambda: deployment.machine(machine.shard), FaultyLog(deployment.broker, "u0"), store,
        deployment.clock, deployment.settings, Counting(), random.Random(1),
    )  # fmt: skip
    deployment.run(engine)
    deployment.start(["t0"])
    for n in range(60):
        deployment.request(f"r{n}", f"user{n}")
    await deployment.settle()
    assert takeovers == 1
    await deployment.stop()


async def test_a_takeover_without_the_store_keeps_memory_bounded() -> None:
    """A ledger with more people than memory may hold unwritten is folded only once the store is back."""
    deployment, store = await prepared(dirty_limit=20)
    for n in range(100):
        deployment.request(f"r{n}", f"user{n}")
    await deployment.settle()
    await deployment.stop()
    store.away = True
    (engine,) = deployment.start(["u0"])
    await asyncio.sleep(0.3)
    assert not engine.ready
    assert engine.progress > 0
    store.away = False
    await until(lambda: engine.ready)
    deployment.start(["t0"])
    await deployment.settle()
    await assert_store_is_the_fold(deployment)
    await deployment.stop()
