"""The store behind the ledger: lost answers, outages, wipes, old copies, strangers; and witnesses ahead of a ledger."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest
from engine_kit import START_MS, Deployment, HandClock, until
from faulty import FaultyLog, FaultyStore, Truncated

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.core.machine import Machine
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.ports import RawEvent
from adgovernor.runtime.recover import recover, resend
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


async def truncated(*, wipe: bool) -> tuple[Deployment, FaultyStore, int]:
    """A stopped deployment whose user ledger lost its last blocks."""
    deployment = Deployment(1, store_deadline_s=0.05, max_events=2)
    deployment.broker = Truncated(1, deployment.clock)
    store = deployment.store = FaultyStore()
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    for n in range(10):
        deployment.request(f"r{n}", f"user{n}")
        await deployment.settle()
    await deployment.stop()
    end = deployment.broker.end(topics.LEDGER, 0)
    deployment.broker.cut(topics.LEDGER, 0, end - 5)
    if wipe:
        store.wipe()
    return deployment, store, end


@pytest.mark.parametrize("wipe", [False, True])
async def test_a_witness_ahead_of_the_ledger_halts_the_shard(wipe: bool) -> None:
    """When the log lost its tail, the store's state, or else the last output, gives it away."""
    deployment, _, _ = await truncated(wipe=wipe)
    with pytest.raises(Halted, match="recover u0 --accept-loss") as halted:
        await deployment.engine("u0").run()
    assert halted.value.reason == "ledger_truncated"


async def test_recovery_begins_an_epoch_that_readers_can_follow() -> None:
    """After a person accepted the loss, numbers go on behind what was published, and the store is rebuilt."""
    deployment, _, _ = await truncated(wipe=False)
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
    await assert_store_is_the_fold_after_recovery(deployment)
    await deployment.stop()


async def assert_store_is_the_fold_after_recovery(deployment: Deployment) -> None:
    meta = await deployment.store.read_meta("u0")
    tip = deployment.ledger("u0")[-1]
    assert meta is not None
    assert meta.tip.chain == tip.chain
    assert orjson.loads(meta.spine)["epoch"] == 1


async def test_a_clock_that_is_off_stops_the_shard() -> None:
    """A worker whose clock differs from the broker's by more than the allowed skew does not begin."""
    deployment = Deployment(1, skew_ms=5_000)
    deployment.broker = MemoryBroker(1, HandClock(START_MS + 60_000))
    with pytest.raises(Halted, match="NTP") as halted:
        await deployment.engine("u0").run()
    assert halted.value.reason == "clock"


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


def noise(deployment: Deployment, count: int) -> None:
    """What other treasuries send to the same shard."""
    for number in range(1, count + 1):
        message = {
            "source": "t1",
            "destination": "u0",
            "number": number,
            "hash": "",
            "height": 1,
            "chain": "x",
        }
        deployment.broker.produce(topics.DIRECTIVES, 0, b"t1", orjson.dumps(message))


@pytest.mark.parametrize("others", [0, 49, 50, 5_000])
async def test_the_last_side_message_is_found_behind_those_of_others(others: int) -> None:
    """However much others have sent since, a directive that the ledger does not know gives its lost tail away, and
    recovery goes on behind it."""
    deployment, sent = await without_last_directives()
    deployment.store = FaultyStore()
    noise(deployment, others)
    with pytest.raises(Halted) as halted:
        await deployment.engine("t0").run()
    assert halted.value.reason == "ledger_truncated"
    told = await recover(deployment.world("t0"), why="a disk was lost")
    assert told.sent == {"u0": (sent[-1]["number"], sent[-1]["hash"])}


async def test_the_search_for_side_messages_ends_where_they_are_older_than_the_ledger() -> None:
    """Messages from long before the ledger's last block cannot be ahead of it: they are not gone through."""
    deployment = Deployment(1, store_deadline_s=0.05, skew_ms=30_000)
    noise(deployment, 50_000)
    deployment.clock.time_ms += 600_000
    deployment.start(["t0"])
    await deployment.settle()
    await deployment.stop()
    deployment.clock.time_ms += 60_000
    noise(deployment, 3_000)
    asked: list[int] = []
    log = CountingLog(deployment.broker, "t0", asked)
    engine = deployment.engine("t0", log=log)
    deployment.run(engine)
    await until(lambda: engine.ready)
    await deployment.stop()
    assert asked == [52_950, 50_950]


