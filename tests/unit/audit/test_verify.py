"""The audit: green on a true history, red and naming the place on one that was tampered with."""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson
import pytest
from audit_kit import a_history
from engine_kit import Deployment

from adgovernor.audit.history import FolderHistory, History, MemoryHistory, copy
from adgovernor.audit.report import Report
from adgovernor.audit.shelf import Shelf
from adgovernor.audit.stored import _is_part
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.core.history import Person
from adgovernor.core.machine import RULES
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.ports import RawEvent
from adgovernor.runtime.recover import recover
from adgovernor.subscribe.kafka import RawMessage


async def prove(world: Deployment, history: History | None = None) -> Report:
    return await audit(history or MemoryHistory(world.broker), "test", world.store)


def found(report: Report) -> set[str]:
    return {finding.check for finding in report.findings}


async def test_a_true_history_is_green() -> None:
    """Every check holds on a history with duplicates, poison, late money and an exhausted campaign."""
    report = await prove(await a_history())
    assert report.green, report.findings
    assert report.counted["records"] > 150
    assert report.counted["outputs on decisions"] == 60
    assert report.counted["outputs on ad-requests.dlq"] == 5
    assert report.campaigns["c1"]["paused"] == ["exhausted"]
    assert report.counted["store fields"] > 20


class Watching(MemoryHistory):
    """Counts the people in memory whenever another ledger is begun."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.people: list[int] = []

    async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        if topic == topics.LEDGER and start == 0:
            gc.collect()
            self.people.append(sum(1 for thing in gc.get_objects() if isinstance(thing, Person)))
        async for message in super().messages(topic, partition, start):
            yield message


async def test_memory_holds_the_people_of_one_shard_at_a_time() -> None:
    """Before the next ledger is read, nobody of the shards before it is in memory any more."""
    world = await a_history(3)
    history = Watching(world.broker)
    report = await prove(world, history)
    assert report.green, report.findings
    assert history.people == [0, 0, 0]


async def test_people_that_were_put_away_come_back_the_same(tmp_path: Path) -> None:
    """Whoever left memory has the stored form there, comes back with it, and changes made since are not lost."""
    world = await a_history(1)
    machine = world.machine("u0")
    assert isinstance(machine, UserShard)
    _, buckets = await world.store.read_buckets("u0", ("users",))
    people = buckets["users"]
    shelf = Shelf(tmp_path / "u0")
    for name, value in people.items():
        machine.load(name, value)
    shelf.note(set(people))
    shelf.put_away(machine, 2)
    assert len(machine.persons) == 2
    shelf.put_away(machine, 0)
    assert dict(shelf.rest(machine)) == people
    shelf.close()
    first, *others = people
    shelf.bring(machine, [first, "somebody new"])
    machine.persons[first].erase()
    shelf.note({first})
    shelf.put_away(machine, 0)
    shelf.bring(machine, list(people))
    assert machine.persons[first].encode() is None
    assert {name: machine.persons[name].encode() for name in others} == {n: people[n] for n in others}


async def test_people_who_leave_memory_meanwhile_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more people than may be in memory, most are put away and come back, and every number agrees."""
    world = await a_history(1)
    kept = await prove(world)
    monkeypatch.setattr("adgovernor.audit.again._KEEP_PEOPLE", 2)
    report = await prove(world)
    assert report.green, report.findings
    assert report.counted == kept.counted


async def test_a_shard_that_was_only_claimed_is_green() -> None:
    """A shard with a claim in its ledger and nothing else has no state in the store, and that is right."""
    world = Deployment(1, tick_ms=2**60)
    world.start()
    await world.settle()
    await world.stop()
    meta, buckets = await world.store.read_buckets("t0", ["core"])
    assert meta is not None
    assert (meta.tip.height, buckets["core"]) == (1, {})
    report = await prove(world)
    assert report.green, report.findings


async def test_a_copy_in_a_folder_proves_the_same(tmp_path: Path) -> None:
    """A history copied to a folder is as green as the one that it was copied from."""
    world = await a_history()
    await copy(MemoryHistory(world.broker), tmp_path)
    report = await prove(world, FolderHistory(tmp_path))
    assert report.green, report.findings
    assert report.counted == (await prove(world)).counted
    for history in (FolderHistory(tmp_path), MemoryHistory(world.broker)):
        later = [message.offset async for message in history.messages(topics.LEDGER, 0, 3)]
        assert later == list(range(3, world.broker.end(topics.LEDGER, 0)))


