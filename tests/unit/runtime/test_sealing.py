"""Sealed ledgers and erasures: what can be read by whom and when, through kills in every step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from engine_kit import Deployment, until
from faulty import FaultyLog, FaultyStore

from adgovernor.audit.history import MemoryHistory
from adgovernor.audit.report import Report
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted, Unavailable
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.key_log import KeyLog, KeyMessage, MemoryKeyLog
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.recover import NothingLost, recover, resend
from adgovernor.stores.base import NOTHING, Meta

ALL_BUCKETS = ("core", "campaigns", "open", "users", "keys", "key-names", "key-place")


class FaultyKeys(MemoryKeyLog):
    """``puts`` says what becomes of the next writes: ``ok``, ``lost`` (nothing lands), ``unanswered`` (all lands)."""

    def __init__(self, broker: MemoryBroker, shard: str) -> None:
        super().__init__(broker, shard)
        self.puts: list[str] = []

    async def put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        fault = self.puts.pop(0) if self.puts else "ok"
        if fault == "lost":
            raise Unavailable("no answer")
        offsets = await super().put(messages, deadline_s)
        if fault == "unanswered":
            raise Unavailable("no answer")
        return offsets


class Sealed(Deployment):
    """A sealed deployment of one partition whose servers can go wrong."""

    def __init__(self, **settings: object) -> None:
        super().__init__(1, sealing=True, **{"store_deadline_s": 0.05, **settings})
        self.faulty = self.store = FaultyStore()
        self.keys = FaultyKeys(self.broker, "u0")
        self.log = FaultyLog(self.broker, "u0")

    def key_log(self, shard: str) -> KeyLog | None:
        return None if topics.is_treasury(shard) else self.keys

    async def begin(self, **campaign: object) -> None:
        """Starts both shards, with a campaign that is capped at two a person."""
        caps = [{"scope": "campaign", "window": "lifetime", "limit": 2}]
        self.campaign(**{"budget": 10**9, "caps": caps, **campaign})  # type: ignore[arg-type]
        self.run(self.engine("u0", self.log))
        self.run(self.engine("t0"))
        await self.settle()

    def erase(self, user: str = "ann") -> None:
        body = {"type": "erasure", "routing_id": user, "time_ms": self.clock.time_ms}
        self.broker.produce(topics.USER_EVENTS, 0, user.encode(), orjson.dumps(body))

    async def decide(self, name: str, user: str = "ann") -> str | None:
        """The first slot's no-fill reason of one request; None where it was filled."""
        self.request(name, user)
        await until(lambda: any(body["decision_id"] == name for body in self.decisions()))
        found = next(body for body in self.decisions() if body["decision_id"] == name)
        reason: str | None = found["slots"][0].get("no_fill")
        return reason

    async def kill_and_restart(self) -> None:
        await self.kill()
        self.run(self.engine("u0", self.log))
        self.run(self.engine("t0"))
        await self.settle()

    async def prove(self, *, store: bool = True) -> Report:
        return await audit(MemoryHistory(self.broker), "test", self.store if store else None)

    def ledger_bytes(self) -> bytes:
        return b"".join(event.value or b"" for event in self.broker.read(topics.LEDGER, 0, 0, 10**6))

    def compact(self) -> None:
        """What the broker does to ``person-keys`` in the end: of each key only the last word stays."""
        messages = self.broker._messages.get((topics.PERSON_KEYS, 0), [])
        last = {event.key: event.offset for event in messages}
        messages[:] = [
            event if last[event.key] == event.offset else event.__class__(event.offset, event.key, None)
            for event in messages
        ]

    def keys_there(self) -> int:
        """How many keys the topic has, by the last word on each."""
        words = {event.key: event.value for event in self.broker.read(topics.PERSON_KEYS, 0, 0, 10**6)}
        return sum(1 for value in words.values() if value is not None)


def user_machine(deployment: Deployment) -> UserShard:
    machine = next(engine.machine for engine in deployment.engines if engine.shard == "u0")
    assert isinstance(machine, UserShard)
    return machine


