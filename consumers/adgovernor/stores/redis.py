"""The store in Redis: one server, one behind Sentinel, or a Cluster by hash tag. LAYOUT.md describes the keys.

Every call is one script on one shard's keys, so it is atomic, and it takes one round trip; only a bucket with many
fields is read in several, which prove that they saw one tip. Redis is never the authority: where it lost
something, the ledger brings it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from adgovernor.contracts.errors import BadSettings, Unavailable
from adgovernor.stores.base import NOTHING, Finding, Meta, Tip, check_buckets, check_changes
from adgovernor.stores.redis_check import examine
from adgovernor.stores.redis_client import Argument, RedisClient, RedisConfig, Script
from adgovernor.stores.redis_scripts import FORMAT, READ_BUCKETS, READ_FIELDS, READ_META, SCAN_BUCKET, SWAP

AT_ONCE: Final = 5_000
"""Most fields that a bulk read takes in one step, so that no reader keeps the server busy for long."""
SCAN_ATTEMPTS: Final = 3
"""How often a bulk read in steps begins again because a writer moved the tip under it."""
IN_ONE_STEP: Final = 500_000
"""Most fields that the last attempt reads in a single step, writers or not: about a second of the server's time."""

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{0,200}")


class RedisStore:
    """A `Store` in Redis. Not for several event loops."""

    def __init__(self, config: RedisConfig, prefix: str = "adgovernor") -> None:
        """``prefix`` begins every key, so that several deployments can share a Redis: letters, digits and
        ``._:-``; `BadSettings` otherwise."""
        if not _PREFIX.fullmatch(prefix):
            raise BadSettings(f"Redis prefix {prefix!r}: use letters, digits and . _ : - only")
        self._prefix = prefix
        self.client = RedisClient(config)

    def key(self, shard: str, bucket: str) -> str:
        """The key of a shard's bucket; its hash tag keeps all of a shard's keys on one node of a Cluster."""
        return f"{{{self._prefix}:{shard}}}:{bucket}"

    async def read_meta(self, shard: str, touch: Sequence[str] = ()) -> Meta | None:
        """See `Store.read_meta`."""
        check_buckets(touch)
        answer = await self._run(READ_META, shard, touch, touch)
        return _meta(answer[0])

    async def read_buckets(
        self, shard: str, buckets: Sequence[str]
    ) -> tuple[Meta | None, dict[str, dict[str, bytes]]]:
        """See `Store.read_buckets`. A bucket with more than `AT_ONCE` fields comes in steps; where a writer
        moves the tip meanwhile it begins again, at last in one step. Raises `Unavailable` where that one would
        hold the server for too long."""
        check_buckets(buckets)
        for _ in range(SCAN_ATTEMPTS):
            whole = await self._read_in_steps(shard, buckets)
            if whole is not None:
                return whole
        meta, found = await self._read_at_once(shard, buckets, IN_ONE_STEP)
        large = [bucket for bucket, values in found.items() if isinstance(values, int)]
        if large:
            raise Unavailable(
                f"Redis: a writer changes shard {shard} faster than {', '.join(large)} can be read; "
                f"beyond {IN_ONE_STEP} fields, read while the shard's worker is stopped"
            )
        return meta, {bucket: values for bucket, values in found.items() if not isinstance(values, int)}

    async def read_fields(
        self, shard: str, bucket: str, fields: Sequence[str]
    ) -> tuple[Meta | None, list[bytes | None]]:
        """See `Store.read_fields`."""
        check_buckets((bucket,))
        answer = await self._run(READ_FIELDS, shard, (bucket,), (bucket, *fields))
        if len(answer) == 1:
            return _meta(answer[0]), [None] * len(fields)
        return _meta(answer[0]), [value for part in answer[1:] for value in part]

    async def swap(
        self,
        shard: str,
        expected: Tip,
        meta: Meta,
        changes: Mapping[str, Mapping[str, bytes | None]],
    ) -> Meta | None:
        """See `Store.swap`."""
        check_changes(changes)
        return await self._swap("swap", shard, expected, meta, changes)

    async def reset(self, shard: str, expected: Tip | None, meta: Meta) -> Meta | None:
        """See `Store.reset`. Large buckets are freed in the background."""
        if expected is None:
            return await self._swap("create", shard, NOTHING, meta, {})
        return await self._swap("reset", shard, expected, meta, {})

    async def ping(self) -> None:
        """See `Store.ping`. Of a Cluster every node that takes writes must answer."""
        for node in await self.client.nodes():
            await self.client.command(node, "PING")

    async def check(self) -> list[Finding]:
        """What is right and wrong with the servers' set-up, each with how to mend it. Raises nothing that a
        server causes; writes and removes a few keys under the prefix to prove the rights."""
        return await examine(self)

    async def drop(self, shard: str) -> None:
        """Forgets a shard, whatever is there: for shards that were made to try something."""
        present = await self.read_meta(shard)
        await self.reset(shard, None if present is None else present.tip, Meta(NOTHING, b""))
        await self.client.command(self.key(shard, "meta"), "UNLINK", self.key(shard, "meta"))

    async def close(self) -> None:
        """See `Store.close`."""
        await self.client.close()

    async def _swap(
        self,
        how: str,
        shard: str,
        expected: Tip,
        meta: Meta,
        changes: Mapping[str, Mapping[str, bytes | None]],
    ) -> Meta | None:
        tip = meta.tip
        arguments: list[Argument] = [how, expected.ledger, expected.height, expected.chain]
        arguments += (tip.ledger, tip.height, tip.chain, meta.spine)
        touched = []
        for bucket, fields in changes.items():
            if not fields:
                continue
            touched.append(bucket)
            sets: list[Argument] = []
            deletes = []
            for name, value in fields.items():
                if value is None:
                    deletes.append(name)
                else:
                    sets.append(name)
                    sets.append(value)
            arguments += (bucket, len(sets) // 2, len(deletes))
            arguments += sets
            arguments += deletes
        answer = await self._run(SWAP, shard, touched, arguments)
        return None if answer == 1 else _meta(answer)

    async def _read_in_steps(
        self, shard: str, buckets: Sequence[str]
    ) -> tuple[Meta | None, dict[str, dict[str, bytes]]] | None:
        """The buckets, or None where a writer came between two steps."""
        meta, found = await self._read_at_once(shard, buckets, AT_ONCE)
        whole: dict[str, dict[str, bytes]] = {}
        for bucket, values in found.items():
            if not isinstance(values, int):
                whole[bucket] = values
                continue
            scanned = await self._scan(shard, bucket, values, meta)
            if scanned is None:
                return None
            whole[bucket] = scanned
        return meta, whole

    async def _read_at_once(
        self, shard: str, buckets: Sequence[str], limit: int
    ) -> tuple[Meta | None, dict[str, dict[str, bytes] | int]]:
        """The buckets in one step; of those that go beyond the limit, the number of fields."""
        answer = await self._run(READ_BUCKETS, shard, buckets, (limit, *buckets))
        return _meta(answer[0]), {
            bucket: values if isinstance(values, int) else _pairs(values)
            for bucket, values in zip(buckets, answer[1:], strict=True)
        }

    async def _scan(self, shard: str, bucket: str, size: int, meta: Meta | None) -> dict[str, bytes] | None:
        """A bucket of ``size`` fields in steps; None where the tip moved.

        A scan may give a field twice, and may miss one where the hash was replaced meanwhile. All steps having
        seen the same tip, they saw the same content; having as many fields as that has, they are all of it.
        """
        values: dict[str, bytes] = {}
        # A step gives about as many fields as it is asked for, but few from a hash that has shrunk.
        cursor: bytes | int = 0
        for _ in range(32 + 32 * size // AT_ONCE):
            now, cursor, part = await self._run(SCAN_BUCKET, shard, (bucket,), (bucket, cursor, AT_ONCE))
            if _meta(now) != meta:
                return None
            values.update(_pairs(part))
            if int(cursor) == 0:
                return values if len(values) == size else None
        return None

    async def _run(
        self, script: Script, shard: str, buckets: Sequence[str], arguments: Sequence[Argument]
    ) -> Any:
        keys = [self.key(shard, "meta"), *(self.key(shard, bucket) for bucket in buckets)]
        try:
            return await self.client.run(script, keys, arguments)
        except ResponseError as error:
            raise BadSettings(
                f"Redis key {keys[0]}: {error}; this program keeps layout {FORMAT}. Another version wrote it: "
                f"run that one, or delete the shard's keys (they are rebuilt from the ledger), or use another prefix"
            ) from error


def _meta(answer: list[bytes] | None) -> Meta | None:
    if answer is None:
        return None
    ledger, height, chain, spine = answer
    return Meta(Tip(ledger.decode(), int(height), chain.decode()), spine)


def _pairs(flat: list[bytes]) -> dict[str, bytes]:
    turns = iter(flat)
    return {name.decode(): value for name, value in zip(turns, turns, strict=True)}