@pytest.mark.parametrize("topic", [topics.LEDGER, topics.TREASURY_LEDGER])
async def test_one_changed_byte_in_a_ledger_is_red_and_named(topic: str, tmp_path: Path) -> None:
    """One digit changed in a block is found, and the finding names the partition and offset."""
    world = await a_history()
    await copy(MemoryHistory(world.broker), tmp_path)
    path = tmp_path / topic / "1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = len(lines) // 2
    row = orjson.loads(lines[at])
    row["value"] = re.sub(r'"now_ms":(\d{12})\d', r'"now_ms":\g<1>x', row["value"], count=1)
    lines[at] = orjson.dumps(row) + b"\n"
    path.write_bytes(b"".join(lines))
    report = await prove(world, FolderHistory(tmp_path))
    assert not report.green
    assert any(f.check == "chain" and f"{topic}[1] offset {at}" in f.place for f in report.findings)


async def test_a_block_that_is_gone_is_red_although_something_took_its_place() -> None:
    """A ledger that lost a block, whose place an older one sent twice took, is red, as long as nobody accepted that."""
    world = await a_history(1)
    messages = world.broker._messages[topics.LEDGER, 0]
    middle = len(messages) // 2
    messages[middle] = RawEvent(middle, None, messages[3].value)
    report = await audit(MemoryHistory(world.broker), "test", None)
    assert "chain" in found(report)
    assert f"ledger[0] offset {middle + 2}" in {finding.place for finding in report.findings}
    await recover(world.world("u0"), why="the disk was replaced")
    report = await audit(MemoryHistory(world.broker), "test", None)
    assert "chain" not in found(report)
    assert any("a person accepted a loss here (epoch 1)" in note for note in report.notes)


def rewritten(block: bytes, where: bytes) -> bytes:
    """A block with a 7 before the first group of what it has there, and the hash that it then should have."""
    at = re.search(where, block)
    assert at is not None
    changed = block[: at.start(1)] + b"7" + block[at.start(1) : -len(b',"chain":""}') - 64]
    return changed + b',"chain":"' + sha256(changed).hexdigest().encode() + b'"}'


@pytest.mark.parametrize("what", [rb'"ad-requests":(\d+)', rb'"dn":\{"decisions":(\d+)'])
async def test_a_block_that_says_other_positions_or_numbers_is_red(what: bytes) -> None:
    """A block whose hash is right, but whose header is not what its records make of it, is found."""
    world = await a_history(1)
    messages = world.broker._messages[topics.LEDGER, 0]
    while b'"dn":{"decisions"' not in (value := messages.pop().value or b""):
        pass
    messages.append(RawEvent(len(messages), None, rewritten(value, what)))
    report = await audit(MemoryHistory(world.broker), "test", None)
    place = next(finding.place for finding in report.findings if finding.check == "decide")
    assert place.startswith(f"ledger[0] offset {len(messages) - 1}, ")


@pytest.mark.parametrize("newer", [0, 1], ids=["own rules", "other rules"])
async def test_a_record_whose_digest_is_another_is_red(monkeypatch: pytest.MonkeyPatch, newer: int) -> None:
    """A record must have the digest of the input's bytes that stand in it, whichever release decided it."""
    with monkeypatch.context() as other:
        other.setattr("adgovernor.runtime.block.RULES", RULES + newer)
        world = await a_history(1)
    messages = world.broker._messages[topics.LEDGER, 0]
    while b'"topic":"ad-requests"' not in (value := messages.pop().value or b""):
        pass
    changed = rewritten(value, rb'"topic":"ad-requests","offset":\d+,"digest":"(\w)')
    messages.append(RawEvent(len(messages), None, changed))
    report = await audit(MemoryHistory(world.broker), "test", None)
    said = [finding.message for finding in report.findings if finding.check == "inputs"]
    assert "the input's bytes in the ledger do not have the record's digest" in said


