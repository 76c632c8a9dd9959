"""Library mode's state in Redis. Imported only by whoever uses it: the client takes half a second."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from redis.exceptions import ResponseError

from adgovernor.contracts.errors import BadSettings
from adgovernor.stores.backends import Change, Versioned, check_key
from adgovernor.stores.redis_client import REFUSAL, RedisClient, RedisConfig, Script

T = TypeVar("T")

_COMPARE = f"""
-- KEYS: the value's hash. ARGV: expected version ('0': nothing) and marks.
local now = redis.call('HMGET', KEYS[1], 'version', 'marks', 'value')
if now[1] and not (now[2] and now[3]) then return redis.error_reply('{REFUSAL} value') end
if (now[1] or '0') ~= ARGV[1] or (now[2] or '') ~= ARGV[2] then return 0 end
"""

_SWAP: Final = Script(
    _COMPARE
    + """
-- ARGV further: version, marks, value, time to live in ms or ''.
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'marks', ARGV[4], 'value', ARGV[5])
if ARGV[6] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return 1
"""
)
_DELETE: Final = Script(_COMPARE + "return redis.call('UNLINK', KEYS[1])")


class RedisBackend:
    """A `StateBackend` in Redis: one server, one behind Sentinel, or a Cluster.

    Each value is one hash under ``PREFIX:state:KEY``. A server that fails over may lose its last writes, and
    there is no ledger here to bring them back: where that is not acceptable, use a database.
    """

    def __init__(self, config: RedisConfig, prefix: str = "adgovernor") -> None:
        self._prefix = prefix
        self.client = RedisClient(config)

    async def load(self, key: str) -> Versioned | None:
        """See `StateBackend.load`."""
        name = self.name(key)
        version, marks, value = await self._answer(
            name, self.client.command(name, "HMGET", name, "version", "marks", "value")
        )
        if version is None or marks is None or value is None:
            return None
        return Versioned(int(version), value, marks)

    async def swap(self, key: str, change: Change) -> bool:
        """See `StateBackend.swap`."""
        name, wanted = self.name(key), change.wanted
        arguments = (*_place(change.expected), wanted.version, wanted.marks, wanted.value)
        ttl = "" if change.ttl_ms is None else change.ttl_ms
        return bool(await self._answer(name, self.client.run(_SWAP, [name], [*arguments, ttl])) == 1)

    async def delete(self, key: str, expected: Versioned) -> bool:
        """See `StateBackend.delete`."""
        name = self.name(key)
        return bool(await self._answer(name, self.client.run(_DELETE, [name], _place(expected))) == 1)

    async def ping(self) -> None:
        """See `StateBackend.ping`."""
        for node in await self.client.nodes():
            await self.client.command(node, "PING")

    async def close(self) -> None:
        """See `StateBackend.close`."""
        await self.client.close()

    def name(self, key: str) -> str:
        """Under which a value is stored."""
        check_key(key)
        return f"{self._prefix}:state:{key}"

    async def _answer(self, name: str, call: Awaitable[T]) -> T:
        try:
            return await call
        except ResponseError as error:
            raise BadSettings(
                f"Redis key {name}: {error}; it is not this program's: use another prefix"
            ) from error


def _place(expected: Versioned | None) -> tuple[int, bytes]:
    return (0, b"") if expected is None else (expected.version, expected.marks)
