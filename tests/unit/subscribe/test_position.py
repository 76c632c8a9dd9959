"""Which messages of an output topic count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adgovernor.contracts.errors import BadInput, Gap
from adgovernor.subscribe.position import (
    PartitionNumbers,
    Position,
    Verdict,
    dump_positions,
    load_positions,
)


def _taken(numbers: PartitionNumbers, log: list[int], first_offset: int = 0) -> list[int]:
    return [dn for at, dn in enumerate(log, first_offset) if numbers.see(at, dn, 0.0) is Verdict.TAKE]


@given(st.data())
def test_each_event_once_and_in_order(data: st.DataObject) -> None:
    """However often writers start over and publish from an earlier number on, each event is taken once, in
    order, also by a reader that stops and goes on from its position."""
    log: list[int] = []
    reached = 0
    for _ in range(data.draw(st.integers(1, 6))):
        again_from = data.draw(st.integers(0, reached))
        upto = data.draw(st.integers(again_from, again_from + 8))
        log.extend(range(again_from + 1, upto + 1))
        reached = max(reached, upto)
    numbers = PartitionNumbers(Position())
    stop = data.draw(st.integers(0, len(log)))

    taken = _taken(numbers, log[:stop])
    resumed = PartitionNumbers(numbers.position)
    at = resumed.position.offset
    taken += _taken(resumed, log[at:], at)

    assert taken == list(range(1, reached + 1))


def test_a_gap_that_closes_is_no_gap() -> None:
    """A later number is ignored until its predecessor came, and then taken from its repetition."""
    numbers = PartitionNumbers(Position())
    assert numbers.see(0, 2, 10.0) is Verdict.AHEAD
    numbers.check("decisions", 0, 39.9, 30.0, 0)
    assert numbers.see(1, 1, 39.9) is Verdict.TAKE
    assert numbers.see(2, 2, 39.9) is Verdict.TAKE
    numbers.check("decisions", 0, 1000.0, 30.0, 0)
    assert numbers.position == Position(3, 2)


def test_a_gap_that_stays_is_named() -> None:
    """When the next number does not come in time, the error names topic, partition, and both numbers."""
    numbers = PartitionNumbers(Position(7, 3))
    numbers.see(7, 6, 10.0)
    with pytest.raises(Gap, match=r"decisions\[2\]: number 4 is missing: number 6 came 30 s ago") as gap:
        numbers.check("decisions", 2, 40.0, 30.0, 0)
    assert (gap.value.expected, gap.value.seen) == (4, 6)


def test_later_events_do_not_make_a_gap_younger() -> None:
    """Patience counts from the first event that came too early, however many follow it."""
    numbers = PartitionNumbers(Position(7, 3))
    for offset, now_s in ((7, 10.0), (8, 25.0), (9, 39.0)):
        numbers.see(offset, offset - 1, now_s)
    with pytest.raises(Gap, match="number 4 is missing: number 6 came 30 s ago"):
        numbers.check("decisions", 2, 40.0, 30.0, 0)


def test_an_expired_beginning_is_no_waiting_matter() -> None:
    """Where the topic's beginning has expired, the reader says so at once."""
    numbers = PartitionNumbers(Position())
    numbers.see(500, 480, 10.0)
    with pytest.raises(Gap, match="now begins with number 480"):
        numbers.check("decisions", 0, 10.0, 30.0, 500)


def test_positions_can_be_kept_as_bytes() -> None:
    """Saved positions come back as they were, and only for their own topic and in a form that is known here."""
    positions = {0: Position(5, 4), 12: Position(0, 0)}
    saved = dump_positions("decisions", positions)
    assert load_positions("decisions", saved) == positions
    with pytest.raises(BadInput, match="are of topic decisions"):
        load_positions("pods", saved)
    with pytest.raises(BadInput, match="have format 9"):
        load_positions("decisions", saved.replace(b'"format":1', b'"format":9'))


@pytest.mark.parametrize(
    "saved", [b"", b"[]", b"{}", b'{"format":1,"topic":"decisions","positions":{"x":1}}']
)
def test_other_bytes_are_refused(saved: bytes) -> None:
    """Bytes that are no saved positions raise `BadInput` and no other error."""
    with pytest.raises(BadInput, match="not saved positions"):
        load_positions("decisions", saved)
