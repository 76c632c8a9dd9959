"""What only a server can do to the Redis store: lose answers, forget scripts, run full, move slots, fail over."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import pytest_asyncio
from store_kit import OUTAGE_S, Proxy, ask, meta, opened, tip, until_available

import servers
from adgovernor.contracts.errors import BadSettings, Unavailable
from adgovernor.stores.base import NOTHING, Meta, Store
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

pytestmark = pytest.mark.servers

State = tuple[Meta | None, dict[str, dict[str, bytes]]]
StartRedis = Callable[..., servers.LocalRedis]
"""Longest wait for servers to come back; a failover takes about three seconds."""


@pytest.fixture
def server(start_own_redis: StartRedis) -> servers.LocalRedis:
    """A Redis of the test's own."""
    return start_own_redis()


@pytest_asyncio.fixture
async def direct(server: servers.LocalRedis) -> AsyncIterator[RedisStore]:
    """The store on that server."""
    async with opened(RedisConfig.from_url(server.url)) as store:
        yield store


@pytest_asyncio.fixture(params=["single", "cluster"])
async def lossy(
    request: pytest.FixtureRequest, local_redis: None
) -> AsyncIterator[tuple[RedisStore, RedisStore, Proxy]]:
    """A store behind a proxy that can lose messages, one that is not, and the proxy."""
    cluster = request.param == "cluster"
    server = servers.start_redis_cluster(masters=1) if cluster else servers.start_redis()
    try:
        async with Proxy(server.ports[0]).running() as proxy:
            if cluster:
                servers.redis_command(
                    server.ports[0], "CONFIG", "SET", "cluster-announce-port", str(proxy.port)
                )
            away = RedisConfig(
                hosts=(("127.0.0.1", proxy.port),), topology=request.param, timeout_s=0.5, connections=2
            )
            async with opened(away) as store, opened(RedisConfig.from_url(server.url)) as behind:
                await store.reset("u1", None, meta(1))
                proxy.requests.clear()
                yield store, behind, proxy
    finally:
        server.stop()


async def test_a_lost_reply_is_unavailable_and_the_swap_happened_once(
    lossy: tuple[RedisStore, RedisStore, Proxy],
) -> None:
    """Where the reply of a swap is lost the caller is told that nobody knows, and the swap was sent once."""
    store, behind, proxy = lossy
    proxy.set("lose_reply")
    with pytest.raises(Unavailable):
        await store.swap("u1", tip(1), meta(2), {"users": {"a": b"1"}})
    assert proxy.requests.count(b"EVALSHA") == 1
    assert await behind.read_buckets("u1", ["users"]) == (meta(2), {"users": {"a": b"1"}})
    assert await store.read_meta("u1") == meta(2)


async def test_a_lost_request_is_unavailable_and_nothing_happened(
    lossy: tuple[RedisStore, RedisStore, Proxy],
) -> None:
    """Where the swap itself is lost the caller is told the same, it was sent once, and the state is as before."""
    store, behind, proxy = lossy
    proxy.set("lose_request")
    with pytest.raises(Unavailable):
        await store.swap("u1", tip(1), meta(2), {"users": {"a": b"1"}})
    assert proxy.requests.count(b"EVALSHA") == 1
    assert await behind.read_buckets("u1", ["users"]) == (meta(1), {"users": {}})
    assert await store.swap("u1", tip(1), meta(2), {}) is None


async def test_a_late_reply_is_nobody_elses(lossy: tuple[RedisStore, RedisStore, Proxy]) -> None:
    """A reply that comes after the deadline is not taken for the answer of the next call."""
    store, behind, proxy = lossy
    proxy.set("hold_reply")
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await store.swap("u1", tip(1), meta(2), {"users": {"a": b"1"}})
    assert time.monotonic() - began < 3
    proxy.set("pass")
    assert await store.read_fields("u1", "users", ["a"]) == (meta(2), [b"1"])
    assert await behind.read_meta("u1") == meta(2)


