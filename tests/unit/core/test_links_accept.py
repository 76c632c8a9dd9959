"""Side messages after a loss that a person accepted."""

from __future__ import annotations

from typing import Any

import pytest

from adgovernor.contracts.errors import Halted
from adgovernor.core import links
from adgovernor.core.machine import Links


def _sent(sender: Links, *words: str) -> list[dict[str, Any]]:
    """Messages as the receiver reads them."""
    messages = []
    for word in words:
        destination, number, digest, payload = links.next_message(sender, "u0", {"word": word})
        body = {
            "source": "t0",
            "destination": destination,
            "number": number,
            "hash": digest,
            "payload": payload,
        }
        messages.append(body)
    return messages


def test_messages_of_a_lost_history_count_after_it_is_accepted() -> None:
    """A message that does not continue what was taken halts; accepted, it counts, and those after it are checked."""
    receiver = Links()
    assert links.accept(receiver, "u0", _sent(Links(), "one", "two")) == {}
    sender = Links()
    other = _sent(sender, "another", "history", "of", "four")
    with pytest.raises(Halted):
        links.verdict(receiver, "u0", other[2])
    accepted = links.accept(Links(taken=dict(receiver.taken)), "u0", other[2:])
    assert accepted == {"t0": (2, links.ANY)}
    links.recover(receiver, {"taken": accepted})
    assert links.verdict(receiver, "u0", other[2]) == "take"
    receiver.taken["t0"] = (3, other[2]["hash"])
    assert links.verdict(receiver, "u0", other[3]) == "take"
    with pytest.raises(Halted):
        links.verdict(receiver, "u0", {**other[3], "payload": {"word": "forged"}})