async def test_the_ledger_shows_nothing_of_a_person() -> None:
    """Routing id, session, other ids and metadata of a request are nowhere in the sealed ledger's bytes."""
    world = Sealed()
    await world.begin()
    body = {
        "request_id": "r1",
        "time_ms": world.clock.time_ms,
        "household_id": "house-of-ann",
        "user_id": "ann-herself",
        "device_id": "anns-phone",
        "session_id": "anns-session",
        "metadata": {"page": "anns-page"},
        "candidates": [{"campaign_id": "c1", "creative_id": "x"}],
    }
    world.broker.produce(topics.AD_REQUESTS, 0, b"house-of-ann", orjson.dumps(body))
    world.broker.produce(topics.AD_REQUESTS, 0, b"house-of-ann", b'{"time_ms": "anns-poison"}')
    await world.settle()
    world.broker.produce(topics.USER_EVENTS, 0, b"house-of-ann", b'{"type": "anns-word", "time_ms": 5}')
    await world.settle()
    (letter,) = world.broker.read("user-events.dlq", 0, 0, 10)
    assert b"anns-word" in dict(letter.headers)["ag_message"], "the explanation quotes the input"
    assert world.decisions()[0]["routing_id"] == "house-of-ann"
    raw = world.ledger_bytes()
    for word in (
        b"house-of-ann",
        b"ann-herself",
        b"anns-phone",
        b"anns-session",
        b"anns-page",
        b"anns-poison",
        b"anns-word",
    ):
        assert word not in raw
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


async def test_an_erasure_forgets_the_person_and_keeps_the_money() -> None:
    """State, caps and the store's traces of a person are gone, their records stay unreadable, and the sums hold."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    assert await world.decide("b1", "bob") is None
    world.impression("r1")
    await world.settle()
    spent = (await world.prove()).campaigns["c1"]["spent_micros"]
    assert spent == 1000
    world.erase()
    await world.settle()
    assert "ann" not in user_machine(world).persons or user_machine(world).persons["ann"].encode() is None
    _, stored = await world.store.read_buckets("u0", ALL_BUCKETS)
    assert b"ann" not in orjson.dumps(
        {b: {k: v.decode() for k, v in fields.items()} for b, fields in stored.items()}
    )
    assert world.keys_there() == 1, "bob's"
    report = await world.prove()
    assert report.green, report.findings
    assert report.counted["records of erased people"] == 3
    assert report.counted["keys ended by erasures"] == 1
    assert report.campaigns["c1"]["spent_micros"] == spent
    await world.stop()


async def test_a_key_that_an_erasure_ended_and_that_is_there_is_red() -> None:
    """Who asked to be forgotten can be read again where somebody puts their key back; the audit says so."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    world.erase()
    await world.settle()
    key, tombstone = world.broker.read(topics.PERSON_KEYS, 0, 0, 10)
    assert (tombstone.key, tombstone.value) == (key.key, None)
    world.broker.produce(topics.PERSON_KEYS, 0, key.key, key.value)
    # A later block says that what the erasure's block sent, its tombstone among it, was acknowledged.
    assert await world.decide("b1", "bob") is None
    await world.settle()
    (finding,) = (await world.prove()).findings
    assert (finding.check, "is there, though an erasure ended it" in finding.message) == ("keys", True)
    await world.stop()


async def test_who_comes_back_after_an_erasure_is_somebody_new() -> None:
    """Caps count anew, under a new key, and a second erasure ends that one."""
    world = Sealed()
    await world.begin()
    assert [await world.decide(f"r{n}") for n in range(3)] == [None, None, "no_candidate"]
    world.erase()
    assert [await world.decide(f"s{n}") for n in range(3)] == [None, None, "no_candidate"]
    world.erase()
    await world.settle()
    assert world.keys_there() == 0
    report = await world.prove()
    assert report.green, report.findings
    assert report.counted["keys ended by erasures"] == 2
    await world.stop()