async def test_a_cancelled_call_leaves_no_reply_behind(lossy: tuple[RedisStore, RedisStore, Proxy]) -> None:
    """A call that is cancelled while it waits does not hand its reply to a later one."""
    store, _, proxy = lossy
    await asyncio.gather(*(store.read_meta("u1") for _ in range(2)))
    proxy.requests.clear()
    proxy.set("hold_reply")
    calls = [asyncio.create_task(store.read_fields("u1", "users", ["a"])) for _ in range(2)]
    await proxy.seen(b"EVALSHA", 2)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    proxy.set("pass")
    assert [await store.read_meta("u1") for _ in range(4)] == [meta(1)] * 4


async def test_calls_wait_for_a_connection_and_not_for_ever(
    lossy: tuple[RedisStore, RedisStore, Proxy],
) -> None:
    """No more connections are made than configured; calls take turns, and one that waits too long is told so."""
    store, _, proxy = lossy
    assert await asyncio.gather(*(store.read_meta("u1") for _ in range(50))) == [meta(1)] * 50
    proxy.set("hold_reply")
    calls = [asyncio.create_task(store.read_meta("u1")) for _ in range(9)]
    told = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in told)
    assert any("busy" in str(error) for error in told)


async def test_every_call_is_one_round_trip(lossy: tuple[RedisStore, RedisStore, Proxy]) -> None:
    """Swaps and reads of thousands of fields are one command each."""
    store, _, proxy = lossy
    names = [f"user-{n}" for n in range(4_500)]
    changes: dict[str, dict[str, bytes | None]] = {"users": dict.fromkeys(names, b"1"), "open": {"x": b"1"}}
    assert await store.read_fields("u1", "users", ["a"]) == (meta(1), [None])
    assert await store.read_buckets("u1", ["users"]) == (meta(1), {"users": {}})
    for call in (
        store.swap("u1", tip(1), meta(2), changes),
        store.read_fields("u1", "users", names),
        store.read_buckets("u1", ["users", "open"]),
        store.reset("u1", tip(2), meta(3)),
    ):
        proxy.requests.clear()
        await call
        assert len(re.findall(rb"(?:^|\r\n)\*\d+\r\n", bytes(proxy.requests))) == 1


async def test_a_script_that_the_server_forgot_is_sent_again(
    lossy: tuple[RedisStore, RedisStore, Proxy],
) -> None:
    """After the server has lost its scripts a swap succeeds in a second round trip, which carries the script."""
    store, behind, proxy = lossy
    (node,) = await behind.client.nodes()
    await behind.client.command(node, "SCRIPT", "FLUSH")
    proxy.requests.clear()
    assert await store.swap("u1", tip(1), meta(2), {"users": {"a": b"1"}}) is None
    assert (proxy.requests.count(b"$7\r\nEVALSHA"), proxy.requests.count(b"$4\r\nEVAL")) == (1, 1)
    assert await store.read_fields("u1", "users", ["a"]) == (meta(2), [b"1"])


async def test_a_lost_reply_of_the_second_round_trip(lossy: tuple[RedisStore, RedisStore, Proxy]) -> None:
    """Where the answer to the script itself is lost, it is not sent a third time."""
    store, behind, proxy = lossy
    (node,) = await behind.client.nodes()
    await behind.client.command(node, "SCRIPT", "FLUSH")
    proxy.requests.clear()
    proxy.set("lose_reply", when=b"$4\r\nEVAL")
    with pytest.raises(Unavailable):
        await store.swap("u1", tip(1), meta(2), {})
    assert proxy.requests.count(b"$4\r\nEVAL") == 1
    assert await behind.read_meta("u1") == meta(2)


