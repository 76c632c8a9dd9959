"""Where persons' keys are kept: one partition of ``person-keys`` a user shard. What the keyring needs of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from adgovernor.contracts import topics
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.ports import RawEvent

KeyMessage = tuple[str, bytes | None]
"""A key's id and its value; None destroys it."""


class KeyLog(Protocol):
    """One shard's partition of ``person-keys``."""

    async def put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        """Writes all together; their offsets, once every replica has them. Raises `Unavailable` where that is not
        known by the deadline; they may then have landed, or land yet."""
        ...

    async def read(self, offset: int, max_bytes: int) -> tuple[list[RawEvent], int]:
        """Messages from ``offset`` on that compaction has left, and the offset that the next one will get, read
        before. May be short; raises `Unavailable`."""
        ...

    async def close(self) -> None:
        """Lets go; what is in flight may still land."""
        ...


class MemoryKeyLog:
    """A `KeyLog` over a `MemoryBroker`, which never compacts."""

    def __init__(self, broker: MemoryBroker, shard: str) -> None:
        self._broker = broker
        self._partition = topics.partition_of_shard(shard)

    async def put(self, messages: Sequence[KeyMessage], deadline_s: float) -> list[int]:
        """See `KeyLog.put`."""
        offsets = [
            self._broker.produce(topics.PERSON_KEYS, self._partition, name.encode(), value)
            for name, value in messages
        ]
        await asyncio.sleep(0)
        return offsets

    async def read(self, offset: int, max_bytes: int) -> tuple[list[RawEvent], int]:
        """See `KeyLog.read`."""
        broker, partition = self._broker, self._partition
        end = broker.end(topics.PERSON_KEYS, partition)
        await asyncio.sleep(0)
        return broker.read(topics.PERSON_KEYS, partition, offset, max(1, max_bytes // 128)), end

    async def close(self) -> None:
        """See `KeyLog.close`."""