async def test_many_erasures_and_returns_in_one_chunk() -> None:
    """Requests and erasures of the same people that are read together are taken in their order."""
    world = Sealed()
    await world.begin()
    for turn in range(4):
        for user in ("ann", "bob", "cid"):
            world.request(f"{user}-{turn}", user)
        world.clock.time_ms += 1
        world.erase("ann")
        world.clock.time_ms += 1
    await world.settle()
    assert {body["decision_id"] for body in world.decisions() if "winner" in body["slots"][0]} == {
        *(f"ann-{turn}" for turn in range(4)),
        "bob-0",
        "bob-1",
        "cid-0",
        "cid-1",
    }
    await world.kill_and_restart()
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("wiped", [False, True])
async def test_a_takeover_after_an_erasure_agrees(wiped: bool, compacted: bool) -> None:
    """Another owner, with the store or without, goes on with the same totals and caps."""
    world = Sealed(keep_states=2)
    await world.begin()
    for n in range(6):
        assert await world.decide(f"r{n}", f"user{n}") is None
        world.impression(f"r{n}", f"user{n}")
    for n in (1, 3):
        world.erase(f"user{n}")
    assert await world.decide("again", "user1") is None
    await world.settle()
    before = (await world.prove()).campaigns
    await world.kill()
    if wiped:
        world.faulty.wipe()
    if compacted:
        world.compact()
    world.run(world.engine("u0", world.log))
    world.run(world.engine("t0"))
    await world.settle()
    report = await world.prove()
    assert report.green, report.findings
    assert report.campaigns == before
    assert await world.decide("t0", "user0") is None
    assert await world.decide("t00", "user0") == "no_candidate", "both servings count"
    assert await world.decide("t3", "user3") is None
    assert await world.decide("t33", "user3") is None, "what was before the erasure does not"
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


async def test_an_old_copy_of_the_store_forgets_again() -> None:
    """A store that falls back to before an erasure has that person's state and key; the ledger takes both away."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    meta, buckets = await world.store.read_buckets("u0", ALL_BUCKETS)
    assert meta is not None
    assert "ann" in buckets["users"]
    world.request("r2")
    world.clock.time_ms += 1
    world.erase()
    await world.settle()
    await world.kill()
    world.compact()
    present = await world.store.read_meta("u0")
    assert present is not None
    await world.store.reset("u0", present.tip, Meta(NOTHING, b""))
    await world.store.swap("u0", NOTHING, meta, buckets)
    world.run(world.engine("u0", world.log))
    world.run(world.engine("t0"))
    await world.settle()
    _, stored = await world.store.read_buckets("u0", ALL_BUCKETS)
    assert stored["users"] == stored["keys"] == stored["key-names"] == {}
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


@pytest.mark.parametrize("fault", ["lost", "unanswered"])
async def test_a_key_that_is_not_acknowledged_seals_nothing(fault: str) -> None:
    """Where a new key's write has no answer, the shard starts over and makes another."""
    world = Sealed()
    await world.begin()
    world.keys.puts = [fault, fault]
    assert await world.decide("r1") is None
    await world.settle()
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


@pytest.mark.parametrize("fault", ["lost", "unanswered"])
async def test_a_tombstone_is_written_until_it_is_acknowledged(fault: str) -> None:
    """Neither a failed write nor a kill leaves the key of an erased person."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    # However often it is tried before this test has its turn again.
    world.keys.puts = [fault] * 10_000
    world.erase()
    await until(lambda: len(world.keys.puts) < 10_000)
    await world.kill()
    world.keys.puts = []
    assert world.keys_there() == (1 if fault == "lost" else 0)
    world.run(world.engine("u0", world.log))
    world.run(world.engine("t0"))
    await world.settle()
    assert world.keys_there() == 0
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


@pytest.mark.parametrize("wiped", [False, True])
async def test_outputs_of_an_erased_person_are_published_before_the_key_goes(wiped: bool) -> None:
    """A decision whose publication failed is published by the next owner, under the routing id that it has."""
    world = Sealed()
    await world.begin()
    await world.settle()
    world.log.publishes = ["failed"] * 1000
    world.request("r1")
    await until(lambda: len(world.log.publishes) < 1000)
    world.erase()
    await asyncio.sleep(0.05)
    assert world.keys_there() <= 1
    assert not any(event.value is None for event in world.broker.read(topics.PERSON_KEYS, 0, 0, 100))
    await world.kill()
    world.log.publishes = []
    if wiped:
        world.faulty.wipe()
    world.run(world.engine("u0", world.log))
    world.run(world.engine("t0"))
    await world.settle()
    assert [(body["decision_id"], body["routing_id"]) for body in world.decisions()] == [("r1", "ann")]
    assert world.keys_there() == 0
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


async def test_what_a_topic_lost_is_sent_again_without_the_erased() -> None:
    """Resending fills every number: with the decision of those who are known, with one that names nobody else."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    assert await world.decide("b1", "bob") is None
    world.broker.produce(topics.AD_REQUESTS, 0, b"ann", b'{"time_ms": "of-ann"}')
    await world.settle()
    world.clock.time_ms += 1
    world.erase()
    await world.settle()
    lost = {name: world.broker._messages.pop((name, 0)) for name in (topics.DECISIONS, "ad-requests.dlq")}
    await resend(world.world("u0"), 1)
    assert [(body["decision_id"], body["routing_id"]) for body in world.decisions()] == [
        ("r1", "erased"),
        ("b1", "bob"),
    ]
    assert world.decisions()[1] == orjson.loads(lost[topics.DECISIONS][1].value or b"")
    (letter,) = world.broker.read("ad-requests.dlq", 0, 0, 10)
    assert (letter.key, letter.value, dict(letter.headers)["ag_reason"]) == (None, None, b"invalid")
    await world.stop()