async def test_a_server_that_is_gone_is_unavailable_and_comes_back(start_own_redis: StartRedis) -> None:
    """Every call says `Unavailable` while there is no server, and works again on the one that takes its place."""
    first = start_own_redis()
    config = RedisConfig.from_url(first.url)
    async with opened(config) as store:
        await store.reset("u1", None, meta(1))
        kill(first.processes[0])
        for call in calls_of(store):
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
                await call()
        first.processes[0].start()
        assert await until_available(store, "u1") is None
        assert await store.swap("u1", NOTHING, meta(1), {}) is None


def kill(server: servers.Supervised) -> None:
    """Ends a server as a power cut does."""
    server.send_signal(signal.SIGKILL)
    server.wait_dead()


def calls_of(store: Store) -> list[Callable[[], Awaitable[object]]]:
    """Every call of a store, ready to be made."""
    return [
        lambda: store.ping(),
        lambda: store.read_meta("u1"),
        lambda: store.read_buckets("u1", ["users"]),
        lambda: store.read_fields("u1", "users", ["a"]),
        lambda: store.swap("u1", tip(1), meta(2), {}),
        lambda: store.reset("u1", tip(1), meta(2)),
    ]


async def test_a_closed_store_says_so(direct: RedisStore) -> None:
    """After closing, every call raises `Unavailable` and opens nothing again."""
    await direct.close()
    for call in calls_of(direct):
        with pytest.raises(Unavailable, match="closed"):
            await call()


async def test_a_torn_write_is_never_believed(direct: RedisStore) -> None:
    """State that a failing server left half written reads as nothing, and is dropped by what comes next."""
    await direct.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}, "open": {"x": b"1"}})
    await ask(direct, "HSET", direct.key("u1", "meta"), "format", "torn")
    assert await direct.read_buckets("u1", ["users"]) == (None, {"users": {}})
    assert await direct.read_fields("u1", "users", ["a"]) == (None, [None])
    assert await direct.swap("u1", tip(1), meta(2), {"users": {"b": b"1"}}) == Meta(NOTHING, b"")
    assert await direct.reset("u1", tip(1), meta(2)) == Meta(NOTHING, b"")
    assert await direct.swap("u1", NOTHING, meta(1), {"users": {"c": b"1"}}) is None
    assert await direct.read_buckets("u1", ["users", "open"]) == (meta(1), {"users": {"c": b"1"}, "open": {}})


async def test_buckets_without_a_meta_are_never_believed(direct: RedisStore) -> None:
    """Where somebody deleted a shard's meta, what is left of it is not seen, neither before nor after new writes."""
    await direct.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}, "open": {"x": b"1"}})
    await ask(direct, "DEL", direct.key("u1", "meta"))
    assert await direct.read_buckets("u1", ["users"]) == (None, {"users": {}})
    assert await direct.reset("u1", None, meta(1)) is None
    assert await direct.read_fields("u1", "users", ["a"]) == (meta(1), [None])
    assert await direct.swap("u1", tip(1), meta(2), {"users": {"b": b"1"}}) is None
    assert await direct.read_buckets("u1", ["users", "open"]) == (meta(2), {"users": {"b": b"1"}, "open": {}})


async def test_state_of_the_layout_that_did_not_count_is_built_anew(direct: RedisStore) -> None:
    """A shard that an older release wrote reads as nothing, and its keys are dropped by the first write."""
    await ask(direct, "HSET", direct.key("u1", "meta"), *OLD_META)
    await ask(direct, "HSET", direct.key("u1", "users"), "a", "1")
    assert await direct.read_buckets("u1", ["users"]) == (None, {"users": {}})
    assert await direct.reset("u1", None, meta(1)) is None
    assert await direct.read_buckets("u1", ["users"]) == (meta(1), {"users": {}})


OLD_META = (
    "format",
    1,
    "ledger",
    "genesis",
    "height",
    1,
    "chain",
    "chain-1",
    "spine",
    "s",
    "bucket:users",
    1,
)


