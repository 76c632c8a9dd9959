"""The messages of a block: each has its own name, and says where it is from."""

from __future__ import annotations

from typing import Any

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import BlockHeader
from adgovernor.runtime.outputs import messages, place_of


def test_each_message_names_itself() -> None:
    """Messages of one block on one topic have ids of their own, from the block's first number of the topic on."""
    header = BlockHeader("p", "u0", 3, "", "me", "", 0, False, 1, {}, 2, {topics.DECISIONS: 7})
    said: list[Any] = [topics.DECISIONS, None, {"slots": []}]
    found = messages(header, "c", [(0, [said, said], [], "ann", None), (1, [said], [], "bob", None)])
    assert [dict(each.headers)["ce_id"] for each in found] == [b"decisions-7", b"decisions-8", b"decisions-9"]
    assert [each.key for each in found] == [b"ann", b"ann", b"bob"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"hello",
        b"[]",
        b'{"dn":"1","height":2}',
        b'{"dn":1,"shard":"u0"}',
        b'{"dn":1,"height":"2"}',
    ],
)
def test_what_somebody_else_wrote_to_a_topic_has_no_place(value: bytes | None) -> None:
    """A message without a number and a height is no shard's, so it is no witness of what the ledger held."""
    assert place_of((), value, dead_letter=False) is None
    assert place_of((), b'{"dn":1,"height":2,"shard":"u0"}', dead_letter=False) == {
        "shard": "u0",
        "height": 2,
        "dn": 1,
    }


@pytest.mark.parametrize("wrong", [{"dn": b"x"}, {"height": b""}, {"shard": None}])
def test_a_dead_letter_that_somebody_else_wrote_has_no_place(wrong: dict[str, bytes | None]) -> None:
    """Dead letters say their place in headers; where one is missing or no number, the letter is no shard's."""
    place = {"shard": b"u0", "height": b"2", "dn": b"1"}
    written = [(f"ag_{name}", value) for name, value in (place | wrong).items() if value is not None]
    assert place_of(written, None, dead_letter=True) is None
    own = [(f"ag_{name}", value) for name, value in place.items()]
    assert place_of(own, None, dead_letter=True) == {"shard": "u0", "height": 2, "dn": 1}
