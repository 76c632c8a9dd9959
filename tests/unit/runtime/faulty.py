"""A log and a store whose answers can be made to go wrong, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from adgovernor.contracts.errors import Unavailable
from adgovernor.runtime.memory_log import MemoryBroker, MemoryShardLog
from adgovernor.runtime.ports import AppendUnknown, Output
from adgovernor.stores.base import Meta, Tip
from adgovernor.stores.memory import MemoryStore


class FaultyLog(MemoryShardLog):
    """``appends`` says what becomes of the next appends: ``ok``, ``lost`` (never lands, no answer), ``unanswered``
    (lands, no answer), ``late`` (no answer; lands just before the one after it), ``low`` (an offset already given),
    ``instead`` (lands in the place of the block before, which the log has lost; no answer), ``over`` (never lands, and
    something else takes the place of the block before; no answer), ``behind`` (both: something else takes that place,
    and it lands behind it; no answer).
    ``publishes`` likewise: ``ok``, ``failed`` (nothing is published), ``half`` (the first half is)."""

    def __init__(self, broker: MemoryBroker, shard: str) -> None:
        super().__init__(broker, shard)
        self.appends: list[str] = []
        self.publishes: list[str] = []
        self.sent: list[bytes] = []
        self._late: list[bytes] = []

    async def append(self, block: bytes, deadline_s: float) -> int:
        self.sent.append(block)
        for late in self._late:
            await super().append(late, deadline_s)
        self._late = []
        match self.appends.pop(0) if self.appends else "ok":
            case "lost":
                raise AppendUnknown("no answer")
            case "unanswered":
                await super().append(block, deadline_s)
                raise AppendUnknown("no answer")
            case "late":
                self._late.append(block)
                raise AppendUnknown("no answer")
            case "instead":
                self._lose_one()
                await super().append(block, deadline_s)
                raise AppendUnknown("no answer")
            case "over":
                self._lose_one()
                self._late.append(b"something else")
                raise AppendUnknown("no answer")
            case "behind":
                self._lose_one()
                await super().append(b"something else", deadline_s)
                await super().append(block, deadline_s)
                raise AppendUnknown("no answer")
            case "low":
                return 0
            case _:
                return await super().append(block, deadline_s)

    def _lose_one(self) -> None:
        place = (self._ledger, self._partition)
        self._broker._messages[place].pop()
        self._broker._times[place].pop()

    async def publish(self, outputs: Sequence[Output], deadline_s: float) -> None:
        fault = self.publishes.pop(0) if self.publishes else "ok"
        if fault == "half":
            await super().publish(outputs[: len(outputs) // 2], deadline_s)
        if fault != "ok":
            raise Unavailable("not acknowledged")
        await super().publish(outputs, deadline_s)


class FaultyStore(MemoryStore):
    """``away`` makes every call fail, ``full`` every swap; ``swaps`` says what becomes of the next swaps: ``ok``,
    ``lost`` (does not happen, no answer), ``unanswered`` (happens, no answer), ``late`` (no answer; happens just before
    the one after it). ``calls`` keeps the number of fields of each swap, ``refused`` the shards of those that a full
    store did not take."""

    def __init__(self) -> None:
        super().__init__()
        self.away = self.full = False
        self.swaps: list[str] = []
        self.calls: list[int] = []
        self.refused: list[str] = []
        self._late: list[tuple[str, Tip, Meta, Mapping[str, Mapping[str, bytes | None]]]] = []

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the store is away")

    async def read_meta(self, shard: str, touch: Sequence[str] = ()) -> Meta | None:
        await asyncio.sleep(0)
        self._check()
        return await super().read_meta(shard, touch)

    async def read_buckets(
        self, shard: str, buckets: Sequence[str]
    ) -> tuple[Meta | None, dict[str, dict[str, bytes]]]:
        self._check()
        return await super().read_buckets(shard, buckets)

    async def read_fields(
        self, shard: str, bucket: str, fields: Sequence[str]
    ) -> tuple[Meta | None, list[bytes | None]]:
        await asyncio.sleep(0)
        self._check()
        return await super().read_fields(shard, bucket, fields)

    async def swap(
        self, shard: str, expected: Tip, meta: Meta, changes: Mapping[str, Mapping[str, bytes | None]]
    ) -> Meta | None:
        await asyncio.sleep(0)
        self._check()
        if self.full:
            self.refused.append(shard)
            raise Unavailable("command not allowed when used memory > 'maxmemory'")
        self.calls.append(sum(map(len, changes.values())))
        for late in self._late:
            await super().swap(*late)
        self._late = []
        fault = self.swaps.pop(0) if self.swaps else "ok"
        if fault == "late":
            self._late.append((shard, expected, meta, changes))
        if fault in ("lost", "late"):
            raise Unavailable("no answer")
        answer = await super().swap(shard, expected, meta, changes)
        if fault == "unanswered":
            raise Unavailable("no answer")
        return answer

    async def reset(self, shard: str, expected: Tip | None, meta: Meta) -> Meta | None:
        self._check()
        return await super().reset(shard, expected, meta)

    def wipe(self) -> None:
        """Forgets everything, as an emptied server does."""
        self._shards.clear()


class Truncated(MemoryBroker):
    """A broker whose partitions can lose their tails."""

    def cut(self, topic: str, partition: int, end: int) -> None:
        del self._messages[topic, partition][end:]
        del self._times[topic, partition][end:]
