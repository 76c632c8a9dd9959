"""What the stores' tests share: tips, opened stores, a proxy that loses replies, and a process that races for swaps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from adgovernor.contracts.errors import Unavailable
from adgovernor.stores.base import Meta, Store, Tip
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

RACE_ROUNDS = 100
OUTAGE_S = 30.0


def tip(height: int, ledger: str = "genesis") -> Tip:
    """The tip of a ledger that has one possible history."""
    return Tip(ledger, height, f"chain-{height}")


def meta(height: int, spine: bytes = b"spine") -> Meta:
    """What a store says of a shard at that height."""
    return Meta(tip(height), spine)


async def forget(store: RedisStore) -> None:
    """Removes every key under the store's prefix."""
    pattern = store.key("*", "*")
    for node in await store.client.nodes():
        cursor = 0
        while True:
            cursor, keys = await store.client.command(node, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for key in keys:
                await store.client.command(node, "UNLINK", key)
            if int(cursor) == 0:
                break


async def race(store: Store, shard: str, name: str) -> int:
    """Swaps upwards from whatever is there until the rounds are over; how many of its swaps were the one."""
    won = 0
    while True:
        now = await store.read_meta(shard)
        assert now is not None
        height = now.tip.height + 1
        if height > RACE_ROUNDS:
            return won
        claim: dict[str, dict[str, bytes | None]] = {"winners": {f"{height}:{name}": b"1"}}
        refused = await store.swap(shard, now.tip, Meta(tip(height), name.encode()), claim)
        won += refused is None


Mode = Literal["pass", "lose_reply", "lose_request", "hold_reply"]


class Proxy:
    """A TCP proxy that can lose what passes through it.

    From the next request on that contains ``when``, once: ``lose_request`` does not pass it on and cuts both
    connections; ``lose_reply`` passes it on, reads the reply from the server, and cuts then. ``hold_reply`` swallows
    all replies from then on and cuts nothing.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.requests = bytearray()
        """All that clients sent, passed on or not."""
        self._mode: Mode = "pass"
        self._when = b""
        self._armed = False
        self._more = asyncio.Event()
        self._ends: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    def set(self, mode: Mode, when: bytes = b"") -> None:
        """What to lose from now on."""
        self._mode, self._when, self._armed = mode, when, False

    async def seen(self, text: bytes, times: int = 1) -> None:
        """Waits until clients have sent this so often."""
        while self.requests.count(text) < times:
            self._more.clear()
            await self._more.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Listens on a free port of 127.0.0.1."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for end in self._ends:
                end.close()
            if self._serving:
                await asyncio.wait(self._serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, up_writer}
        self._ends |= ends
        passing = [
            asyncio.create_task(self._requests(reader, up_writer)),
            asyncio.create_task(self._replies(up_reader, writer)),
        ]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.close()
        await asyncio.wait(passing)
        self._ends -= ends

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                self.requests += data
                self._more.set()
                self._armed = self._armed or (self._mode != "pass" and self._when in data)
                if self._armed and self._mode == "lose_request":
                    self.set("pass")
                    return
                writer.write(data)
                await writer.drain()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if self._armed and self._mode == "hold_reply":
                    continue
                if self._armed and self._mode == "lose_reply":
                    self.set("pass")
                    return
                writer.write(data)
                await writer.drain()


async def _racer(url: str, prefix: str, name: str, tasks: int) -> None:
    store = RedisStore(RedisConfig.from_url(url, connections=tasks), prefix)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    won = await asyncio.gather(*(race(store, "u1", f"{name}.{n}") for n in range(tasks)))
    await store.close()
    print(json.dumps(sum(won)), flush=True)


if __name__ == "__main__":
    address, key_prefix, width, racer = sys.argv[1:]
    asyncio.run(_racer(address, key_prefix, racer, int(width)))


@contextlib.asynccontextmanager
async def opened(config: RedisConfig, prefix: str = "t") -> AsyncIterator[RedisStore]:
    """A store that is closed at the end."""
    store = RedisStore(config, prefix)
    try:
        yield store
    finally:
        await store.close()


async def ask(store: RedisStore, *command: str | int) -> Any:
    """The answer of a store's one server to any command."""
    (node,) = await store.client.nodes()
    return await store.client.command(node, *command)


async def until_available(store: RedisStore, shard: str) -> Meta | None:
    """The shard's meta, as soon as servers answer again."""
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            return await store.read_meta(shard)
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
