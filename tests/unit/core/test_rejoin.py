"""Side messages after a loss that a person accepted."""

from __future__ import annotations

from typing import Any

import pytest

from adgovernor.contracts.errors import Halted
from adgovernor.core import links
from adgovernor.core.machine import Links
from adgovernor.core.rejoin import Rejoin, conflicts


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


def _accept(receiver: Links, known: dict[int, str], waiting: list[dict[str, Any]]) -> None:
    """What a person's recovery does about messages that wait, the first at offset 0."""
    rejoin = Rejoin(receiver.taken.get("t0", links.FIRST), known)
    for offset, message in enumerate(waiting):
        rejoin.read(offset, message)
    found = rejoin.result()
    assert found is not None
    links.recover(receiver, {"taken": {"t0": (found.number, found.digest)}, "passed": {"t0": found.passed}})


def _take(receiver: Links, waiting: list[dict[str, Any]]) -> list[str]:
    """The words of the messages that are taken."""
    words = []
    for offset, message in enumerate(waiting):
        what = links.verdict(receiver, "u0", message, offset)
        if what in {"take", "lost"}:
            receiver.taken["t0"] = (message["number"], message["hash"])
            words.append(message["payload"].get("word", what))
    return words


def test_messages_of_a_lost_history_count_after_it_is_accepted() -> None:
    """A message that does not continue what was taken halts; accepted, it counts, and those after it are checked."""
    sender, receiver = Links(), Links(taken={"t0": (2, "0123")})
    other = _sent(sender, "another", "history", "of", "four")
    with pytest.raises(Halted):
        links.verdict(receiver, "u0", other[2], 0)
    assert conflicts(Links(taken=dict(receiver.taken)), "u0", enumerate(other[2:])) == {"t0"}
    _accept(receiver, {}, other[2:])
    assert receiver.taken["t0"] == (2, links.ANY)
    assert _take(receiver, other[2:]) == ["of", "four"]
    with pytest.raises(Halted):
        links.verdict(receiver, "u0", {**other[3], "number": 5}, 2)


def test_messages_of_one_history_need_nobody() -> None:
    """Messages that continue those taken, come twice or leave a gap are no conflict."""
    one, two, three = _sent(Links(), "one", "two", "three")
    assert conflicts(Links(), "u0", enumerate((one, one, three, two))) == set()


@pytest.mark.parametrize("late", [False, True])
def test_of_two_waiting_histories_the_newest_counts(late: bool) -> None:
    """Where a sender began again before anybody noticed its loss, what its lost history said from there on is passed
    over, also where it comes once more; what both share is taken once."""
    sender = Links()
    shared = _sent(sender, "one", "two")
    older = _sent(Links(sent=dict(sender.sent)), "older three", "older four")
    newer = _sent(sender, "newer three", "newer four", "newer five")
    waiting = [*shared, *older, *newer[:2], *(older[1:] if late else ()), *newer[1:], *shared]
    receiver = Links()
    with pytest.raises(Halted):
        _take(Links(), waiting)
    _accept(receiver, {}, waiting)
    assert _take(receiver, waiting) == ["one", "two", "newer three", "newer four", "newer five"]
    assert receiver.taken["t0"] == sender.sent["u0"]


def test_a_newer_history_is_taken_from_where_it_parts_from_what_was_taken() -> None:
    """What the receiver took of a lost history is taken as the newer one says it, and nothing that both share again."""
    sender = Links()
    shared = _sent(sender, "one", "two")
    older = _sent(Links(sent=dict(sender.sent)), "older three", "older four")
    newer = _sent(sender, "newer three", "newer four")
    known = {message["number"]: message["hash"] for message in (*shared, *older)}
    receiver = Links(taken={"t0": (4, older[1]["hash"])})
    waiting = [*shared, *newer]
    _accept(receiver, known, waiting)
    assert _take(receiver, waiting) == ["newer three", "newer four"]


def test_what_nobody_knows_any_more_is_said_to_be_lost() -> None:
    """Messages that the sender's ledger lost and a topic, too, are taken as lost, and the next one continues them;
    where the topic still has them they count, and the word about them does not."""
    sender = Links()
    first, second, third = _sent(sender, "one", "two", "three")
    [fourth] = _sent(sender, "four")
    recovery = {"sent": {"u0": [3, third["hash"]]}}
    fillers = [
        {**first, "number": number, "hash": digest, "payload": payload, "lost": True}
        for _, number, digest, payload in links.lost_messages({"u0": (1, first["hash"])}, recovery)
    ]
    assert [message["number"] for message in fillers] == [2, 3]
    assert _take(Links(), [first, *fillers, fourth]) == ["one", "lost", "lost", "four"]
    assert _take(Links(), [first, second, third, *fillers, fourth]) == ["one", "two", "three", "four"]
    assert _take(Links(), [first, second, *fillers, fourth]) == ["one", "two", "lost", "four"]


def test_messages_that_are_passed_over_are_stored() -> None:
    """Which waiting messages do not count is part of the stored state, so that another owner passes over them, too."""
    known = Links({"t0": (1, "a")}, {"t0": (2, "b")}, {"t0": [(3, 5)]})
    assert links.decode_links(links.encode_links(known)) == known
