"""The simulated store: the store in memory behind a network, with failovers that lose what was written last."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from tests.simulation.broker import Network
from tests.simulation.faults import Faults
from tests.simulation.loop import VirtualLoop

from adgovernor.contracts.errors import Unavailable
from adgovernor.stores.base import Meta, Tip
from adgovernor.stores.memory import MemoryStore, _Shard

T = TypeVar("T")
_COPIES = 40


class StoreServer:
    """The server side: the state, copies of it as they were, and outages."""

    def __init__(self, loop: VirtualLoop, faults: Faults) -> None:
        self.loop = loop
        self.faults = faults
        self.memory = MemoryStore()
        self.away_until_s = -1.0
        self.full = False
        self._copies: list[dict[str, _Shard]] = []

    @property
    def away(self) -> bool:
        """Whether it does not do what is asked of it."""
        return self.loop.time() < self.away_until_s

    def keep_copy(self) -> None:
        """Remembers the state as it is, to come back to it."""
        self._copies.append({name: _copy(shard) for name, shard in self.memory._shards.items()})
        del self._copies[:-_COPIES]

    def lose_tail(self) -> None:
        """A failover to a replica that had not got the last writes of some shards."""
        self._go_back(self._copies[-3:])

    def restore_old_copy(self) -> None:
        """Somebody puts an old copy back."""
        self._go_back(self._copies)

    def wipe(self) -> None:
        """All, or one shard's part, is gone."""
        shards = self.memory._shards
        if shards and self.faults.rng.random() < 0.6:
            del shards[self.faults.rng.choice(sorted(shards))]
        else:
            shards.clear()

    def lose_bucket(self) -> None:
        """One bucket of one shard is gone, the rest stays."""
        rng = self.faults.rng
        shards = [shard for _, shard in sorted(self.memory._shards.items()) if shard.buckets]
        if shards:
            buckets = rng.choice(shards).buckets
            del buckets[rng.choice(sorted(buckets))]

    def _go_back(self, copies: list[dict[str, _Shard]]) -> None:
        if not copies:
            return
        rng, present = self.faults.rng, self.memory._shards
        copy = rng.choice(copies)
        whole = rng.random() < 0.5
        for name in sorted(present):
            if whole or rng.random() < 0.5:
                if name in copy:
                    present[name] = _copy(copy[name])
                else:
                    del present[name]


def _copy(shard: _Shard) -> _Shard:
    buckets = {name: dict(values) for name, values in shard.buckets.items()}
    return _Shard(shard.meta, buckets, dict(shard.counts))


class SimStore:
    """A `Store` as one worker sees it."""

    def __init__(self, server: StoreServer, network: Network) -> None:
        self._server = server
        self._net = network
        self._faults = network.faults

    async def read_meta(self, shard: str, touch: Sequence[str] = ()) -> Meta | None:
        """See `Store.read_meta`."""
        memory = self._server.memory
        return await self._read(lambda: _now(memory.read_meta(shard, touch)))

    async def read_buckets(
        self, shard: str, buckets: Sequence[str]
    ) -> tuple[Meta | None, dict[str, dict[str, bytes]]]:
        """See `Store.read_buckets`."""
        memory = self._server.memory
        return await self._read(lambda: _now(memory.read_buckets(shard, buckets)))

    async def read_fields(
        self, shard: str, bucket: str, fields: Sequence[str]
    ) -> tuple[Meta | None, list[bytes | None]]:
        """See `Store.read_fields`."""
        memory = self._server.memory
        return await self._read(lambda: _now(memory.read_fields(shard, bucket, fields)))

    async def swap(
        self, shard: str, expected: Tip, meta: Meta, changes: Mapping[str, Mapping[str, bytes | None]]
    ) -> Meta | None:
        """See `Store.swap`. It may happen late, or unanswered, or not at all."""
        memory = self._server.memory
        return await self._write(lambda: _now(memory.swap(shard, expected, meta, changes)))

    async def reset(self, shard: str, expected: Tip | None, meta: Meta) -> Meta | None:
        """See `Store.reset`. It may happen late, or unanswered, or not at all."""
        memory = self._server.memory
        return await self._write(lambda: _now(memory.reset(shard, expected, meta)))

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._read(lambda: None)

    async def close(self) -> None:
        """See `Store.close`."""

    async def _read(self, effect: Callable[[], T]) -> T:
        def read() -> T:
            if (self._server.away and not self._server.full) or self._faults.hit("store_read_fails"):
                raise Unavailable("the store does not answer")
            return effect()

        return await self._net.call(read)

    async def _write(self, effect: Callable[[], Meta | None]) -> Meta | None:
        server, faults, net = self._server, self._faults, self._net

        def write() -> Meta | None:
            if server.away:
                raise Unavailable("the store does not answer")
            return effect()

        def write_late() -> None:
            if not server.away:
                effect()

        await net.step()
        if faults.hit("store_lost"):
            await net.pass_away(0.1)
            raise Unavailable("the store did not answer")
        if faults.hit("store_late"):
            net.afterwards(0.1, 6.0, write_late)
            await net.pass_away(0.1)
            raise Unavailable("the store did not answer in time")
        if faults.hit("store_reply_lost"):
            await net.call(write)
            await net.pass_away(0.1)
            raise Unavailable("the store's answer was lost")
        return await net.call(write)


def _now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("the store in memory never waits")
