"""The store in this process's memory: for one process that needs no server, for tests and for simulations.

Same promises as every store's. No method awaits, so each is atomic among the tasks of one event loop; the store
is not for several threads and it forgets everything with the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adgovernor.stores.base import NOTHING, Meta, Tip, check_buckets, check_changes


@dataclass(slots=True)
class _Shard:
    meta: Meta
    buckets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """How many fields each bucket has, as of the last swap."""


class MemoryStore:
    """A `Store` of plain dictionaries."""

    def __init__(self) -> None:
        self._shards: dict[str, _Shard] = {}

    async def read_meta(self, shard: str, touch: Sequence[str] = ()) -> Meta | None:
        """See `Store.read_meta`."""
        check_buckets(touch)
        present = self._whole(shard, touch)
        return None if present is None else present.meta

    async def read_buckets(
        self, shard: str, buckets: Sequence[str]
    ) -> tuple[Meta | None, dict[str, dict[str, bytes]]]:
        """See `Store.read_buckets`. The answer is a copy: later swaps do not show in it."""
        check_buckets(buckets)
        present = self._whole(shard, buckets)
        if present is None:
            return None, {bucket: {} for bucket in buckets}
        return present.meta, {bucket: dict(present.buckets.get(bucket, ())) for bucket in buckets}

    async def read_fields(
        self, shard: str, bucket: str, fields: Sequence[str]
    ) -> tuple[Meta | None, list[bytes | None]]:
        """See `Store.read_fields`."""
        check_buckets((bucket,))
        present = self._whole(shard, (bucket,))
        if present is None:
            return None, [None] * len(fields)
        values = present.buckets.get(bucket, {})
        return present.meta, [values.get(name) for name in fields]

    async def swap(
        self,
        shard: str,
        expected: Tip,
        meta: Meta,
        changes: Mapping[str, Mapping[str, bytes | None]],
    ) -> Meta | None:
        """See `Store.swap`."""
        check_changes(changes)
        present = self._whole(shard, (bucket for bucket, fields in changes.items() if fields))
        if present is None:
            if expected != NOTHING:
                return Meta(NOTHING, b"")
            present = self._shards[shard] = _Shard(meta)
        elif present.meta.tip != expected:
            return present.meta
        present.meta = meta
        for bucket, fields in changes.items():
            values = present.buckets.setdefault(bucket, {})
            for name, value in fields.items():
                if value is None:
                    values.pop(name, None)
                else:
                    values[name] = value
            present.counts[bucket] = len(values)
        return None

    async def reset(self, shard: str, expected: Tip | None, meta: Meta) -> Meta | None:
        """See `Store.reset`."""
        present = self._shards.get(shard)
        if present is None:
            if expected is not None and expected != NOTHING:
                return Meta(NOTHING, b"")
        elif present.meta.tip != expected:
            return present.meta
        self._shards[shard] = _Shard(meta)
        return None

    async def ping(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """There are no connections to let go; the state stays as long as the store does."""

    def _whole(self, shard: str, buckets: Iterable[str]) -> _Shard | None:
        """The shard; None where there is nothing. Fields of these buckets being gone, it is dropped whole."""
        present = self._shards.get(shard)
        if present is not None and any(
            len(present.buckets.get(bucket, ())) != present.counts.get(bucket, 0) for bucket in buckets
        ):
            del self._shards[shard]
            return None
        return present
