"""Whether a Redis is fit to hold state, and how to mend what is not.

What lives here: looking at servers, and trying every kind of call on a shard made for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from adgovernor.contracts.errors import Unavailable
from adgovernor.stores.base import Finding, Meta, Tip

if TYPE_CHECKING:
    from adgovernor.stores.redis import RedisStore

OLDEST: Final = (6, 2)
"""The first version whose commands suffice."""
_FULL: Final = 0.8
"""Share of its memory from which a server gets a warning."""


async def examine(store: RedisStore) -> list[Finding]:
    """All findings, the worst first. A server that cannot be reached is a finding as well."""
    client = store.client
    findings = []
    try:
        for node in await client.nodes():
            info = await client.command(node, "INFO")
            name = client.place() if client.config.topology == "sentinel" else f"{node[0]}:{node[1]}"
            findings += [
                _version(name, info),
                _role(name, info),
                _topology(name, info, client.config.topology == "cluster"),
                _eviction(name, info),
                _memory(name, info),
                _disk(name, info),
            ]
        findings.append(await _rights(store))
    except Unavailable as error:
        subject = "rights" if findings else "connection"
        findings.append(Finding("error", subject, str(error), _mend(str(error))))
    order = ("error", "warning", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _mend(message: str) -> str:
    """Redis says why in the first word of its answer, and only there."""
    hints = {
        "NOAUTH": "set the password of Redis",
        "WRONGPASS": "correct the user or the password of Redis",
        "AUTH": "correct the user or the password of Redis",
        "invalid username": "correct the user or the password of Redis",
        "no permissions": "give the user the rights that LAYOUT.md lists",
        "ACL failure": "give the user the rights that LAYOUT.md lists",
        "CERTIFICATE": "name the authority that signed the server's certificate, and use the host name in it",
        "SSL": "use rediss:// for servers with TLS, redis:// for those without",
        "No master found": "correct the master's name, or wait until the Sentinels have elected one",
        "cluster support disabled": "use redis:// in place of redis+cluster://",
        "MOVED": "use redis+cluster:// in place of redis://",
        "READONLY": "name the master, or use redis+sentinel://",
        "maxmemory": "give the server more memory",
        "LOADING": "wait until the server has read its data from disk",
    }
    return next(
        (hint for sign, hint in hints.items() if sign.lower() in message.lower()),
        "start the server, or correct host and port; use rediss:// where it has TLS and redis:// where it has none",
    )


def _version(name: str, info: Mapping[str, Any]) -> Finding:
    text = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding(
            "error", "version", f"{name} is Redis {text}", f"run Redis {oldest} or later, or Valkey"
        )
    return Finding("ok", "version", f"{name} is {info.get('server_name', 'redis')} {text}")


def _role(name: str, info: Mapping[str, Any]) -> Finding:
    role = info.get("role")
    if role != "master":
        return Finding(
            "error",
            "role",
            f"{name} is a {role}: it takes no writes",
            "name the master, or use redis+sentinel://",
        )
    return Finding("ok", "role", f"{name} is a master with {info.get('connected_slaves', 0)} replicas")


def _topology(name: str, info: Mapping[str, Any], as_cluster: bool) -> Finding:
    is_cluster = bool(info.get("cluster_enabled"))
    if is_cluster and not as_cluster:
        return Finding(
            "error", "cluster", f"{name} belongs to a Cluster", "use redis+cluster:// in place of redis://"
        )
    return Finding("ok", "cluster", f"{name}: Cluster is {'on' if is_cluster else 'off'}, as configured")


def _eviction(name: str, info: Mapping[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        return Finding(
            "error",
            "eviction",
            f"{name} may drop state silently: maxmemory-policy is {policy}",
            "CONFIG SET maxmemory-policy noeviction, and set it in the server's configuration",
        )
    return Finding("ok", "eviction", f"{name} drops nothing: maxmemory-policy is noeviction")


def _memory(name: str, info: Mapping[str, Any]) -> Finding:
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if not limit:
        return Finding(
            "warning",
            "memory",
            f"{name} has no maxmemory: when the machine runs out of memory, the server is killed",
            "CONFIG SET maxmemory to about two thirds of the machine's memory; writes are then refused in time",
        )
    if used > _FULL * limit:
        return Finding(
            "warning",
            "memory",
            f"{name} uses {used} of {limit} bytes",
            "give it more memory, add nodes to the Cluster, or shorten the caps' windows and history",
        )
    return Finding("ok", "memory", f"{name} uses {used} of {limit} bytes")


def _disk(name: str, info: Mapping[str, Any]) -> Finding:
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        return Finding(
            "error",
            "persistence",
            f"{name} fails to write to its disk and refuses writes",
            "look into the server's log, free its disk; or switch persistence off: the ledger rebuilds the state",
        )
    if info.get("aof_enabled"):
        return Finding("ok", "persistence", f"{name} keeps an append-only file")
    return Finding(
        "warning",
        "persistence",
        f"{name} keeps no append-only file: after a restart its state is rebuilt from the ledger",
        "CONFIG SET appendonly yes where a rebuild takes longer than you can wait; nothing is lost either way",
    )


async def _rights(store: RedisStore) -> Finding:
    """Every kind of call, once, on a shard that is nobody's."""
    shard = f"check-{secrets.token_hex(8)}"
    first, second = Tip("check", 1, "a"), Tip("check", 2, "b")
    await store.reset(shard, None, Meta(first, b""))
    await store.swap(shard, first, Meta(second, b""), {"probe": {"kept": b"1", "gone": b"1"}})
    await store.swap(shard, second, Meta(first, b""), {"probe": {"gone": None}})
    whole = await store.read_buckets(shard, ["probe"])
    some = await store.read_fields(shard, "probe", ["kept", "gone"])
    await store.drop(shard)
    meta, left = Meta(first, b""), await store.read_meta(shard)
    if whole != (meta, {"probe": {"kept": b"1"}}) or some != (meta, [b"1", None]) or left is not None:
        return Finding(
            "error",
            "rights",
            f"what was written is not what is read: {whole}, {some}, and {left} after it was removed",
            "take out whatever stands between this program and Redis",
        )
    return Finding("ok", "rights", "scripts run; state can be written, read and removed under the prefix")
