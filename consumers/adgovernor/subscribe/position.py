"""Which messages of an output topic count: one number a partition.

Workers publish at least once, so a message can be there twice, and late. Each carries a number, contiguous from 1
in its partition. A reader that takes last + 1 and nothing else sees every event once, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson

from adgovernor.contracts.errors import BadInput, Gap

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader of one partition is."""

    offset: int = 0
    """The next offset to read."""
    dn: int = 0
    """The number of the last event taken; 0 before the first."""


START: Final = Position()
"""Before the first event that was ever published."""


class Verdict(Enum):
    """What a message is to a reader."""

    TAKE = "take"
    OLD = "old"
    AHEAD = "ahead"


class PartitionNumbers:
    """The numbers of one partition as a reader sees them.

    Attributes:
        position: after the last event taken. Ignored messages beyond it are read again from there.
    """

    __slots__ = ("_ahead_offset", "_ahead_seen", "_ahead_since", "ahead", "old", "position")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.old = 0
        """How many messages were repetitions."""
        self.ahead = 0
        """How many came before their predecessor."""
        self._ahead_since: float | None = None
        self._ahead_seen = 0
        self._ahead_offset = 0

    def see(self, offset: int, dn: int, now_s: float) -> Verdict:
        """Judges the message at ``offset`` with number ``dn``; `Verdict.TAKE` moves the position."""
        expected = self.position.dn + 1
        if dn < expected:
            self.old += 1
            return Verdict.OLD
        if dn > expected:
            self.ahead += 1
            if self._ahead_since is None:
                self._ahead_since, self._ahead_seen, self._ahead_offset = now_s, dn, offset
            return Verdict.AHEAD
        self.position = Position(offset + 1, dn)
        self._ahead_since = None
        return Verdict.TAKE

    def check(self, topic: str, partition: int, now_s: float, patience_s: float, kept_from: int) -> None:
        """Looks for a gap that stays. ``kept_from``: the first offset that the topic still has.

        Raises:
            Gap: where the next number has not come for ``patience_s`` although a later one has, or cannot come
                because the topic's beginning has expired.
        """
        if self._ahead_since is None:
            return
        expected, seen = self.position.dn + 1, self._ahead_seen
        if kept_from and self._ahead_offset == kept_from and self.position.offset <= kept_from:
            raise Gap(
                topic,
                partition,
                expected,
                seen,
                f"the next event is number {expected}, but the topic now begins with number {seen} (offset "
                f"{kept_from}): what lies between has expired. Raise the topic's retention, and start from a "
                "saved position or from the ledger's end (`adgovernor.app.starts.now`)",
            )
        if now_s - self._ahead_since >= patience_s:
            raise Gap(
                topic,
                partition,
                expected,
                seen,
                f"number {expected} is missing: number {seen} came {patience_s:g} s ago (offset "
                f"{self._ahead_offset}) and it has not been published again. Either Kafka lost messages "
                f"(`adgovernor audit` tells) or the position given was not this topic's",
            )


def dump_positions(topic: str, positions: Mapping[int, Position]) -> bytes:
    """Positions as JSON, to be kept beside what the events caused."""
    return orjson.dumps(
        {
            "format": _FORMAT,
            "topic": topic,
            "positions": {str(p): [at.offset, at.dn] for p, at in sorted(positions.items())},
        }
    )


def load_positions(topic: str, saved: bytes | str) -> dict[int, Position]:
    """Positions from `dump_positions`.

    Raises:
        BadInput: where the bytes are something else, or another topic's.
    """
    try:
        data = orjson.loads(saved)
        if data["format"] != _FORMAT:
            raise BadInput(f"saved positions have format {data['format']}, this program reads {_FORMAT}")
        if data["topic"] != topic:
            raise BadInput(f"the saved positions are of topic {data['topic']}, not of {topic}")
        return {int(p): Position(int(at[0]), int(at[1])) for p, at in data["positions"].items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInput(f"not saved positions ({error!r}); delete them to start from the beginning") from error


def missing_partitions(start: Mapping[int, Position], partitions: Iterable[int]) -> list[int]:
    """Partitions named by ``start`` that the topic does not have."""
    return sorted(set(start) - set(partitions))
