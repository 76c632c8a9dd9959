"""Side messages between user shards and treasuries: numbered, chained, taken once.

A message carries a contiguous number for its (source, destination), and a hash over the pair's previous hash,
the number and the payload. The receiver takes last + 1 only; anything else is consumed without effect. A hash
that does not fit means that the two sides do not share one history: the shard halts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from adgovernor.contracts.errors import Halted
from adgovernor.core.machine import Links

FIRST: Final = (0, "")
ANY: Final = "*"
"""In place of a hash: a person accepted that what came before is not known any more, so the next message of that
number counts whatever it continues."""


def message_hash(previous: str, number: int, payload: dict[str, Any]) -> str:
    """The hash of a message, given the hash of the pair's previous one."""
    body = orjson.dumps([previous, number, payload], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(body).hexdigest()[:16]


def next_message(links: Links, destination: str, payload: dict[str, Any]) -> list[Any]:
    """The next message to a destination, as a record's ``send`` holds it; the number is taken."""
    number, previous = links.sent.get(destination, FIRST)
    digest = message_hash(previous, number + 1, payload)
    links.sent[destination] = (number + 1, digest)
    return [destination, number + 1, digest, payload]


def message_of(source: str, sent: Sequence[Any], place: Mapping[str, Any]) -> dict[str, Any]:
    """The message as it travels. ``sent``: as a record's ``send`` holds it, with True behind where nobody knows any
    more what it said; ``place``: of its record in the ledger, where there is one."""
    destination, number, digest, payload, *lost = sent
    return {
        "source": source,
        "destination": destination,
        "number": number,
        "hash": digest,
        **place,
        "payload": payload,
        **({"lost": True} if lost else {}),
    }


def lost_messages(sent: Mapping[str, tuple[int, str]], recovery: Mapping[str, Any]) -> list[list[Any]]:
    """What a recovery that continues behind messages of a lost history (``recovery["sent"]``) has to say in their
    place, as a record's ``send`` holds it: the sender does not know them any more, so where a topic has lost them,
    too, nobody does. ``sent``: the last ones that the ledger knows."""
    return [
        [destination, lost, digest if lost == number else ANY, {"watermark_ms": 0, "items": []}]
        for destination, (number, digest) in recovery.get("sent", {}).items()
        for lost in range(sent.get(destination, FIRST)[0] + 1, number + 1)
    ]


def verdict(links: Links, shard: str, message: Mapping[str, Any], offset: int) -> str:
    """What to do with a message that came in: ``take``, ``lost`` (the same, but nobody knows what it said),
    ``repeated`` or ``passed`` (of a history that was given up; both are consumed without effect), ``gap`` (one before
    it has not come: an alarm), or ``astray`` (meant for another shard). ``offset``: the message's own.

    Raises:
        Halted: when the message belongs to another history than the ones before it.
    """
    if message["destination"] != shard:
        return "astray"
    if links.passed and any(
        first <= offset <= last for first, last in links.passed.get(message["source"], ())
    ):
        return "passed"
    lost = message.get("lost") is True
    number, previous = links.taken.get(message["source"], FIRST)
    if message["number"] > number + 1:
        return "gap"
    if message["number"] <= number:
        if message["number"] == number and previous not in (message["hash"], ANY) and not lost:
            raise _mismatch(shard, message)
        return "repeated"
    if not (lost or follows(previous, message)):
        raise _mismatch(shard, message)
    return "lost" if lost else "take"


def follows(previous: str, message: Mapping[str, Any]) -> bool:
    """Whether a message continues the one with this hash."""
    return previous == ANY or message_hash(previous, message["number"], message["payload"]) == message["hash"]


def _mismatch(shard: str, message: Mapping[str, Any]) -> Halted:
    return Halted(
        shard,
        "side_message_mismatch",
        f"message {message['number']} of {message['source']} does not continue the messages taken before it: "
        f"one of the two ledgers lost its tail; look at both, then run: adgovernor recover {shard} "
        "--accept-loss --why TEXT",
    )


def recover(links: Links, recovery: Mapping[str, Any]) -> None:
    """See `machine.Machine.recover`."""
    for known, word in ((links.sent, "sent"), (links.taken, "taken")):
        known.update({shard: (number, digest) for shard, (number, digest) in recovery.get(word, {}).items()})
    links.passed.update(
        {
            source: [(first, last) for first, last in ranges]
            for source, ranges in recovery.get("passed", {}).items()
        }
    )


def encode_links(links: Links) -> dict[str, Any]:
    """As stored."""
    passed = {"passed": links.passed} if links.passed else {}
    return {"sent": links.sent, "taken": links.taken, **passed}


def decode_links(data: dict[str, Any]) -> Links:
    """From the stored form."""
    return Links(
        {name: (pair[0], pair[1]) for name, pair in data["sent"].items()},
        {name: (pair[0], pair[1]) for name, pair in data["taken"].items()},
        {name: [(first, last) for first, last in ranges] for name, ranges in data.get("passed", {}).items()},
    )
