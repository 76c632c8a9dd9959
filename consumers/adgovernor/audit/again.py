"""Decides a block's records again, by the machine and the writer of live work, and compares what they give."""

from __future__ import annotations

from itertools import islice
from typing import Final

from adgovernor.audit.beside import Cause, promises_of, promises_with_erased
from adgovernor.audit.followed import Followed
from adgovernor.audit.report import Report
from adgovernor.contracts.errors import Halted
from adgovernor.contracts.ledger import TICK, ReadBlock, ReadRecord, digest_of, parse_record
from adgovernor.contracts.sealing import is_sealed
from adgovernor.core.machine import RULES, USERS, Input
from adgovernor.core.rules import Rules
from adgovernor.core.user_shard import UserShard
from adgovernor.runtime.block import OpenBlock
from adgovernor.runtime.chain import count_outputs

_BITE: Final = 100
"""Records whose inputs are decoded before they are decided, as live."""
_KEEP_PEOPLE: Final = 20_000
"""People in memory, as live; half as many more before the least recently used are put away."""
_SHOWN: Final = 400


async def decide_again(one: Followed, block: ReadBlock, place: str, report: Report) -> None:
    """Decides a block again, compares its inputs and outputs with their topics, and moves on to it. What other rules
    decided is folded alone."""
    machine, header, spine = one.machine, block.header, one.spine
    report.count("records", len(block.records))
    if header.recovery is not None or not block.records:
        machine.begin_fold(header.height, header.now_ms, header.drained, header.rules)
        if header.recovery is not None:
            machine.recover(header.recovery)
            report.notes.append(f"{place}: a person accepted a loss here (epoch {header.epoch})")
        spine.advance(header, block.chain, one.walk.tip_offset, {})
        return
    causes: list[Cause] = []
    if header.rules == RULES:
        again = _records(one, block, place, report, causes)
        one.broken = again is None
    else:
        again = None
        _fold(one, block, place, report, causes)
    if one.inputs is not None:
        await one.inputs.take(causes, header.positions, place)
    if one.broken:
        return
    if again is None or any(cause.erased for cause in causes):
        promises, counts = promises_with_erased(block), count_outputs(block)
    else:
        promises, counts = promises_of(again.outbox.messages(block.chain)), again.outbox.counts
        said, found = (header.positions, header.dn), (again.positions, again.outbox.dn)
        if said != found:
            report.fault(
                "decide", place, f"the block's positions and numbers are {said}; decided again {found}"
            )
            one.broken = True
            return
    spine.advance(header, block.chain, one.walk.tip_offset, counts)
    if one.outputs is not None:
        await one.outputs.take(header.height, promises, spine.published.height)
    changed = machine.take_changes()
    if isinstance(machine, UserShard):
        one.people.note(changed.get(USERS, set()))
        if len(machine.persons) > _KEEP_PEOPLE + _KEEP_PEOPLE // 2:
            one.people.put_away(machine, _KEEP_PEOPLE)


def _records(
    one: Followed, block: ReadBlock, place: str, report: Report, causes: list[Cause]
) -> OpenBlock | None:
    """The block, made again; None where it becomes another. What its records say of their inputs goes into
    ``causes``."""
    machine, header = one.machine, block.header
    again = OpenBlock(one.spine, header.prefix, one.shard, header.now_ms, header.drained, keep=False)
    records = iter(block.records)
    first = block.records[0]
    assumed = first.data.get("assumed") or {}
    machine.configured = Rules.from_dict(assumed["rules"]) if "rules" in assumed else machine.rules
    tick = machine.open_block(header.height, header.now_ms, header.drained)
    if tick is not None:
        again.tick(tick)
    if first.topic == TICK:
        next(records)
        if not again.lines or again.lines[0] != first.line:
            _differs(f"{place}, record 0 (tick)", first, again, report)
            return None
    elif tick is not None:
        _differs(f"{place}, before record 0", None, again, report)
        return None
    while bite := list(islice(records, _BITE)):
        inputs = [_input_of(one, record) for record in bite]
        missing = machine.missing([event for event in inputs if event is not None])
        if missing:
            assert isinstance(machine, UserShard)
            one.people.bring(machine, missing)
        for record, event in zip(bite, inputs, strict=True):
            where = f"{place}, record {len(again.lines)}"
            if event is None:
                # The person asked to be forgotten: what their input was cannot be read any more, what it did can.
                report.count("records of erased people")
                machine.fold(record.draft(), None, None)
                again.lines.append(record.line)
                causes.append(Cause(record.topic, record.offset, None, None, True))
                continue
            causes.append(Cause(event.topic, event.offset, event.key, event.value, False))
            try:
                draft = machine.decide(event, assumed=record.data.get("assumed"))
            except (Halted, AssertionError, KeyError) as error:
                report.fault("decide", where, f"cannot be decided again: {error!r}")
                return None
            again.add(event, draft)
            if again.lines[-1] != record.line:
                if digest_of(event.key, event.value) != record.data["digest"]:
                    report.fault(
                        "inputs", where, "the input's bytes in the ledger do not have the record's digest"
                    )
                _differs(where, record, again, report)
                return None
    return again


def _fold(one: Followed, block: ReadBlock, place: str, report: Report, causes: list[Cause]) -> None:
    """Takes what a release of other rules decided as it stands; see ``causes`` of `_records`."""
    machine, header = one.machine, block.header
    report.other_rules(header.rules, len(block.records))
    missing = machine.missing_for_fold(block.records)
    if missing:
        assert isinstance(machine, UserShard)
        one.people.bring(machine, missing)
    machine.begin_fold(header.height, header.now_ms, header.drained, header.rules)
    for index, record in enumerate(block.records):
        erased = is_sealed(record)
        personal = record.personal
        machine.fold(record.draft(), personal.get("routing"), personal.get("session"), personal.get("ids"))
        if record.topic == TICK:
            continue
        key, value = (None, None) if erased else (record.key(), record.value())
        causes.append(Cause(record.topic, record.offset, key, value, erased))
        if not erased and digest_of(key, value) != record.data["digest"]:
            where = f"{place}, record {index}"
            report.fault("inputs", where, "the input's bytes in the ledger do not have the record's digest")


def _input_of(one: Followed, record: ReadRecord) -> Input | None:
    """A record's input; None where nobody can read it any more."""
    if is_sealed(record):
        return None
    return one.machine.read(record.topic, record.offset, record.key(), record.value())


def _differs(place: str, record: ReadRecord | None, again: OpenBlock, report: Report) -> None:
    was = "nothing" if record is None else _said(record.line)
    now = _said(again.lines[-1]) if again.lines else "nothing"
    report.fault("decide", place, f"recorded {was}; decided again {now}")


def _said(line: bytes) -> str:
    data = parse_record(line)
    return f"{data['result']} {data['deltas']}"[:_SHOWN]