@pytest.mark.parametrize("resent", [False, True])
@pytest.mark.parametrize("topic", [topics.DECISIONS, "ad-requests.dlq"])
async def test_what_was_said_of_the_erased_is_compared_as_far_as_it_can_be(topic: str, resent: bool) -> None:
    """An audit knows all of an erased person's outputs but the person: it counts them, also where they were sent again,
    and is red where one was changed or is gone."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    world.broker.produce(topics.AD_REQUESTS, 0, b"ann", b'{"time_ms": "of-ann"}')
    await world.settle()
    world.clock.time_ms += 1
    world.erase()
    await world.settle()
    messages = world.broker._messages[topic, 0]
    if resent:
        messages.clear()
        await resend(world.world("u0"), 1)
    await world.stop()
    report = await world.prove()
    assert report.green, report.findings
    assert report.counted["outputs about erased people, compared but for whom they name"] == 2
    (said,) = messages
    value = (said.value or b"").replace(b'"c1"', b'"c2"')
    headers = tuple((name, b"7" if name == "ag_offset" else raw) for name, raw in said.headers)
    for changed in ([said.__class__(0, said.key, value, headers)], []):
        messages[:] = changed
        report = await world.prove()
        assert [finding.check for finding in report.findings] == ["outputs"]


async def test_an_append_that_is_written_anew_never_repeats_a_nonce() -> None:
    """The blocks of one height, lost and written again, share no sealed bytes."""
    world = Sealed(resend_limit=0)
    await world.begin()
    assert await world.decide("r0") is None
    await world.settle()  # What follows from it would take the loss that is meant for the next decision.
    world.log.appends = ["lost"]
    sent = len(world.log.sent)
    assert await world.decide("r1") is None
    texts = [
        record["personal"].partition(".")[2]
        for block in world.log.sent[sent:]
        for record in orjson.loads(block)["records"]
        if isinstance(record["personal"], str)
    ]
    assert len(texts) >= 2
    assert len({text[:16] for text in texts}) == len(texts)
    await world.stop()


async def test_while_the_store_is_away_people_get_further_keys_that_an_erasure_ends() -> None:
    """Somebody whose keys cannot be looked up gets one more; their erasure waits for the store and ends both."""
    world = Sealed(keep_states=1)
    await world.begin()
    for n in range(12):
        assert await world.decide(f"r{n}", f"user{n}") is None
    await world.settle()
    world.faulty.away = True
    assert await world.decide("away", "user3") is None
    assert world.decisions()[-1]["degraded"]
    assert b'"history"' not in world.ledger_bytes(), "what was assumed of somebody is theirs, too"
    assert world.keys_there() == 13
    world.clock.time_ms += 1
    world.erase("user3")
    await asyncio.sleep(0.1)
    assert world.keys_there() == 13
    world.faulty.away = False
    await world.settle()
    assert world.keys_there() == 11
    await world.kill_and_restart()
    report = await world.prove()
    assert report.green, report.findings
    assert report.counted["keys ended by erasures"] == 2
    await world.stop()


async def test_keys_that_are_lost_stop_the_shard() -> None:
    """Records whose key is gone though nobody was erased are a loss, and the shard says so."""
    world = Sealed()
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    await world.kill()
    world.faulty.wipe()
    messages = world.broker._messages[topics.PERSON_KEYS, 0]
    messages[0] = messages[0].__class__(0, messages[0].key, None)
    with pytest.raises(Halted, match="person_keys_lost"):
        await world.engine("u0", world.log).run()
    report = await world.prove(store=False)
    assert [finding.check for finding in report.findings] == ["keys"]


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_person_can_accept_that_keys_are_gone(compacted: bool) -> None:
    """Where a ledger lost an erasure whose tombstone was written, a recovery gives the key up: the shard goes on, and
    the person has never been met, whether or not the broker still shows the key, and the store has no word of it."""
    world = Sealed(keep_states=1, rebuild_fields=1)
    await world.begin()
    assert await world.decide("r1") is None
    assert await world.decide("b1", "bob") is None
    for n in range(6):
        assert await world.decide(f"p{n}", f"person{n}") is None
    await world.settle()
    await world.stop()
    key_of_ann = world.broker.read(topics.PERSON_KEYS, 0, 0, 1)[0].key
    world.broker.produce(topics.PERSON_KEYS, 0, key_of_ann, None)
    if compacted:
        world.compact()
        world.faulty.wipe()
        with pytest.raises(Halted, match="adgovernor recover u0 --accept-loss"):
            await world.engine("u0", world.log).run()
    done = await recover(world.world("u0"), why="test")
    assert done.keys == 1
    with pytest.raises(NothingLost):
        await recover(world.world("u0"), why="test")
    world.run(world.engine("u0", world.log))
    world.run(world.engine("t0"))
    assert [await world.decide(f"r{n}") for n in (2, 3, 4)] == [None, None, "no_candidate"]
    assert [await world.decide(f"b{n}", "bob") for n in (2, 3)] == [None, "no_candidate"]
    await world.settle()
    report = await world.prove()
    assert report.green, report.findings
    assert report.counted["keys whose loss was accepted"] == 1
    _, stored = await world.store.read_buckets("u0", ALL_BUCKETS)
    assert len(stored["key-names"]) == len(stored["keys"]) == 8
    await world.stop()


async def test_an_ended_key_is_not_taken_from_a_store_that_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes back after an erasure, and does not fit into the block, gets a new key, though the store still has the
    one that ended."""
    world = Sealed(max_bytes=1, trail_blocks=100)
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    written, swap = asyncio.Event(), world.faulty.swap

    async def slow(*asked: Any) -> Meta | None:
        await written.wait()
        return await swap(*asked)

    monkeypatch.setattr(world.faulty, "swap", slow)
    world.clock.time_ms += 1
    world.erase()
    await until(lambda: world.keys_there() == 0)
    world.request("b1", "bob")
    world.request("r2")
    await until(lambda: len(world.decisions()) == 3)
    written.set()
    await world.settle()
    report = await world.prove()
    assert report.green, report.findings
    await world.stop()


