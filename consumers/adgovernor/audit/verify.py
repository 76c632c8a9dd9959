"""Proves a history: walks every ledger from its first block, decides everything again, and compares.

The machines are the live ones; what is compared with them (bytes, offsets, sums) is read from the topics and the
store. A shard whose chain is broken is not followed beyond the break.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from adgovernor.audit.followed import Followed
from adgovernor.audit.history import History
from adgovernor.audit.promises import promises_of
from adgovernor.audit.report import Report
from adgovernor.audit.sums import check_links, check_money
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, Halted
from adgovernor.contracts.ledger import (
    TICK,
    Draft,
    ReadBlock,
    ReadRecord,
    digest_of,
    encode_personal,
    encode_record,
    parse_block,
)
from adgovernor.contracts.sealing import id_of, is_sealed
from adgovernor.core.machine import Machine
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.chain import Walk
from adgovernor.runtime.ports import LedgerEntry
from adgovernor.stores.base import Store

_ROUNDS = 20
"""How often shards are followed further; each time less is left to follow."""
_ALL_BUCKETS = {
    False: ("core", "campaigns", "open", "pods", "users"),
    True: ("core", "accounts", "campaigns", "commands"),
}


async def audit(history: History, prefix: str, store: Store | None) -> Report:
    """Proves a whole deployment's history.

    Raises:
        BadInput: when there is no history to prove.
        Unavailable: when a server does not answer.
    """
    report = Report()
    partitions = await history.partitions()
    if store is None:
        report.skipped["store"] = "no store was named"
    shards = [topics.treasury_shard(p) for p in range(partitions)]
    shards += [topics.user_shard(p) for p in range(partitions)]
    followed: dict[str, Followed] = {}
    for shard in shards:
        one = followed[shard] = await _follow(history, prefix, shard, partitions, store, report)
        if not one.broken:
            await _check_inputs(history, one, report)
            await _check_outputs(history, one, report)
        _rest(one)
    await _even_out(history, followed, report)
    await _check_keys(history, followed, report)
    check_links(followed, report)
    check_money(followed, report)
    return report


async def _even_out(history: History, followed: dict[str, Followed], report: Report) -> None:
    """Follows further, on a deployment that is at work, those shards whose messages others took after their own
    ledger was read: one shard is read after the other, and the sums need one moment for all."""
    for _ in range(_ROUNDS):
        moved = False
        for name, one in followed.items():
            if not one.broken and any(
                other.machine.links.taken.get(name, (0, ""))[0]
                > one.machine.links.sent.get(shard, (0, ""))[0]
                for shard, other in followed.items()
            ):
                moved = await _go_on(history, one, report) or moved
        if not moved:
            return


# --- One ledger ------------------------------------------------------------------------------------------------


async def _follow(
    history: History, prefix: str, shard: str, partitions: int, store: Store | None, report: Report
) -> Followed:
    rules = Rules(partitions=partitions)
    one = Followed(shard, Walk(prefix, shard), machine_of(shard, rules))
    if not topics.is_treasury(shard):
        await _read_keys(history, one, report)
    expected = await _StoreState.read(store, shard) if store is not None else None
    async for block, place in _blocks(history, one, report):
        if expected is not None and expected.height < block.header.height:
            _compare_store(one, expected, report)
            expected = None
        _again(one, block, place, report)
        if one.broken:
            return one
    if expected is not None:
        _compare_store(one, expected, report)
    if one.astray:
        # An owner goes on from what it believes to count. What it believed in was there, then, and is not any more.
        report.fault(
            "chain", one.astray, "this block continues one that does not count: the ledger lost a block"
        )
    return one


async def _read_keys(history: History, one: Followed, report: Report) -> None:
    """Takes the keys that were made since they were last read."""
    partition = topics.partition_of_shard(one.shard)
    async for message in history.messages(topics.PERSON_KEYS, partition, one.keys.end):
        try:
            one.keys.take(message.offset, message.key, message.value)
        except BadInput as error:
            report.fault("keys", f"{topics.PERSON_KEYS}[{partition}] offset {message.offset}", str(error))


async def _go_on(history: History, one: Followed, report: Report) -> bool:
    """Follows a shard from where it was left; whether there was more."""
    height = one.height
    if isinstance(one.machine, UserShard):
        one.people.take_out(one.machine)
    async for block, place in _blocks(history, one, report):
        _again(one, block, place, report)
        if one.broken:
            break
    _rest(one)
    return one.height > height


def _rest(one: Followed) -> None:
    """Keeps of a shard that was read what all shards together are judged by."""
    one.outputs.clear()
    one.taken.clear()
    if isinstance(one.machine, UserShard):
        one.people.put_away(one.machine)


async def _blocks(history: History, one: Followed, report: Report) -> AsyncIterator[tuple[ReadBlock, str]]:
    ledger, partition = topics.ledger_topic(one.shard), topics.partition_of_shard(one.shard)
    async for message in history.messages(ledger, partition, one.walk.offset):
        place = f"{ledger}[{partition}] offset {message.offset}"
        value = message.value or b""
        try:
            read = parse_block(value)
        except BadInput as error:
            report.fault("chain", place, str(error))
            one.broken = True
            return
        block = one.walk.step(LedgerEntry(message.offset, message.time_ms, value))
        if block is None:
            report.count("void blocks")
            if read.header.shard == one.shard and read.header.height > one.walk.height + 1:
                # Not one that came second, but one that came after what is not there.
                if read.header.prev_chain in one.void:
                    one.astray = one.astray or place
                one.void.add(read.chain)
            continue
        if block.header.recovery is not None:
            one.astray = ""
        report.count("blocks")
        try:
            if one.keys.behind(block):
                await _read_keys(history, one, report)
            one.keys.open(block)
        except BadInput as error:
            report.fault("keys", f"{place}, height {block.header.height}", str(error))
            one.broken = True
            return
        yield block, f"{place}, height {block.header.height}"


def _again(one: Followed, block: ReadBlock, place: str, report: Report) -> None:
    """Decides a block again, and takes note of what it says."""
    machine, header = one.machine, block.header
    one.height, one.chain = header.height, block.chain
    one.positions = dict(header.positions)
    one.published = max(one.published, header.published)
    for promise in promises_of(block):
        one.outputs[promise.topic].append(promise)
    report.count("records", len(block.records))
    if header.recovery is not None:
        machine.begin_fold(header.height, header.now_ms, header.drained)
        machine.recover(header.recovery)
        one.epoch = header.epoch
        report.notes.append(f"{place}: a person accepted a loss here (epoch {header.epoch})")
        return
    if not block.records:
        machine.begin_fold(header.height, header.now_ms, header.drained)
        return
    records = block.records
    first = records[0]
    assumed = first.data.get("assumed") or {}
    machine.configured = Rules.from_dict(assumed["rules"]) if "rules" in assumed else machine.rules
    tick = machine.open_block(header.height, header.now_ms, header.drained)
    rest = records
    if first.topic == TICK:
        rest = records[1:]
        if tick is None or encode_record(TICK, -1, digest_of(None, None), 0, tick, b"{}") != first.line:
            _differs(one, f"{place}, record 0 (tick)", first, tick, report)
            return
    elif tick is not None:
        _differs(one, f"{place}, before record 0", None, tick, report)
        return
    for index, record in enumerate(rest, len(records) - len(rest)):
        _decide_again(one, machine, record, f"{place}, record {index}", report)
        if one.broken:
            return


def _decide_again(one: Followed, machine: Machine, record: ReadRecord, place: str, report: Report) -> None:
    key, value = record.key(), record.value()
    if is_sealed(record):
        # The person asked to be forgotten: what their input was cannot be read any more, what it did can.
        machine.fold(record.draft(), None, None)
        report.count("records of erased people")
        one.taken[record.topic][record.offset] = record.data["digest"]
        return
    digest = digest_of(key, value)
    if digest != record.data["digest"]:
        report.fault("inputs", place, "the input's bytes in the ledger do not have the record's digest")
    if record.offset in one.taken[record.topic]:
        report.fault("inputs", place, f"{record.topic} offset {record.offset} has a second record")
    one.taken[record.topic][record.offset] = digest
    event = machine.read(record.topic, record.offset, key, value)
    for state_key in machine.missing((event,)):
        machine.load(state_key, None)
    try:
        draft = machine.decide(event, assumed=record.data.get("assumed"))
    except (Halted, AssertionError, KeyError) as error:
        report.fault("decide", place, f"cannot be decided again: {error!r}")
        one.broken = True
        return
    personal = encode_personal(event.routing or None, event.session, key, value, event.is_json, event.ids)
    size = 0 if value is None else len(value)
    if encode_record(record.topic, record.offset, digest, size, draft, personal) != record.line:
        _differs(one, place, record, draft, report)


def _differs(
    one: Followed, place: str, record: ReadRecord | None, draft: Draft | None, report: Report
) -> None:
    was = "nothing" if record is None else f"{record.data['result']} {record.data['deltas']}"
    now = "nothing" if draft is None else f"{draft.result} {draft.deltas}"
    report.fault("decide", place, f"recorded {was[:400]}; decided again {now[:400]}")
    one.broken = True


# --- Inputs and outputs ----------------------------------------------------------------------------------------


async def _check_inputs(history: History, one: Followed, report: Report) -> None:
    partition = topics.partition_of_shard(one.shard)
    for topic in topics.input_topics(one.shard):
        taken, end = one.taken[topic], one.positions.get(topic, 0)
        waiting = 0
        async for message in history.messages(topic, partition):
            place = f"{topic}[{partition}] offset {message.offset}"
            if message.offset >= end:
                waiting += 1
                continue
            digest = taken.pop(message.offset, None)
            if digest == "":
                report.count("inputs of erased people")
            elif digest is None:
                report.fault("inputs", place, "this input has no record in the ledger")
            elif digest != digest_of(message.key, message.value):
                report.fault(
                    "inputs", place, "the input on the topic is not the one that the ledger recorded"
                )
            else:
                report.count("inputs")
        beyond = [offset for offset in taken if offset >= end]
        if beyond:
            report.fault(
                "inputs", f"{topic}[{partition}]", f"records beyond the block's positions: {beyond[:5]}"
            )
        if waiting:
            report.notes.append(f"{topic}[{partition}]: {waiting} inputs are not handled yet")


async def _check_outputs(history: History, one: Followed, report: Report) -> None:
    partition = topics.partition_of_shard(one.shard)
    for topic in (*topics.PUBLIC_OUTPUTS, *(topics.dlq(name) for name in topics.input_topics(one.shard))):
        expected = one.outputs.get(topic, [])
        if not expected:
            continue
        at = begin = 0
        cut, found = await history.first(topic, partition) > 0, False
        async for message in history.messages(topic, partition):
            if cut and not found:
                # Retention has taken the beginning: what is left begins with some output, not with the first.
                kept = next((place for place, one_of in enumerate(expected) if one_of.kept_by(message)), None)
                if kept is None:
                    continue
                at, begin, found = kept, kept, True
            if at == len(expected):
                break
            at += expected[at].kept_by(message)
        if cut and not found:
            at = begin = sum(promise.height <= one.published for promise in expected)
        report.count(f"outputs on {topic}", at - begin)
        if begin:
            report.notes.append(
                f"{topic}[{partition}]: {begin} outputs have expired by the topic's retention, and are not compared"
            )
        erased = sum(promise.erased is not None for promise in expected[begin:at])
        if erased:
            report.count("outputs about erased people, compared but for whom they name", erased)
        if at < len(expected):
            height = expected[at].height
            place = f"{topic}[{partition}], number {at + 1}"
            if height <= one.published:
                report.fault("outputs", place, f"the output of height {height} is not on the topic")
            else:
                report.notes.append(f"{place} on: {len(expected) - at} outputs are not acknowledged yet")


# --- The store -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _StoreState:
    """All that a store holds of a shard, at one tip."""

    height: int
    chain: str
    values: dict[str, dict[str, bytes]]

    @classmethod
    async def read(cls, store: Store, shard: str) -> _StoreState | None:
        meta, values = await store.read_buckets(shard, _ALL_BUCKETS[topics.is_treasury(shard)])
        return None if meta is None else cls(meta.tip.height, meta.tip.chain, values)


def _compare_store(one: Followed, found: _StoreState, report: Report) -> None:
    """Compares the store with the fold, at the moment when the fold is at the store's height."""
    place = f"store of {one.shard} at height {found.height}"
    if found.height > one.height:
        report.fault("store", place, f"the ledger ends at height {one.height}: the store is ahead of it")
        return
    if found.chain != one.chain:
        report.fault("store", place, "the store's tip is not this ledger's block of that height")
        return
    machine = one.machine
    names: dict[str, list[str]] = {"core": ["state"], "campaigns": []}
    if isinstance(machine, UserShard):
        names |= {
            "campaigns": list(machine.shares),
            "open": list(machine.open),
            "pods": list(machine.open_pods),
            "users": list(machine.persons),
        }
    else:
        names |= {
            "campaigns": list(machine.campaigns),
            "accounts": list(machine.accounts),
            "commands": list(machine.commands),
        }
    for bucket, fields in machine.encode(names).items():
        ours = {name: value for name, value in fields.items() if value is not None}
        theirs = found.values.get(bucket, {})
        if bucket == "core" and not theirs:
            # A shard that has only been claimed has nothing to store; it is then as new.
            new = type(machine)(one.shard, machine.configured).encode({bucket: names[bucket]})
            theirs = {name: value for name, value in new[bucket].items() if value is not None}
        for name in ours.keys() | theirs.keys():
            if ours.get(name) != theirs.get(name):
                report.fault(
                    "store",
                    f"{place}, {bucket} {name}",
                    f"the store has {_short(theirs.get(name))}, the ledger gives {_short(ours.get(name))}",
                )
        report.count("store fields", len(theirs))


def _short(value: bytes | None) -> str:
    return "nothing" if value is None else value[:300].decode("utf-8", "replace")


async def _check_keys(history: History, followed: dict[str, Followed], report: Report) -> None:
    if not any(one.keys.sealed for one in followed.values()):
        report.skipped["keys"] = "the ledger is not sealed"
    for one in followed.values():
        keys = one.keys
        if one.broken or not keys.sealed:
            continue
        await _read_keys(history, one, report)
        for name in sorted(keys.missing):
            report.fault(
                "keys", one.shard, f"key {name} is gone, and no erasure ended it: what it sealed is unproved"
            )
        for name, height in keys.ended.items():
            if id_of(name) not in keys.there or id_of(name) in keys.gone:
                report.count("keys ended by erasures")
            elif height <= one.published:
                report.fault(
                    "keys", one.shard, f"key {name} is there, though an erasure ended it at {height}"
                )
            else:
                report.notes.append(f"{one.shard}: key {name} was ended at {height}, its tombstone follows")