@pytest.mark.parametrize(
    "damage",
    [
        ("HSET", "{t:u1}:meta", "format", "3"),
        ("SET", "{t:u1}:meta", "x"),
        ("SET", "{t:u1}:users", "x"),
    ],
    ids=["layout", "meta", "bucket"],
)
async def test_keys_of_another_kind_are_left_alone(direct: RedisStore, damage: tuple[str, ...]) -> None:
    """Keys of another layout, or of no layout at all, make a swap fail with words that help, and nothing changes."""
    await direct.swap("u1", NOTHING, meta(1), {"open": {"x": b"1"}, "users": {"a": b"1"}})
    if damage[0] == "SET":
        await ask(direct, "DEL", damage[1])
    await ask(direct, *damage)
    before = [await ask(direct, "DUMP", direct.key("u1", name)) for name in ("meta", "users", "open")]
    expected = NOTHING if damage[1].endswith("meta") and damage[0] == "SET" else tip(1)
    with pytest.raises(BadSettings, match="another prefix"):
        await direct.swap("u1", expected, meta(2), {"open": {"x": b"2"}, "users": {"a": b"2"}})
    after = [await ask(direct, "DUMP", direct.key("u1", name)) for name in ("meta", "users", "open")]
    assert after == before


async def fill(store: RedisStore) -> int:
    """Writes until the server is full; the height reached."""
    for height in range(100):
        fields: dict[str, bytes | None] = {f"{height}-{n}": b"x" * 1000 for n in range(200)}
        try:
            await store.swap("u1", tip(height), meta(height + 1), {"users": fields})
        except Unavailable:
            return height
    raise AssertionError("8 MB hold more than 20 MB")


async def test_a_full_server_refuses_a_swap_whole(start_own_redis: StartRedis) -> None:
    """A server out of memory refuses a swap before its first write; reads and a reset, which frees, still work."""
    full = start_own_redis(["--maxmemory", "8mb"])
    async with opened(RedisConfig.from_url(full.url)) as store:
        await store.reset("u1", None, meta(0))
        height = await fill(store)
        assert height > 5
        found, buckets = await store.read_buckets("u1", ["users"])
        assert (found, len(buckets["users"])) == (meta(height), 200 * height)
        too_much: dict[str, bytes | None] = {f"more-{n}": b"x" * 1000 for n in range(1000)}
        with pytest.raises(Unavailable, match="maxmemory"):
            await store.swap("u1", tip(height), meta(height + 1), {"users": {"0-0": None}, "open": too_much})
        assert await store.read_buckets("u1", ["users", "open"]) == (found, buckets | {"open": {}})
        assert await store.reset("u1", tip(height), meta(height + 1)) is None
        deadline = time.monotonic() + OUTAGE_S
        while True:  # Memory is freed in the background.
            try:
                assert (
                    await store.swap("u1", tip(height + 1), meta(height + 2), {"users": {"a": b"1"}}) is None
                )
                break
            except Unavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert await store.read_buckets("u1", ["users"]) == (meta(height + 2), {"users": {"a": b"1"}})


@pytest.mark.slow
async def test_behind_sentinel_the_new_master_is_found(local_redis: None) -> None:
    """When the master dies, calls are `Unavailable` until there is another, which has the replicated state."""
    trio = servers.start_redis_sentinel()
    try:
        config = RedisConfig(hosts=trio.sentinels, topology="sentinel", master=trio.master_name)
        async with opened(replace(config, timeout_s=1.0)) as store:
            await store.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}})
            await ask(store, "WAIT", 1, 5000)
            kill(trio.master)
            with pytest.raises(Unavailable):
                await store.swap("u1", tip(1), meta(2), {})
            assert await until_available(store, "u1") == meta(1)
            assert await store.swap("u1", tip(1), meta(2), {"users": {"b": b"1"}}) is None
            assert await store.read_buckets("u1", ["users"]) == (meta(2), {"users": {"a": b"1", "b": b"1"}})
    finally:
        trio.stop()


