"""Side messages between user shards and treasuries: numbered, chained, taken once.

A message carries a contiguous number for its (source, destination), and a hash over the pair's previous hash,
the number and the payload. The receiver takes last + 1 only; anything else is consumed without effect. A hash
that does not fit means that the two sides do not share one history: the shard halts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
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


def verdict(links: Links, shard: str, message: dict[str, Any]) -> str:
    """What to do with a message that came in: ``take``, ``repeated`` (consumed without effect), ``gap`` (one
    before it has not come: an alarm), or ``astray`` (meant for another shard).

    Raises:
        Halted: when the message belongs to another history than the ones before it.
    """
    if message["destination"] != shard:
        return "astray"
    number, previous = links.taken.get(message["source"], FIRST)
    if message["number"] > number + 1:
        return "gap"
    if message["number"] <= number:
        if message["number"] == number and previous not in (message["hash"], ANY):
            raise _mismatch(shard, message)
        return "repeated"
    if previous != ANY and message_hash(previous, message["number"], message["payload"]) != message["hash"]:
        raise _mismatch(shard, message)
    return "take"


def _mismatch(shard: str, message: dict[str, Any]) -> Halted:
    return Halted(
        shard,
        "side_message_mismatch",
        f"message {message['number']} of {message['source']} does not continue the messages taken before it: "
        f"one of the two ledgers lost its tail; look at both, then run: adgovernor recover {shard} --accept-loss",
    )


def recover(links: Links, recovery: Mapping[str, Any]) -> None:
    """See `machine.Machine.recover`."""
    for known, word in ((links.sent, "sent"), (links.taken, "taken")):
        known.update({shard: (number, digest) for shard, (number, digest) in recovery.get(word, {}).items()})


def accept(links: Links, shard: str, messages: Iterable[dict[str, Any]]) -> dict[str, tuple[int, str]]:
    """Goes through messages that wait to be taken. The sources whose messages do not continue those taken, each with
    what must count as taken of it (see `ANY`) so that the shard can go on. Moves ``links`` on."""
    accepted: dict[str, tuple[int, str]] = {}
    for message in messages:
        source = message["source"]
        try:
            what = verdict(links, shard, message)
        except Halted:
            accepted.setdefault(source, (message["number"] - 1, ANY))
            what = "take"
        if what == "take":
            links.taken[source] = (message["number"], message["hash"])
    return accepted


def encode_links(links: Links) -> dict[str, Any]:
    """As stored."""
    return {"sent": links.sent, "taken": links.taken}


def decode_links(data: dict[str, Any]) -> Links:
    """From the stored form."""
    return Links(
        {name: (pair[0], pair[1]) for name, pair in data["sent"].items()},
        {name: (pair[0], pair[1]) for name, pair in data["taken"].items()},
    )