async def test_a_changed_input_is_red(tmp_path: Path) -> None:
    """An input whose bytes on the topic are not those that the ledger recorded is found."""
    world = await a_history()
    await copy(MemoryHistory(world.broker), tmp_path)
    path = tmp_path / topics.IMPRESSIONS / "0.jsonl"
    path.write_bytes(path.read_bytes().replace(b"decision_id", b"decision_ix", 1))
    report = await prove(world, FolderHistory(tmp_path))
    assert found(report) == {"inputs"}


async def test_a_missing_decision_is_red(tmp_path: Path) -> None:
    """A decision that the ledger holds and the topic does not is found."""
    world = await a_history()
    await copy(MemoryHistory(world.broker), tmp_path)
    path = tmp_path / topics.DECISIONS / "0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[len(lines) // 2]
    path.write_bytes(b"".join(lines))
    report = await prove(world, FolderHistory(tmp_path))
    assert found(report) == {"outputs"}


@pytest.mark.parametrize("kept", [7, 0])
async def test_outputs_that_have_expired_are_no_fault(tmp_path: Path, kept: int) -> None:
    """Where retention has taken a topic's beginning, what is left is compared, and the rest is told."""
    world = await a_history(1)
    await copy(MemoryHistory(world.broker), tmp_path)
    path = tmp_path / topics.DECISIONS / "0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    gone = len(lines) - kept
    path.write_bytes(b"".join(lines[gone:]))
    (tmp_path / "first.json").write_bytes(orjson.dumps({topics.DECISIONS: {"0": gone}}))
    report = await prove(world, FolderHistory(tmp_path))
    assert report.green, report.findings
    assert report.counted["outputs on decisions"] == kept
    assert f"decisions[0]: {gone} outputs have expired" in "\n".join(report.notes)
    path.write_bytes(b"".join([*lines[gone:-3], *lines[-2:]]) if kept else lines[0])
    (tmp_path / "first.json").write_bytes(orjson.dumps({topics.DECISIONS: {"0": gone if kept else 0}}))
    assert found(await prove(world, FolderHistory(tmp_path))) == {"outputs"}


async def test_a_store_that_differs_is_red() -> None:
    """A counter changed in the store behind the ledger's back is found, and named."""
    world = await a_history()
    meta = await world.store.read_meta("u0")
    assert meta is not None
    _, buckets = await world.store.read_buckets("u0", ["campaigns"])
    changed = buckets["campaigns"]["c2"].replace(b'"episode":0', b'"episode":7')
    await world.store.swap("u0", meta.tip, meta, {"campaigns": {"c2": changed}})
    report = await prove(world)
    assert found(report) == {"store"}
    assert "campaigns c2" in report.findings[0].place


GONE: Final = object()


async def with_core(world: Deployment, **changed: object) -> Report:
    """What is found where fields of u0's stored state are others, or gone."""
    meta, buckets = await world.store.read_buckets("u0", ["core"])
    assert meta is not None
    core = {**orjson.loads(buckets["core"]["state"]), **changed}
    value = orjson.dumps({name: value for name, value in core.items() if value is not GONE})
    await world.store.swap("u0", meta.tip, meta, {"core": {"state": value}})
    return await prove(world)


@pytest.mark.parametrize(
    ("more", "chain", "said"),
    [(0, "f" * 64, "is not this ledger's block of that height"), (3, None, "the store is ahead of it")],
)
async def test_a_store_of_another_block_is_red(more: int, chain: str | None, said: str) -> None:
    """A store whose tip is no block of this ledger holds another history, whatever its state is."""
    world = await a_history(1)
    meta = await world.store.read_meta("u0")
    assert meta is not None
    tip = replace(meta.tip, height=meta.tip.height + more, chain=chain or meta.tip.chain)
    await world.store.swap("u0", meta.tip, replace(meta, tip=tip), {})
    (finding,) = (await prove(world)).findings
    assert (finding.check, said in finding.message) == ("store", True)


@pytest.mark.parametrize(
    ("stored", "part"), [([1], True), ([1, 2], True), ([1, 2, 3], False), ([2], False), ({"a": 1}, False)]
)
def test_what_is_stored_must_all_be_there(stored: object, part: bool) -> None:
    """What an older release did not write may be missing from a stored value; nothing may be too much."""
    assert _is_part({"list": stored}, {"list": [1, 2], "new": 0}) == part