async def test_a_slot_that_moves_is_followed(local_redis: None) -> None:
    """While a shard's slot moves to another node of a Cluster, swaps happen or are `Unavailable`, and none is lost."""
    cluster = servers.start_redis_cluster(masters=2)
    try:
        config = RedisConfig.from_url(cluster.url, topology="cluster")
        async with opened(config) as store, opened(config) as late:
            await store.swap("u1", NOTHING, meta(1), {"users": {"a": b"1"}, "open": {"x": b"1"}})
            assert await late.read_meta("u1") == meta(1)
            await assert_moves(store)
            # Another client still has the old map.
            assert await late.swap("u1", tip(4), meta(5), {"users": {"c": b"1"}}) is None
            redirected = await redirections(late)
            assert await late.read_meta("u1") == meta(5)
            assert await redirections(late) == redirected > 0
            assert await late.read_buckets("u1", ["users", "open"]) == (
                meta(5),
                {"users": {"a": b"1", "b": b"1", "c": b"1"}, "open": {"x": b"4"}},
            )
    finally:
        cluster.stop()


async def redirections(store: RedisStore) -> int:
    """How often the nodes have sent somebody elsewhere."""
    told = [await store.client.command(node, "INFO", "errorstats") for node in await store.client.nodes()]
    return sum(info.get("errorstat_MOVED", {}).get("count", 0) for info in told)


async def assert_moves(store: RedisStore) -> None:
    """Moves the slot key by key, with a swap after each step."""
    nodes = await store.client.nodes()
    slot = await store.client.command(nodes[0], "CLUSTER", "KEYSLOT", store.key("u1", "meta"))
    counts = [await store.client.command(node, "CLUSTER", "COUNTKEYSINSLOT", slot) for node in nodes]
    source, target = (nodes[0], nodes[1]) if counts[0] else (nodes[1], nodes[0])
    names = [(await store.client.command(node, "CLUSTER", "MYID")).decode() for node in (source, target)]
    await store.client.command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    await store.client.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    assert await store.swap("u1", tip(1), meta(2), {"users": {"b": b"1"}}) is None
    await migrate(store, source, target, "meta")
    # The keys are at two nodes now, so no node can run the script; a read of the meta alone is redirected.
    with pytest.raises(Unavailable):
        await store.swap("u1", tip(2), meta(3), {"users": {"never": b"1"}})
    assert await store.read_meta("u1") == meta(2)
    await migrate(store, source, target, "users")
    await migrate(store, source, target, "open")
    assert await store.swap("u1", tip(2), meta(3), {"users": {"a": b"1"}}) is None
    for node in (target, source):
        await store.client.command(node, "CLUSTER", "SETSLOT", slot, "NODE", names[1])
    assert await store.swap("u1", tip(3), meta(4), {"open": {"x": b"4"}}) is None


async def migrate(store: RedisStore, source: tuple[str, int], target: tuple[str, int], bucket: str) -> None:
    """Moves one key."""
    key = store.key("u1", bucket)
    assert await store.client.command(source, "MIGRATE", target[0], target[1], key, 0, 5000) == b"OK"


async def test_a_cluster_node_that_dies_is_unavailable_for_its_shards(local_redis: None) -> None:
    """Shards of a dead node are `Unavailable`, and served again when it is back under its address."""
    cluster = servers.start_redis_cluster(masters=2)
    try:
        async with opened(
            replace(RedisConfig.from_url(cluster.url, topology="cluster"), timeout_s=1.0)
        ) as store:
            for number in range(8):
                await store.swap(f"u{number}", NOTHING, meta(1), {"users": {"a": b"1"}})
            kill(cluster.processes[0])
            told = await asyncio.gather(
                *(store.read_meta(f"u{number}") for number in range(8)), return_exceptions=True
            )
            assert any(isinstance(answer, Unavailable) for answer in told)
            assert all(isinstance(answer, Unavailable) or answer == meta(1) for answer in told)
            cluster.processes[0].start()
            for number, answer in enumerate(told):
                back = await until_available(store, f"u{number}")
                assert back == (None if isinstance(answer, Unavailable) else meta(1))
    finally:
        cluster.stop()
