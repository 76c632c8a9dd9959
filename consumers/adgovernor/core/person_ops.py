"""What happens to a person. Each takes the person, its own arguments, and what pruning needs.

They are kept apart from the state that calls them because a person whose stored part is unknown has them applied twice:
at once to what is known, and later to the whole.
"""

from __future__ import annotations

from typing import Any

from adgovernor.core.history import Person, Serving, Visit


def seen(
    person: Person,
    request_id: str,
    time_ms: int,
    height: int,
    index: int,
    watermark: int,
    dedupe: int,
    horizon: int,
) -> None:
    """A request is remembered."""
    if watermark >= person.next_prune_ms:
        person.prune(watermark, dedupe, horizon)
    person.requests[request_id] = (time_ms, height, index)
    person.expect_prune(time_ms + dedupe)


def reserve(person: Person, row: tuple[Any, ...], watermark: int, dedupe: int, horizon: int) -> None:
    """A serving is reserved."""
    person.add(Serving.of(row))
    person.expect_prune(row[0] + dedupe)


def shown(person: Person, decision_id: str, slot: int, watermark: int, dedupe: int, horizon: int) -> None:
    """It was shown."""
    serving = person.find(decision_id, slot)
    if serving is not None:
        serving.show()
        person.expect_prune(serving.time_ms + dedupe)
    person.prune(watermark, dedupe, horizon)


def billed(person: Person, decision_id: str, slot: int, watermark: int, dedupe: int, horizon: int) -> None:
    """What it is paid for has happened."""
    serving = person.find(decision_id, slot)
    if serving is not None:
        serving.bill()
        person.expect_prune(serving.time_ms + dedupe)
    person.prune(watermark, dedupe, horizon)


def mark(
    person: Person,
    decision_id: str,
    slot: int,
    event: str,
    time_ms: int,
    watermark: int,
    dedupe: int,
    horizon: int,
) -> None:
    """It was clicked, or seen to its end; the first time counts."""
    serving = person.find(decision_id, slot)
    if serving is not None:
        serving.mark(event, time_ms)
        person.expect_prune(serving.time_ms + dedupe)
    person.prune(watermark, dedupe, horizon)


def opt(
    person: Person, kind: str, scope: str, value: str | None, watermark: int, dedupe: int, horizon: int
) -> None:
    """An opt-out is made or taken back, or something is allowed in spite of a wider one."""
    entry = (scope, value)
    if kind == "opt-in":
        person.opt_outs = [known for known in person.opt_outs if known != entry]
        return
    person.allows = [known for known in person.allows if known != entry]
    if kind == "opt-out":
        if entry not in person.opt_outs:
            person.opt_outs.append(entry)
        return
    person.opt_outs = [known for known in person.opt_outs if known != entry]
    if kind == "allow":
        person.allows.append(entry)


def erase(person: Person, watermark: int, dedupe: int, horizon: int) -> None:
    """Everything is forgotten."""
    person.erase()


def visit(
    person: Person,
    change_id: str,
    counts: tuple[int, int, list[int], int],
    until_ms: int,
    watermark: int,
    dedupe: int,
    horizon: int,
) -> None:
    """A session did something; once for its change id."""
    person.prune(watermark, dedupe, horizon)
    if person.visit is None:
        person.visit = Visit()
    person.visit.add(change_id, *counts, until_ms)
    person.expect_prune(person.visit.until_ms)