@pytest.mark.parametrize("begun", [False, True])
async def test_sealing_is_fixed_when_a_deployment_begins(begun: bool) -> None:
    """A worker set otherwise than the ledger halts, and leaves store and ledger as they are."""
    world = Sealed()
    world.sealing = begun
    keys = world.keys
    if not begun:
        world.key_log = lambda shard: None  # type: ignore[method-assign]
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    await world.stop()
    world.sealing = not begun
    world.key_log = lambda shard: None if begun else keys  # type: ignore[method-assign]
    with pytest.raises(Halted, match="sealing"):
        await world.engine("u0", world.log).run()


async def test_unsealed_ledgers_forget_the_state_alone() -> None:
    """Without sealing an erasure removes the state; the ledger still names the person, and the audit decides again."""
    world = Deployment(1)
    world.campaign(caps=[{"scope": "campaign", "window": "lifetime", "limit": 1}])
    world.start()
    await world.settle()
    world.request("r1")
    await world.settle()
    body = {"type": "erasure", "routing_id": "ann", "time_ms": world.clock.time_ms}
    world.broker.produce(topics.USER_EVENTS, 0, b"ann", orjson.dumps(body))
    await world.settle()
    world.request("r2")
    await world.settle()
    assert ["winner" in one["slots"][0] for one in world.decisions()] == [True, True]
    report = await audit(MemoryHistory(world.broker), "test", world.store)
    assert report.green, report.findings
    await world.stop()
