"""The one small protocol of every store.

A shard's state is a set of buckets (``campaigns``, ``open``, ``users``…), each a map from field to bytes, and a
*tip*: the place in the ledger whose fold the state is. All mutation is one call: compare the tip, swap it, write
the changed fields, atomically. The bucket name ``meta`` is the store's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Tip:
    """A place in a shard's ledger."""

    ledger: str
    """The ledger's id: the chain of its first valid block; empty before there is one."""
    height: int
    """Of the last block folded; 0 before the first."""
    chain: str
    """Of that block; empty before the first."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a store says of a shard."""

    tip: Tip
    spine: bytes
    """The runtime's own part (ledger offset after the tip, positions, numbers), opaque to the store."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at in a server's set-up."""

    level: Literal["ok", "warning", "error"]
    """``error``: do not run with this. ``warning``: it works, and may not on a bad day."""
    subject: str
    """What was looked at: ``version``, ``eviction``…"""
    message: str
    """What was found."""
    mend: str = ""
    """What to do about it; empty where all is well."""


class Store(Protocol):
    """One deployment's store. Every method raises `Unavailable` where the answer is not known; a mutation is
    then never repeated blindly: read the tip first.

    A shard of which a bucket was lost behind the store's back has nothing: a call that reads or writes that bucket
    finds it missing, answers so, and from then on every call does."""

    async def read_meta(self, shard: str, touch: Sequence[str] = ()) -> Meta | None:
        """The shard's tip and spine; None where there is nothing. ``touch``: buckets that are looked at as if they
        were read, so that their loss is found."""
        ...

    async def read_buckets(
        self, shard: str, buckets: Sequence[str]
    ) -> tuple[Meta | None, dict[str, dict[str, bytes]]]:
        """Whole buckets, and the tip that they all belong to."""
        ...

    async def read_fields(
        self, shard: str, bucket: str, fields: Sequence[str]
    ) -> tuple[Meta | None, list[bytes | None]]:
        """Some fields of one bucket, and the tip that they all belong to; one round trip."""
        ...

    async def swap(
        self,
        shard: str,
        expected: Tip,
        meta: Meta,
        changes: Mapping[str, Mapping[str, bytes | None]],
    ) -> Meta | None:
        """Where the tip is ``expected``: becomes ``meta`` with the changes; answers None. Elsewhere nothing
        changes and the present meta is the answer (tip `NOTHING` where there is none). Where there is nothing,
        the tip counts as `NOTHING`. At most `SWAP_LIMIT` fields; `ValueError` beyond it, and nothing is sent."""
        ...

    async def reset(self, shard: str, expected: Tip | None, meta: Meta) -> Meta | None:
        """Where the tip is ``expected`` (None: there is nothing): drops every bucket and becomes ``meta``;
        answers as `swap` does. An ``expected`` of `NOTHING` holds where there is nothing, too."""
        ...

    async def ping(self) -> None:
        """Raises `Unavailable` where the store cannot be used."""
        ...

    async def close(self) -> None:
        """Lets connections go."""
        ...


NOTHING: Final = Tip("", 0, "")
"""The tip of an empty ledger, and what an empty store answers."""

SWAP_LIMIT: Final = 250_000
"""Most fields that one swap changes: servers take about a million arguments in one command, and one that large
already keeps a server from its other work for a good part of a second. Larger changes go in several steps."""

_BUCKET = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def check_buckets(buckets: Iterable[str]) -> None:
    """Raises `ValueError` for a name that is no bucket's: lower-case letters, digits, ``_`` and ``-``, never
    ``meta``, which is the store's own."""
    for bucket in buckets:
        if bucket == "meta" or not _BUCKET.fullmatch(bucket):
            raise ValueError(f"bucket name {bucket!r}: use lower-case letters, digits, _ and -; not 'meta'")


def check_changes(changes: Mapping[str, Mapping[str, bytes | None]]) -> None:
    """Raises `ValueError` where a swap names a bucket that cannot be, or changes more than `SWAP_LIMIT` fields."""
    check_buckets(changes)
    size = sum(map(len, changes.values()))
    if size > SWAP_LIMIT:
        raise ValueError(f"one swap of {size} fields: change at most {SWAP_LIMIT}, in several steps")
