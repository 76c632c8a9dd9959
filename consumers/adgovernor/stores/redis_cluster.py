"""Finding the node of a Redis Cluster that serves a key.

What lives here: the map of slots, and following redirections. Each node is reached by a client of its own, the
same as a single server's. The library's Cluster client is not used: with several tasks at once it closes
connections that another task has just taken, both at its first use and after any error.

A redirection says for certain that nothing was done, so it is followed. Any other error goes to the caller, and
the map is read again before the next command.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    RedisError,
    TimeoutError,
)

Address = tuple[str, int]

_REDIRECTIONS: Final = 5
"""Most redirections of one command: a slot that moves sends at most two; more means that nodes disagree."""
_SLOTS: Final = 16384


class Cluster:
    """The nodes of one Cluster that take writes. Errors are the library's."""

    def __init__(self, seeds: tuple[Address, ...], connect: Callable[[str, int], Redis]) -> None:
        """``connect`` makes a node's client; it must not reach out yet."""
        self._seeds = seeds
        self._connect = connect
        self._clients: dict[Address, Redis] = {}
        self._starts: list[int] = []
        self._owners: list[Address] = []
        self._current = False
        self._reading = asyncio.Lock()

    async def execute(self, key: str, command: tuple[Any, ...]) -> Any:
        """Sends a command to the node of the key, once but for redirections."""
        await self._bring_up_to_date()
        address = self._owners[bisect_right(self._starts, key_slot(key.encode())) - 1]
        asking = False
        for _ in range(_REDIRECTIONS):
            try:
                return await (self._ask if asking else self._tell)(address, command)
            except AskError as redirection:
                # While a slot moves the asked node keeps the map; when it has moved the map is out of date.
                asking = not isinstance(redirection, MovedError)
                self._current = self._current and asking
                address = (redirection.host or address[0], redirection.port)
        raise ClusterDownError(f"redirected {_REDIRECTIONS} times; last to {address[0]}:{address[1]}")

    async def execute_at(self, address: Address, command: tuple[Any, ...]) -> Any:
        """Sends a command to that node."""
        return await self._tell(address, command)

    async def nodes(self) -> list[Address]:
        """The nodes that take writes."""
        await self._bring_up_to_date()
        return sorted(set(self._owners))

    async def close(self) -> None:
        """Lets all connections go."""
        self._current = False
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def _tell(self, address: Address, command: tuple[Any, ...]) -> Any:
        try:
            return await self._client(address).execute_command(*command)  # type: ignore[no-untyped-call]
        except (ConnectionError, TimeoutError, ClusterDownError, OSError):
            self._current = False
            raise

    async def _ask(self, address: Address, command: tuple[Any, ...]) -> Any:
        """Sends a command for a slot that is moving there; the permission counts on the same connection only."""
        async with self._client(address).pipeline(transaction=False) as pipeline:
            pipeline.execute_command("ASKING")
            pipeline.execute_command(*command)
            _, answer = await pipeline.execute(raise_on_error=False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _client(self, address: Address) -> Redis:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._connect(*address)
        return client

    async def _bring_up_to_date(self) -> None:
        if self._current:
            return
        async with self._reading:
            # Another task may have read it meanwhile.
            if not self._current:
                await self._read_map()

    async def _read_map(self) -> None:
        problems = []
        for address in dict.fromkeys((*self._owners, *self._seeds)):
            try:
                self._take(address, await self._tell(address, ("CLUSTER", "SLOTS")))
            except (RedisError, OSError) as error:
                problems.append(f"{address[0]}:{address[1]}: {error}")
            else:
                break
        else:
            raise ConnectionError("no node tells the map of slots: " + "; ".join(problems))
        self._current = True
        for address in set(self._clients) - set(self._owners):
            # Commands on their way to a node that left may still be answered.
            await self._clients.pop(address).connection_pool.disconnect(inuse_connections=False)

    def _take(self, asked: Address, ranges: list[list[Any]]) -> None:
        """Takes a map of slots. A node that does not know its own address is at the one that was asked."""
        found = sorted(
            (start, end, (_text(node[0]) or asked[0], int(node[1]))) for start, end, node, *_ in ranges
        )
        free = 0
        for start, end, _ in found:
            if start != free:
                break
            free = end + 1
        if free != _SLOTS:
            raise ClusterDownError(f"no node serves slot {free}")
        self._starts = [start for start, _, _ in found]
        self._owners = [address for _, _, address in found]


def _text(host: bytes | None) -> str:
    """A node that does not know its host name gives a question mark, one without an address nothing."""
    return "" if host is None or host == b"?" else host.decode()