class CountingLog(FaultyLog):
    """Remembers where it was asked for what is before."""

    def __init__(self, broker: MemoryBroker, shard: str, asked: list[int]) -> None:
        super().__init__(broker, shard)
        self._asked = asked

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[RawEvent], int]:
        self._asked.append(offset)
        return await super().before(topic, partition, offset, count)


async def without_last_directives() -> tuple[Deployment, list[dict[str, object]]]:
    """A stopped deployment whose treasury lost the blocks behind its last directives; and all directives sent."""
    deployment = Deployment(1, store_deadline_s=0.05)
    deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1")
    deployment.start()
    await deployment.settle()
    kept = deployment.broker.end(topics.TREASURY_LEDGER, 0)
    deployment.campaign("c2")
    await deployment.settle()
    await deployment.stop()
    deployment.broker.cut(topics.TREASURY_LEDGER, 0, kept)
    return deployment, [
        orjson.loads(event.value or b"") for event in deployment.broker.read(topics.DIRECTIVES, 0, 0, 1000)
    ]


async def test_recovery_goes_on_behind_directives_that_were_sent() -> None:
    """A treasury that lost its tail continues the numbers of its directives, so that user shards take the next ones,
    and decides again what its inputs still hold."""
    deployment, sent = await without_last_directives()
    with pytest.raises(Halted) as halted:
        await deployment.engine("t0").run()
    assert halted.value.reason == "ledger_truncated"
    told = await recover(deployment.world("t0"), why="a disk was lost")
    assert told.sent == {"u0": (sent[-1]["number"], sent[-1]["hash"])}
    deployment.start()
    await deployment.settle()
    deployment.request("r1", campaigns=("c2",))
    await deployment.settle()
    assert deployment.decisions()[-1]["slots"][0]["winner"]["campaign_id"] == "c2"
    await deployment.stop()


async def test_what_a_side_topic_lost_is_sent_again() -> None:
    """A directive that its topic lost leaves a gap, after which nothing is taken; sent again, everything is."""
    deployment = Deployment(1, store_deadline_s=0.05)
    deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1")
    deployment.start()
    await deployment.settle()
    await deployment.stop()
    kept = deployment.broker.end(topics.DIRECTIVES, 0)
    deployment.campaign("c2")
    deployment.start(["t0"])
    await deployment.settle()
    deployment.broker.cut(topics.DIRECTIVES, 0, kept)
    deployment.campaign("c3")
    deployment.start(["u0"])
    await deployment.settle()
    kinds = [record.data["result"]["kind"] for block in deployment.ledger("u0") for record in block.records]
    assert "directive_gap" in kinds
    assert await resend(deployment.world("t0"), 1) > 0
    await deployment.settle()
    deployment.request("r1", campaigns=("c2",))
    deployment.request("r2", campaigns=("c3",))
    await deployment.settle()
    winners = [body["slots"][0]["winner"]["campaign_id"] for body in deployment.decisions()]
    assert winners == ["c2", "c3"]
    await deployment.stop()


async def test_a_treasury_goes_on_when_money_comes_back_twice() -> None:
    """A user shard that lost the end of its ledger returns money again: the treasury takes what it had leased, and
    records the rest as unaccounted."""
    deployment = Deployment(1, store_deadline_s=0.05)
    deployment.broker = Truncated(1, deployment.clock)
    deployment.campaign("c1", budget=10_000)
    deployment.start()
    await deployment.settle()
    kept = deployment.broker.end(topics.LEDGER, 0)
    await pause(deployment, "first")
    await deployment.stop()
    deployment.broker.cut(topics.LEDGER, 0, kept)
    with pytest.raises(Halted):
        await deployment.engine("u0").run()
    told = await recover(deployment.world("u0"), why="a disk was lost")
    assert "t0" in told.sent
    deployment.start()
    await deployment.settle()
    records = [record for block in deployment.ledger("t0") for record in block.records]
    unaccounted = [r.data["result"]["unaccounted"] for r in records if "unaccounted" in r.data["result"]]
    assert len(unaccounted) == 1
    await deployment.stop()


async def pause(deployment: Deployment, command_id: str) -> None:
    """Pauses the campaign by hand, so that its idle money is returned."""
    command = {
        "command": "pause",
        "account_id": "account-c1",
        "command_id": command_id,
        "time_ms": deployment.clock.time_ms,
        "campaign_id": "c1",
    }
    deployment.broker.produce(topics.CAMPAIGNS, None, b"account-c1", orjson.dumps(command))
    await deployment.settle()
