"""What the engine needs of the world: a log and a clock. Kafka, memory and the simulator give them.

Messages are structs of `msgspec`, because several are made for every event, and these are made in a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct

from adgovernor.contracts.errors import Unavailable

READ_TRIES: Final = 8
"""How often a read that must show an acknowledged message is tried: a failover can make reads fall short."""


class AppendUnknown(Unavailable):
    """An append was not acknowledged. It may have landed, or may land yet."""


class RawEvent(Struct, frozen=True):
    """A message as it is on a topic."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    time_ms: int = -1
    """The topic's time of the message; -1 where it does not matter."""


class LedgerEntry(Struct, frozen=True):
    """A message of a ledger partition."""

    offset: int
    time_ms: int
    """The broker's append time; -1 where the log keeps none."""
    value: bytes


@dataclass(slots=True)
class Fetch:
    """Input events from the asked positions on, contiguous for each topic; and where each topic ends."""

    events: dict[str, list[RawEvent]]
    ends: dict[str, int]
    """The next offset that each topic will get, as far as known; a topic is missing while unknown."""


class Output(Struct, frozen=True):
    """A message for an output or side topic."""

    topic: str
    """Logical name, without the prefix."""
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class ShardLog(Protocol):
    """All that one owner of one shard does with the log. Not shared between owners."""

    async def fetch(self, positions: Mapping[str, int], max_events: int, max_wait_s: float) -> Fetch:
        """Input events from ``positions`` (topic → next offset) on, at most ``max_events`` in all; waits up to
        ``max_wait_s`` where there are none."""
        ...

    async def append(self, block: bytes, deadline_s: float) -> int:
        """Appends to the ledger partition; the offset. Raises `AppendUnknown` on any error, past the deadline, or
        where the broker gives no offset; the producer is then already discarded and a new one takes over."""
        ...

    async def read_ledger(self, offset: int, max_bytes: int) -> tuple[list[LedgerEntry], int]:
        """Entries from ``offset`` on, and the offset that the partition will give next, read before the entries:
        a walk that has reached it has seen all that was acknowledged before the call. May be short; raises
        `Unavailable`, and `Halted` where what is to be read was deleted."""
        ...

    async def publish(self, outputs: Sequence[Output], deadline_s: float) -> None:
        """Publishes in order for each partition; returns when all are acknowledged. Raises `Unavailable` where any
        is not known to be; the producer is then already discarded."""
        ...

    async def tail(self, topic: str, partition: int, count: int) -> list[RawEvent]:
        """The last messages of an output or side topic's partition, at most ``count``, oldest first."""
        ...

    async def before(self, topic: str, partition: int, offset: int, count: int) -> tuple[list[RawEvent], int]:
        """Messages before ``offset``, oldest first, with their times, and the offset from which on they are all that
        there is: at most ``count`` below ``offset``, and ``offset`` itself where the partition begins there."""
        ...

    async def close(self) -> None:
        """Lets go; what is in flight may still land."""
        ...


class Clock(Protocol):
    """Wall-clock time. Waiting is asyncio's."""

    def now_ms(self) -> int: ...