async def test_a_state_that_an_older_release_stored_is_green() -> None:
    """A value written before it had some field is what that field's default makes of it."""
    report = await with_core(await a_history(1), since_ms=GONE)
    assert report.green, report.findings


@pytest.mark.parametrize(
    "changed",
    [
        {"since_ms": 5},
        {"watermark_ms": 1},
        {"watermark_ms": GONE},
        {"more": 0},
        {"lateness": []},
        {"rules": {}},
    ],
)
async def test_what_an_older_release_would_not_have_stored_is_red(changed: dict[str, object]) -> None:
    """Another value, one that must be there and is not, and one that nobody reads are differences."""
    report = await with_core(await a_history(1), **changed)
    assert found(report) == {"store"}
    assert "core state" in report.findings[0].place


async def test_what_other_rules_decided_is_folded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a release with other rules are not decided again, and everything else of them is proved; those that
    follow are. What that release stored and this one does not know goes when this one takes over."""
    with monkeypatch.context() as other:
        for place in ("block", "takeover"):
            other.setattr(f"adgovernor.runtime.{place}.RULES", RULES + 1)
        world = await a_history(1)
    report = await with_core(world, more=0)
    assert [finding.place.partition(", ")[2] for finding in report.findings] == ["core state"]
    assert report.others == {RULES + 1: report.counted["records"]}
    world.start()
    await world.settle()
    world.request("new", "user-1", ("c1", "c2"))
    await world.settle()
    await world.stop()
    report = await prove(world)
    assert report.green, report.findings
    assert 0 < report.others[RULES + 1] < report.counted["records"]
    assert any(
        f"decided by rules {RULES + 1}, and this release decides by {RULES}" in n for n in report.notes
    )


async def test_an_input_that_other_rules_decided_and_that_was_changed_is_red(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its bytes on the topic are compared with the ledger's all the same."""
    with monkeypatch.context() as other:
        other.setattr("adgovernor.runtime.block.RULES", RULES + 1)
        world = await a_history(1)
    await copy(MemoryHistory(world.broker), tmp_path)
    path = tmp_path / "ad-requests" / "0.jsonl"
    path.write_text(path.read_text().replace("r17", "r71", 1))
    report = await prove(world, FolderHistory(tmp_path))
    assert found(report) == {"inputs"}


async def test_a_person_who_differs_is_red() -> None:
    """A serving that somebody took out of a person's stored history is found, and so are people who are not there and
    people whom the ledger does not know."""
    world = await a_history(1)
    meta, buckets = await world.store.read_buckets("u0", ["users"])
    assert meta is not None
    people = buckets["users"]
    shown, gone = [name for name in sorted(people) if "s" in orjson.loads(people[name])][:2]
    state = orjson.loads(people[shown])
    state["s"].pop()
    users: dict[str, bytes | None] = {shown: orjson.dumps(state), gone: None, "stranger": people[gone]}
    await world.store.swap("u0", meta.tip, meta, {"users": users})
    report = await prove(world)
    assert {finding.place.rpartition(" ")[2] for finding in report.findings} == {shown, gone, "stranger"}


class HalfSeen(MemoryHistory):
    """A deployment at work: the treasuries' ledgers are first read when their last blocks are not there yet."""

    def __init__(self, world: Deployment, cut: int) -> None:
        super().__init__(world.broker)
        self._cut: set[int] = set()
        self._blocks = cut

    async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        found = [message async for message in super().messages(topic, partition, start)]
        if topic == topics.TREASURY_LEDGER and partition not in self._cut:
            self._cut.add(partition)
            found = found[: -self._blocks]
        for message in found:
            yield message


async def test_a_deployment_at_work_is_green() -> None:
    """Shards are read one after the other; messages taken after their sender was read are no fault."""
    world = await a_history()
    report = await audit(HalfSeen(world, 20), "test", None)
    assert {finding.check for finding in report.findings} <= {"inputs", "outputs"}
    assert not report.found["links"]
    assert not report.found["money"]
