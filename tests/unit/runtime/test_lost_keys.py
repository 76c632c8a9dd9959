"""The topic of persons' keys loses what it had acknowledged: that stops the shard, and a person can accept it."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from engine_kit import until
from faulty import Truncated
from test_sealing import ALL_BUCKETS, FaultyKeys, Sealed

from adgovernor.contracts import topics
from adgovernor.contracts.errors import Halted
from adgovernor.contracts.sealing import NewerKey, encode_key, key_names
from adgovernor.runtime import recover as recovery
from adgovernor.runtime.ports import RawEvent
from adgovernor.runtime.recover import NothingLost, recover
from adgovernor.stores.base import NOTHING, Meta


class Losing(Sealed):
    """A sealed deployment whose broker can lose the ends of topics."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.broker = self.disk = Truncated(1, self.clock)
        self.keys = FaultyKeys(self.broker, "u0")
        self.log = self.log.__class__(self.broker, "u0")

    def lose_keys(self, count: int) -> None:
        self.disk.cut(topics.PERSON_KEYS, 0, self.broker.end(topics.PERSON_KEYS, 0) - count)

    async def go_on(self) -> None:
        self.run(self.engine("u0", self.log))
        self.run(self.engine("t0"))
        await self.settle()

    async def check(self) -> None:
        report = await self.prove()
        assert report.green, report.findings

    def first_named(self) -> list[str]:
        """The keys that the ledger names, in the order in which it first does."""
        records = [record for block in self.ledger("u0") for record in block.records]
        sealed = [record for record in records if isinstance(record.data.get("personal"), str)]
        return list(dict.fromkeys(key_names(record)[0] for record in sealed))


async def _halted(world: Losing) -> Halted:
    with pytest.raises(Halted) as caught:
        async with asyncio.timeout(10):
            await world.engine("u0", world.log).run()
    return caught.value


async def _ann_is_erased_bob_stays() -> Losing:
    """Two who were served, of whom the first was erased; all is said, and nobody owns the shard."""
    world = Losing()
    await world.begin()
    assert await world.decide("r1") is None
    world.clock.time_ms += 1
    world.erase()
    await world.settle()
    # What follows says that the tombstone was acknowledged.
    assert await world.decide("b1", "bob") is None
    await world.settle()
    await world.stop()
    return world


async def test_the_next_key_proves_a_loss() -> None:
    """A new key that gets the offset of one that was named stops the shard before it seals anything; once the loss is
    accepted no offset is given twice, whose key is gone counts as never met, and the others go on."""
    world = Losing()
    await world.begin()
    assert await world.decide("c1", "cid") is None
    assert await world.decide("r1") is None
    await world.settle()
    world.lose_keys(1)
    world.request("b1", "bob")
    await until(lambda: any(task.done() for task in world.tasks))
    with pytest.raises(Halted, match=r"person-keys: offset 1 was there.*recover u0") as halted:
        await next(task for task in world.tasks if task.done())
    assert halted.value.reason == "person_keys_lost"
    assert len(world.decisions()) == 2
    await world.kill()
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 1
    with pytest.raises(NothingLost):
        await recover(world.world("u0"), why="again")
    await world.go_on()
    assert [await world.decide(f"r{n}") for n in (2, 3, 4)] == [None, None, "no_candidate"]
    assert [await world.decide(f"c{n}", "cid") for n in (2, 3)] == [None, "no_candidate"]
    await world.settle()
    offsets = [int(name.partition("-")[0]) for name in world.first_named()]
    assert offsets == sorted(set(offsets))
    await world.check()
    world.faulty.wipe()
    await world.kill()
    await world.go_on()
    await world.check()
    await world.stop()


async def test_a_takeover_that_cannot_find_a_named_offset_says_that_it_is_lost() -> None:
    """A fold for which the topic is too short proves that by a write of its own, and halts instead of waiting."""
    world = Losing()
    await world.begin()
    for n in range(4):
        assert await world.decide(f"r{n}", f"user{n}") is None
    await world.settle()
    await world.stop()
    world.lose_keys(3)
    world.faulty.wipe()
    halted = await _halted(world)
    assert halted.reason == "person_keys_lost"
    assert "the ledger names a key at offset 1" in str(halted)
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 3
    await world.go_on()
    await world.check()
    await world.stop()


async def test_what_was_ended_is_ended_again() -> None:
    """A topic that lost a tombstone shows the key of somebody who was erased; recovering destroys it again."""
    world = await _ann_is_erased_bob_stays()
    key_of_bob = world.broker.read(topics.PERSON_KEYS, 0, 2, 1)[0]
    world.lose_keys(2)
    world.broker.produce(topics.PERSON_KEYS, 0, b"none", None)
    world.broker.produce(topics.PERSON_KEYS, 0, key_of_bob.key, key_of_bob.value)
    report = await world.prove()
    assert ["adgovernor recover u0" in finding.message for finding in report.findings] == [True]
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 0
    assert world.keys_there() == 1, "bob's"
    with pytest.raises(NothingLost):
        await recover(world.world("u0"), why="again")
    await world.go_on()
    await world.check()
    await world.stop()


@pytest.mark.parametrize("taken", [False, True])
async def test_outputs_sealed_with_a_lost_key_do_not_leave_a_gap(taken: bool) -> None:
    """A decision that was not published before its key was lost is published without a name, so that readers go on,
    also where another key has the offset of the lost one."""
    world = Losing()
    await world.begin()
    assert await world.decide("b1", "bob") is None
    await world.settle()
    world.log.publishes = ["failed"] * 10_000
    world.request("r1")
    await until(lambda: len(world.log.publishes) < 10_000)
    await world.kill()
    world.log.publishes = []
    world.lose_keys(1)
    if taken:
        world.broker.produce(topics.PERSON_KEYS, 0, b"ab" * 12, encode_key(bytes(32)))
    world.faulty.wipe()
    await _halted(world)
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 1
    await world.go_on()
    assert await world.decide("b2", "bob") is None
    said = [(body["dn"], body["decision_id"], body["routing_id"]) for body in world.decisions()]
    assert said == [(1, "b1", "bob"), (2, "r1", "erased"), (3, "b2", "bob")]
    await world.settle()
    await world.check()
    await world.stop()


