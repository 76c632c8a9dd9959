"""Which of a source's histories a receiver goes on with, where messages of several wait to be read.

A sender that lost its ledger's tail may have sent other messages of the same numbers before anybody noticed. The
newest history is the one that its ledger still knows: of messages with one number the last one to appear counts, and
what the older history said from that number on is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from adgovernor.contracts.errors import Halted
from adgovernor.core.links import ANY, FIRST, follows, verdict
from adgovernor.core.machine import Links


@dataclass(frozen=True, slots=True)
class Rejoined:
    """How a receiver goes on with one source."""

    number: int
    digest: str
    """What counts as taken; `ANY` where what the next message continues is not known here."""
    passed: list[list[int]]
    """First and last offset of each row of messages that do not count."""


def conflicts(links: Links, shard: str, messages: Iterable[tuple[int, dict[str, Any]]]) -> set[str]:
    """Goes through messages that wait to be taken, as (offset, message): the sources of those that do not continue what
    was taken. Moves ``links`` on."""
    found: set[str] = set()
    for offset, message in messages:
        source = message["source"]
        try:
            what = verdict(links, shard, message, offset)
        except Halted:
            found.add(source)
            what = "take"
        if what in {"take", "lost"}:
            links.taken[source] = (message["number"], message["hash"])
    return found


class Rejoin:
    """Reads one source's waiting messages, in order."""

    def __init__(self, taken: tuple[int, str], known: Mapping[int, str]) -> None:
        """``taken``: the last message taken; ``known``: number → hash of those before it, as far as they matter."""
        self._last = taken[0]
        self._hashes = {FIRST[0]: FIRST[1], **known, taken[0]: taken[1]}
        self._waiting: dict[int, tuple[int, bool]] = {}
        """Of the newest history: number → offset, and whether it continues the one before it."""
        self._given_up: set[str] = set()
        self._offsets: list[int] = []

    def read(self, offset: int, message: dict[str, Any]) -> None:
        """Takes the next message of the source for this shard."""
        number, digest = message["number"], message["hash"]
        if number > self._last + 1:
            return  # A gap stays one, until what is missing is sent again.
        self._offsets.append(offset)
        lost = message.get("lost") is True
        if number <= self._last:
            if lost or self._hashes.get(number, ANY) in (digest, ANY) or digest in self._given_up:
                return
            for older in range(number, self._last + 1):
                self._given_up.add(self._hashes.pop(older, ANY))
                self._waiting.pop(older, None)
        previous = self._hashes.get(number - 1)
        self._waiting[number] = (offset, lost or (previous is not None and follows(previous, message)))
        self._hashes[number] = digest
        self._last = number

    def result(self) -> Rejoined | None:
        """How to go on; None where nothing that waits is to be taken."""
        if self._last not in self._waiting:
            return None
        first = self._last
        while self._waiting[first][1] and first - 1 in self._waiting:
            first -= 1
        digest = self._hashes[first - 1] if self._waiting[first][1] else ANY
        kept = {self._waiting[number][0] for number in range(first, self._last + 1)}
        passed: list[list[int]] = []
        for before, offset in zip([None, *self._offsets], self._offsets, strict=False):
            if offset in kept:
                continue
            if passed and passed[-1][1] == before:
                passed[-1][1] = offset
            else:
                passed.append([offset, offset])
        return Rejoined(first - 1, digest, passed)
