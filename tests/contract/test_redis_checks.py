"""What the Redis store says of a server before it is used: settings, reachability, rights, and TLS."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import make_certificates, needs_openssl
from store_kit import ask, meta, opened, tip, until_available

import servers
from adgovernor.contracts.errors import Unavailable
from adgovernor.stores.base import NOTHING, Finding, Meta
from adgovernor.stores.redis_client import RedisConfig, RedisTls
from supervised import free_ports

pytestmark = pytest.mark.servers

State = tuple[Meta | None, dict[str, dict[str, bytes]]]
StartRedis = Callable[..., servers.LocalRedis]


def found(findings: Sequence[Finding], subject: str) -> set[str]:
    """The levels of the findings on a subject."""
    return {finding.level for finding in findings if finding.subject == subject}


async def test_a_sound_server_has_no_complaint(start_own_redis: StartRedis) -> None:
    """A server with a memory limit, an append-only file and no eviction is in order, and nothing is left on it."""
    sound = start_own_redis(["--maxmemory", "1gb", "--appendonly", "yes"])
    async with opened(RedisConfig.from_url(sound.url)) as store:
        findings = await store.check()
        assert {finding.level for finding in findings} == {"ok"}
        assert {finding.subject for finding in findings} >= {
            "version",
            "eviction",
            "memory",
            "persistence",
            "rights",
        }
        assert await ask(store, "DBSIZE") == 0


async def test_each_fault_is_found_and_says_how_to_mend_it(start_own_redis: StartRedis) -> None:
    """Eviction, missing limits and persistence are found on a running server, each with what to do."""
    server = start_own_redis(["--maxmemory-policy", "allkeys-lru"])
    async with opened(RedisConfig.from_url(server.url)) as store:
        findings = await store.check()
    assert found(findings, "eviction") == {"error"}
    assert found(findings, "memory") == {"warning"}
    assert found(findings, "persistence") == {"warning"}
    assert all(finding.mend for finding in findings if finding.level != "ok")
    levels = [finding.level for finding in findings]
    assert levels == sorted(levels, key=("error", "warning", "ok").index)


async def test_what_cannot_be_reached_is_a_finding(start_own_redis: StartRedis) -> None:
    """No server, a wrong password and a wrong topology are each one finding that says what to change."""
    server = start_own_redis()
    port = server.ports[0]
    servers.redis_command(port, "CONFIG", "SET", "requirepass", "right")
    for url, hint in [
        (f"redis://:wrong@127.0.0.1:{port}", "password"),
        (f"redis://127.0.0.1:{port}", "password"),
        (f"redis+cluster://:right@127.0.0.1:{port}", "redis://"),
        (f"rediss://:right@127.0.0.1:{port}", "TLS"),
        (f"redis+sentinel://127.0.0.1:{port}/nobody", "password"),
    ]:
        async with opened(RedisConfig.from_url(url)) as store:
            (finding,) = await store.check()
            assert (finding.level, finding.subject) == ("error", "connection")
            assert hint in finding.mend
            assert "right" not in finding.message
    server.stop()
    async with opened(RedisConfig.from_url(f"redis://:right@127.0.0.1:{port}")) as store:
        (finding,) = await store.check()
        assert "start the server" in finding.mend


async def test_a_replica_and_a_cluster_taken_for_one_server_are_found(local_redis: None) -> None:
    """A server that takes no writes, or only those of its slots, is found before it is used."""
    cluster = servers.start_redis_cluster(masters=2)
    trio = servers.start_redis_sentinel()
    try:
        async with opened(RedisConfig.from_url(cluster.url)) as store:
            assert found(await store.check(), "cluster") == {"error"}
        replicas = servers.redis_command(trio.sentinels[0][1], "SENTINEL", "REPLICAS", trio.master_name)
        port = re.search(r"127\.0\.0\.1:(\d+)", replicas)
        assert port is not None
        async with opened(RedisConfig.from_url(f"redis://127.0.0.1:{port.group(1)}")) as store:
            findings = await store.check()
            assert found(findings, "role") == found(findings, "rights") == {"error"}
    finally:
        cluster.stop()
        trio.stop()


@needs_openssl
async def test_sentinels_and_their_master_ask_for_tls_and_passwords(
    local_redis: None, tmp_path: Path
) -> None:
    """Everything towards Sentinels and master is encrypted, with a user and a password of its own for each of both; a
    wrong one at either is told, and after a failover the new master is found all the same."""
    make_certificates(tmp_path)
    trio = servers.start_redis_sentinel(tls=tmp_path)
    try:
        for port in trio.ports:
            grant(port, "allkeys", "allcommands")
        for process, _ in zip(trio.processes[2:], trio.sentinels, strict=True):
            (plain,) = re.findall(r"^port (\d+)", (process.directory / "sentinel.conf").read_text(), re.M)
            told = servers.redis_command(
                int(plain), "ACL", "SETUSER", "watcher", "on", ">other", "allcommands"
            )
            assert "OK" in told
        config = RedisConfig(
            hosts=trio.sentinels,
            topology="sentinel",
            master=trio.master_name,
            username="worker",
            password="secret",
            sentinel_username="watcher",
            sentinel_password="other",
            tls=RedisTls(ca_file=str(tmp_path / "ca.pem")),
        )
        wrong_ones = (
            replace(config, password="x"),
            replace(config, sentinel_password="x"),
            replace(config, tls=None),
        )
        for wrong in wrong_ones:
            async with opened(wrong) as store:
                (finding,) = await store.check()
                assert (finding.level, finding.subject) == ("error", "connection")
        async with opened(config) as store:
            assert "error" not in {finding.level for finding in await store.check()}
            assert await store.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}}) is None
            assert await ask(store, "WAIT", 1, 5000) == 1
            trio.master.send_signal(signal.SIGKILL)
            assert await until_available(store, "u1") == meta(1)
    finally:
        trio.stop()


@needs_openssl
async def test_a_cluster_asks_for_tls_and_passwords(local_redis: None, tmp_path: Path) -> None:
    """Every node of a Cluster that serves a shard is reached with TLS, as the user that was named."""
    make_certificates(tmp_path)
    cluster = servers.start_redis_cluster(masters=3, tls=tmp_path)
    try:
        for port in cluster.ports:
            grant(port, "allkeys", "allcommands")
            assert "OK" in servers.redis_command(port, "ACL", "SETUSER", "default", "-@all", "+cluster|info")
        url = cluster.url.replace("rediss://", "rediss+cluster://worker:secret@").removesuffix("/0")
        tls = RedisTls(ca_file=str(tmp_path / "ca.pem"))
        async with opened(RedisConfig.from_url(url, tls=tls)) as store:
            assert "error" not in {finding.level for finding in await store.check()}
            for shard in ("u0", "u1", "u2", "u3", "t0", "t1"):
                assert await store.swap(shard, NOTHING, meta(1), {"users": {"a": b"1"}}) is None
                assert await store.read_buckets(shard, ["users"]) == (meta(1), {"users": {"a": b"1"}})
        async with opened(RedisConfig.from_url(url.replace("secret", "x"), tls=tls)) as store:
            (finding,) = await store.check()
            assert "password" in finding.mend
    finally:
        cluster.stop()


RIGHTS = "+hmget +hset +hdel +hlen +hgetall +hscan +hkeys +unlink +eval +evalsha +ping +info +client|setname"
"""What LAYOUT.md tells people to grant; at a Cluster `+cluster|slots` is added."""


def grant(port: int, *rights: str) -> None:
    """Makes the user whose rights a test looks at."""
    assert "OK" in servers.redis_command(port, "ACL", "SETUSER", "worker", "on", ">secret", *rights)


async def test_the_documented_rights_suffice(start_own_redis: StartRedis) -> None:
    """A user with no more than the documented rights, on the prefix alone, has nothing to complain of."""
    own = start_own_redis()
    servers.redis_command(
        own.ports[0], "ACL", "SETUSER", "worker", "on", ">secret", "~{mine:*", *RIGHTS.split()
    )
    config = RedisConfig.from_url(f"redis://worker:secret@127.0.0.1:{own.ports[0]}")
    async with opened(config, "mine") as store:
        assert "error" not in {finding.level for finding in await store.check()}
        assert await store.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}}) is None
        assert await store.read_buckets("u1", ["users"]) == (meta(1), {"users": {"a": b"1"}})
    async with opened(config, "others") as store:
        (finding,) = [finding for finding in await store.check() if finding.level == "error"]
        assert finding.subject == "rights"
        assert "LAYOUT.md" in finding.mend


@pytest.mark.parametrize("right", RIGHTS.split())
async def test_without_any_one_right_a_write_is_whole_or_is_not_believed(
    start_own_redis: StartRedis, right: str
) -> None:
    """A right that is missing is found by the check, and what a write left undone is never taken for state."""
    own = start_own_redis()
    rights = [other for other in RIGHTS.split() if other != right]
    grant(own.ports[0], "~{t:*", *rights)
    config = RedisConfig.from_url(f"redis://worker:secret@127.0.0.1:{own.ports[0]}")
    async with opened(config) as store, opened(RedisConfig.from_url(own.url)) as owner:
        assert ("error" in {finding.level for finding in await store.check()}) == (right not in MINOR_RIGHTS)
        await owner.swap("u1", NOTHING, meta(1), {"users": {"a": b"1", "b": b"1"}})
        changes: dict[str, dict[str, bytes | None]] = {"users": {"a": b"2", "b": None}, "open": {"x": b"1"}}
        told: object = "unavailable"
        with contextlib.suppress(Unavailable):
            told = await store.swap("u1", tip(1), meta(2), changes)
        new: State = (meta(2), {"users": {"a": b"2"}, "open": {"x": b"1"}})
        old: State = (meta(1), {"users": {"a": b"1", "b": b"1"}, "open": {}})
        nothing: State = (None, {"users": {}, "open": {}})
        state = await owner.read_buckets("u1", ["users", "open"])
        assert state == new if told is None else state in (old, nothing)


MINOR_RIGHTS = {"+ping", "+hscan"}
"""Those that a shard can live without: they are for `ping` and for reading large buckets."""


@needs_openssl
async def test_tls_is_checked_on_both_sides(start_own_redis: StartRedis, tmp_path: Path) -> None:
    """With TLS, a server whose authority is not trusted is refused, and so is a client without a certificate."""
    make_certificates(tmp_path)
    (secure,) = free_ports(1)
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    settings = [word for kind, name in files.items() for word in (f"--tls-{kind}-file", str(tmp_path / name))]
    start_own_redis(["--tls-port", str(secure), *settings])
    url = f"rediss://127.0.0.1:{secure}"
    trusted = RedisTls(
        ca_file=str(tmp_path / "ca.pem"),
        cert_file=str(tmp_path / "server.pem"),
        key_file=str(tmp_path / "server.key"),
    )
    async with opened(RedisConfig.from_url(url, tls=trusted)) as store:
        assert await store.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}}) is None
        assert await store.read_fields("u1", "users", ["a"]) == (meta(1), [b"1"])
    for tls in (RedisTls(), replace(trusted, cert_file=None, key_file=None)):
        async with opened(RedisConfig.from_url(url, tls=tls)) as store:
            with pytest.raises(Unavailable):
                await store.ping()