async def test_a_recovery_ends_no_key_before_what_it_sealed_is_published() -> None:
    """An erasure whose outputs are not acknowledged is left to the next owner, who publishes them first."""
    world = Losing()
    await world.begin()
    await world.settle()
    world.log.publishes = ["failed"] * 10_000
    world.request("r1")
    await until(lambda: len(world.log.publishes) < 10_000)
    world.clock.time_ms += 1
    world.erase()
    await until(lambda: b'"kind":"erasure"' in world.ledger_bytes())
    await world.kill()
    world.log.publishes = []
    await recover(world.world("u0"), why="a person wants it", even_if_healthy=True)
    world.compact()
    await world.go_on()
    assert [(body["decision_id"], body["routing_id"]) for body in world.decisions()] == [("r1", "ann")]
    assert world.keys_there() == 0
    await world.check()
    await world.stop()


async def test_a_topic_whose_rest_is_compacted_away_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compaction has taken all that the loss left, no read comes to the topic's end, and a write shows where it
    is."""
    world = await _ann_is_erased_bob_stays()
    world.lose_keys(1)
    left, read = world.broker.end(topics.PERSON_KEYS, 0), world.keys.read

    async def compacted(offset: int, max_bytes: int) -> tuple[list[RawEvent], int]:
        events, end = await read(offset, max_bytes)
        return [event for event in events if event.offset >= left], end

    monkeypatch.setattr(world.keys, "read", compacted)
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 1
    await world.go_on()
    assert [await world.decide(f"b{n}", "bob") for n in (2, 3, 4)] == [None, None, "no_candidate"]
    await world.settle()
    await world.check()
    await world.stop()


async def test_many_keys_are_given_up_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys are gone, no block of a recovery is too large for its topic."""
    monkeypatch.setattr(recovery, "_KEYS_AT_ONCE", 2)
    world = Losing()
    await world.begin()
    for n in range(5):
        assert await world.decide(f"r{n}", f"user{n}") is None
    await world.settle()
    await world.stop()
    world.lose_keys(5)
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 5
    given = [block.header.recovery for block in world.ledger("u0") if block.header.recovery is not None]
    assert [len(one["keys"]) for one in given] == [2, 2, 1]
    await world.go_on()
    report = await world.prove()
    assert report.green, report.findings
    assert report.counted["keys whose loss was accepted"] == 5
    await world.stop()


async def test_who_has_another_key_keeps_what_that_one_sealed() -> None:
    """Of somebody with two keys of which one was given up, what the other sealed counts, whatever an old copy of the
    store still knows."""
    world = Losing(keep_states=1)
    await world.begin()
    for n in range(8):
        assert await world.decide(f"r{n}", f"user{n}") is None
    await world.settle()
    world.faulty.away = True
    assert await world.decide("away", "user3") is None
    world.faulty.away = False
    await world.settle()
    meta, copy = await world.store.read_buckets("u0", ALL_BUCKETS)
    assert meta is not None
    await world.stop()
    world.lose_keys(1)
    assert (await recover(world.world("u0"), why="a disk was lost")).keys == 1
    present = await world.store.read_meta("u0")
    assert present is not None
    await world.store.reset("u0", present.tip, Meta(NOTHING, b""))
    await world.store.swap("u0", NOTHING, meta, copy)
    await world.go_on()
    assert [await world.decide(f"s{n}", "user3") for n in range(2)] == [None, "no_candidate"]
    await world.settle()
    await world.check()
    await world.stop()


async def test_what_is_no_key_is_nobodys() -> None:
    """A message on the topic of keys that is none, which somebody's tool wrote, stops neither takeovers nor a recovery;
    the audit says where it is."""
    world = Losing()
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    world.broker.produce(topics.PERSON_KEYS, 0, b"\xff", b"a mistake")
    assert await world.decide("b1", "bob") is None
    await world.settle()
    await world.kill()
    world.faulty.wipe()
    await world.go_on()
    assert [await world.decide(f"b{n}", "bob") for n in (2, 3)] == [None, "no_candidate"]
    await world.settle()
    report = await world.prove()
    assert [finding.place for finding in report.findings] == ["person-keys[0] offset 1"]
    await world.kill()
    with pytest.raises(NothingLost):
        await recover(world.world("u0"), why="a person wants to know")


async def test_a_key_of_a_newer_release_halts_and_is_not_taken_for_none() -> None:
    """A key that only a newer release understands stops a takeover and a recovery: without it the person's history
    would count as lost."""
    world = Losing()
    await world.begin()
    assert await world.decide("r1") is None
    await world.settle()
    newer = orjson.dumps({"alg": "X25519", "k": "abc"})
    world.broker.produce(topics.PERSON_KEYS, 0, b"ab" * 12, newer)
    assert await world.decide("b1", "bob") is None
    await world.settle()
    await world.kill()
    world.faulty.wipe()
    halted = await _halted(world)
    assert halted.reason == "ledger_format"
    assert "person-keys offset 1: " in str(halted)
    assert "use a newer release" in str(halted)
    with pytest.raises(NewerKey, match="use a newer release"):
        await recover(world.world("u0"), why="a person wants to know")
