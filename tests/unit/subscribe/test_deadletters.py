"""Dead letters: what a worker wrote is read back, and what somebody else wrote is told from it."""

from __future__ import annotations

import pytest

from adgovernor.contracts.errors import Undecodable
from adgovernor.subscribe import DeadLetter, RawMessage
from adgovernor.subscribe.deadletters import dead_letter_of

FIELDS = {
    "reason": "not_json",
    "message": "expected a value",
    "topic": "ad-requests",
    "partition": "3",
    "offset": "7",
    "time_ms": "5",
    "shard": "u3",
    "height": "2",
    "index": "1",
    "dn": "4",
}


def letter(**changed: str | None) -> RawMessage:
    """A message of a dead-letter topic; a header of None is left out."""
    headers = tuple(
        (f"ag_{name}", value.encode()) for name, value in {**FIELDS, **changed}.items() if value is not None
    )
    return RawMessage(3, 9, 0, b"ann", b"{", (("ce_id", b"another's"), *headers))


def test_a_letter_has_the_inputs_bytes_and_says_why() -> None:
    """Key and value are the input's, and the headers say what was wrong with it, and where its record is."""
    assert dead_letter_of(letter()) == DeadLetter(
        "not_json", "expected a value", "ad-requests", 3, 7, 5, b"ann", b"{", "u3", 2, 1, 4
    )


@pytest.mark.parametrize("wrong", [{"dn": None}, {"dn": "x"}, {"offset": ""}, {"shard": None}])
def test_a_letter_that_no_worker_wrote_is_told_by_what_it_lacks(wrong: dict[str, str | None]) -> None:
    """Headers that lack or spoil a field are refused with its name or value, and with no other error."""
    with pytest.raises(Undecodable, match="its headers lack or spoil"):
        dead_letter_of(letter(**wrong))
