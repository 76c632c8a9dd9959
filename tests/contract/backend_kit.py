"""What the backends' tests share: making one from a description, and a process that races on it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from adgovernor.stores.backends import Change, InMemoryBackend, StateBackend, Transactions, Versioned
from adgovernor.stores.redis_backend import RedisBackend
from adgovernor.stores.redis_client import RedisConfig

RACERS = 64
SERVERS = [
    pytest.param(kind, marks=pytest.mark.servers) for kind in ("redis", "cluster", "sentinel", "postgres")
]


def address_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a backend of that kind is."""
    if kind == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/state.db"
    if kind == "redis":
        return str(request.getfixturevalue("redis_url"))
    if kind == "cluster":
        return str(request.getfixturevalue("redis_cluster_url")).replace("redis://", "redis+cluster://")
    if kind == "sentinel":
        trio = request.getfixturevalue("redis_sentinel")
        hosts = ",".join(f"{host}:{port}" for host, port in trio.sentinels)
        return f"redis+sentinel://{hosts}/{trio.master_name}"
    return str(request.getfixturevalue("postgres").url) if kind == "postgres" else kind


def backend_at(address: str, prefix: str) -> StateBackend:
    """A backend on the servers at that address; ``prefix`` keeps tests apart."""
    if address == "memory":
        return InMemoryBackend()
    if address.startswith("redis"):
        return RedisBackend(RedisConfig.from_url(address, timeout_s=20.0), prefix)
    # Only who uses a database pays for the import, which takes a second or two.
    from adgovernor.stores.database import DatabaseBackend

    return DatabaseBackend(address, table=prefix, timeout_s=20.0, connections=4)


class PassingBackend:
    """A backend that has another do everything; for tests that lose something on the way."""

    def __init__(self, inner: StateBackend) -> None:
        self.inner = inner

    async def load(self, key: str) -> Versioned | None:
        """The other's."""
        return await self.inner.load(key)

    async def swap(self, key: str, change: Change) -> bool:
        """The other's."""
        return await self.inner.swap(key, change)

    async def delete(self, key: str, expected: Versioned) -> bool:
        """The other's."""
        return await self.inner.delete(key, expected)

    async def ping(self) -> None:
        """It is there while the test runs."""

    async def close(self) -> None:
        """Whoever made the other closes it."""


def take_one(value: bytes | None) -> tuple[bytes | None, str]:
    """The last unit goes to whoever asks first."""
    left = int(value or b"0")
    return (b"%d" % (left - 1), "won") if left else (None, "exhausted")


def add_one(value: bytes | None) -> tuple[bytes | None, int]:
    """Counts, and tells the new count."""
    count = int(value or b"0") + 1
    return b"%d" % count, count


async def race(backend: StateBackend, name: str) -> tuple[Counter[str], list[int]]:
    """What the racers of one process were told about the one unit, and the counts that they were told."""
    transactions = Transactions(backend, deadline_s=120.0)
    told = await asyncio.gather(*(transactions.apply("unit", f"{name}.{n}", take_one) for n in range(RACERS)))
    counts = await asyncio.gather(
        *(transactions.apply("count", f"{name}.{n}", add_one) for n in range(RACERS))
    )
    return Counter(told), counts


async def _racer(address: str, prefix: str, name: str) -> None:
    backend = backend_at(address, prefix)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(json.dumps(await race(backend, name)), flush=True)
    await backend.close()


if __name__ == "__main__":
    asyncio.run(_racer(*sys.argv[1:4]))
