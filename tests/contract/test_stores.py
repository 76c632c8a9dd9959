"""One suite for every store: what `Store` promises, on memory, one Redis, a Redis Cluster and one behind Sentinel."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
import store_kit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from racers import race_of_processes
from store_kit import RACE_ROUNDS, forget, meta, race, tip

from adgovernor.stores.base import NOTHING, SWAP_LIMIT, Meta, Store, Tip
from adgovernor.stores.memory import MemoryStore
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

STORES = [
    "memory",
    *(pytest.param(kind, marks=pytest.mark.servers) for kind in ("redis", "cluster", "sentinel")),
]
Changes = Mapping[str, Mapping[str, bytes | None]]


def redis_config(kind: str, request: pytest.FixtureRequest) -> RedisConfig:
    """Where the servers of that kind are."""
    if kind == "redis":
        return RedisConfig.from_url(request.getfixturevalue("redis_url"))
    if kind == "cluster":
        return RedisConfig.from_url(request.getfixturevalue("redis_cluster_url"), topology="cluster")
    trio = request.getfixturevalue("redis_sentinel")
    return RedisConfig(hosts=trio.sentinels, topology="sentinel", master=trio.master_name)


@pytest_asyncio.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryStore()
        return
    redis = RedisStore(redis_config(request.param, request), f"t{uuid.uuid4().hex[:12]}")
    yield redis
    await forget(redis)
    await redis.close()


async def contents(store: Store, *buckets: str) -> tuple[Meta | None, dict[str, dict[str, bytes]]]:
    """What the shard of these tests holds in the buckets."""
    return await store.read_buckets("u1", buckets)


async def begin(store: Store, changes: Changes | None = None) -> None:
    """Brings the shard of these tests to height 1."""
    assert await store.swap("u1", NOTHING, meta(1), changes or {}) is None


async def test_an_empty_store_says_so(store: Store) -> None:
    """Where nothing was written there is no meta, and every bucket and field is empty."""
    await store.ping()
    assert await store.read_meta("u1") is None
    assert await contents(store, "users", "open") == (None, {"users": {}, "open": {}})
    assert await store.read_fields("u1", "users", ["a", "b"]) == (None, [None, None])
    assert await store.read_fields("u1", "users", []) == (None, [])


async def test_a_swap_changes_exactly_what_it_says(store: Store) -> None:
    """Fields are set, overwritten and deleted as the swap says, all others stay, and the meta is the new one."""
    await begin(store, {"users": {"a": b"1", "b": b"2", "c": b"3"}, "open": {"x": b"9"}})
    changes: Changes = {"users": {"a": b"one", "b": None, "d": b"4", "never": None}, "campaigns": {"k": b""}}
    assert await store.swap("u1", tip(1), meta(2, b"new"), changes) is None
    assert await contents(store, "users", "open", "campaigns", "none") == (
        meta(2, b"new"),
        {
            "users": {"a": b"one", "c": b"3", "d": b"4"},
            "open": {"x": b"9"},
            "campaigns": {"k": b""},
            "none": {},
        },
    )
    assert await store.read_fields("u1", "users", ["d", "b", "a", "d"]) == (
        meta(2, b"new"),
        [b"4", None, b"one", b"4"],
    )
    assert await store.read_meta("u1") == meta(2, b"new")


@pytest.mark.parametrize(
    "expected",
    [NOTHING, tip(2), tip(1, "other"), Tip("genesis", 1, "other"), Tip("genesis", 0, "chain-1"), tip(10**15)],
    ids=["nothing", "height", "ledger", "chain", "height-only", "large"],
)
async def test_a_refused_swap_changes_nothing(store: Store, expected: Tip) -> None:
    """A swap from another tip, whichever of its three parts differs, answers the present meta and writes nothing."""
    await begin(store, {"users": {"a": b"1"}})
    changes: Changes = {"users": {"a": None, "b": b"2"}, "open": {"x": b"1"}}
    assert await store.swap("u1", expected, meta(3, b"never"), changes) == meta(1)
    assert await contents(store, "users", "open") == (meta(1), {"users": {"a": b"1"}, "open": {}})


async def test_a_swap_on_nothing_expects_nothing(store: Store) -> None:
    """Where there is nothing, a swap that expects a tip is refused with the tip of nothing, and writes nothing."""
    assert await store.swap("u1", tip(1), meta(2), {"users": {"a": b"1"}}) == Meta(NOTHING, b"")
    assert await contents(store, "users") == (None, {"users": {}})


async def test_a_tip_of_nothing_can_be_stored(store: Store) -> None:
    """A meta whose tip is that of an empty ledger is there all the same, with its spine."""
    token = Meta(NOTHING, b"token")
    assert await store.swap("u1", NOTHING, token, {"users": {"a": b"1"}}) is None
    assert await contents(store, "users") == (token, {"users": {"a": b"1"}})
    assert await store.reset("u1", None, meta(1)) == token
    assert await store.swap("u1", NOTHING, meta(1), {}) is None
    assert await contents(store, "users") == (meta(1), {"users": {"a": b"1"}})


async def test_numbers_are_exact(store: Store) -> None:
    """Heights of any size are compared and given back digit by digit."""
    height = 9_007_199_254_740_993
    assert await store.swap("u1", NOTHING, meta(height), {}) is None
    assert await store.swap("u1", tip(height - 1), meta(2), {}) == meta(height)
    assert await store.swap("u1", tip(height), meta(10**15), {}) is None
    assert await store.read_meta("u1") == meta(10**15)


async def test_a_swap_may_keep_the_tip(store: Store) -> None:
    """A swap to the tip that is there changes fields and spine: what a rebuild in several steps does."""
    await begin(store)
    assert await store.swap("u1", tip(1), meta(1, b"step 2"), {"users": {"a": b"1"}}) is None
    assert await contents(store, "users") == (meta(1, b"step 2"), {"users": {"a": b"1"}})


async def test_shards_are_apart(store: Store) -> None:
    """What happens to one shard is not seen in another, whatever its number."""
    for number in range(20):
        fields: Changes = {"users": {f"of-{number}": b"1"}}
        assert await store.swap(f"u{number}", NOTHING, meta(number + 1), fields) is None
    assert await store.reset("u3", tip(4), meta(99)) is None
    for number in range(20):
        left = {} if number == 3 else {f"of-{number}": b"1"}
        height = 99 if number == 3 else number + 1
        assert await store.read_buckets(f"u{number}", ["users"]) == (meta(height), {"users": left})


async def test_a_reset_drops_every_bucket(store: Store) -> None:
    """A reset empties buckets that it does not know the names of, and the shard goes on from its meta."""
    await begin(store, {"users": {"a": b"1"}})
    assert await store.swap("u1", tip(1), meta(2), {"open": {"x": b"1"}, "other": {"y": b"1"}}) is None
    assert await store.reset("u1", tip(2), meta(7, b"token")) is None
    empty: dict[str, dict[str, bytes]] = {"users": {}, "open": {}, "other": {}}
    assert await contents(store, "users", "open", "other") == (meta(7, b"token"), empty)
    assert await store.swap("u1", tip(7), meta(8), {"open": {"z": b"1"}}) is None
    assert await contents(store, "users", "open", "other") == (meta(8), empty | {"open": {"z": b"1"}})


async def test_a_refused_reset_changes_nothing(store: Store) -> None:
    """A reset from another tip, or one that expects nothing where there is something, answers the present meta."""
    await begin(store, {"users": {"a": b"1"}})
    for expected in (None, NOTHING, tip(2), tip(1, "other")):
        assert await store.reset("u1", expected, meta(9)) == meta(1)
    assert await contents(store, "users") == (meta(1), {"users": {"a": b"1"}})


async def test_a_reset_of_nothing(store: Store) -> None:
    """Where there is nothing, a reset that expects a tip is refused and one that expects nothing makes the meta."""
    assert await store.reset("u1", tip(1), meta(9)) == Meta(NOTHING, b"")
    assert await store.reset("u1", None, meta(9)) is None
    assert await store.read_meta("u1") == meta(9)
    assert await store.reset("u2", NOTHING, meta(3)) is None
    assert await store.read_meta("u2") == meta(3)


async def lose(store: Store, bucket: str, field: str | None = None) -> None:
    """Somebody deletes a bucket, or one field of it, behind the store's back."""
    if isinstance(store, RedisStore):
        key = store.key("u1", bucket)
        command = ("UNLINK", key) if field is None else ("HDEL", key, field)
        assert await store.client.command(key, *command) == 1
        return
    assert isinstance(store, MemoryStore)
    if field is None:
        del store._shards["u1"].buckets[bucket]
    else:
        del store._shards["u1"].buckets[bucket][field]


@pytest.mark.parametrize("field", [None, "a"], ids=["bucket", "field"])
@pytest.mark.parametrize("call", ["meta", "buckets", "fields", "swap"])
async def test_a_bucket_lost_alone_is_noticed_where_it_is_touched(
    store: Store, call: str, field: str | None
) -> None:
    """Where one bucket is gone and the meta stayed, whatever touches it finds nothing, and then so does everything."""
    await begin(store, {"users": {"a": b"1", "b": b"2"}, "open": {"x": b"3"}})
    await lose(store, "users", field)
    assert await contents(store, "open") == (meta(1), {"open": {"x": b"3"}})
    assert await store.read_meta("u1") == await store.read_meta("u1", ["open", "none"]) == meta(1)
    if call == "meta":
        assert await store.read_meta("u1", ["open", "users"]) is None
    elif call == "buckets":
        assert await contents(store, "open", "users") == (None, {"open": {}, "users": {}})
    elif call == "fields":
        assert await store.read_fields("u1", "users", ["b"]) == (None, [None])
    else:
        changes: Changes = {"users": {"c": b"4"}, "open": {"y": b"5"}}
        assert await store.swap("u1", tip(1), meta(2), changes) == Meta(NOTHING, b"")
    assert await store.read_meta("u1") is None
    assert await contents(store, "open") == (None, {"open": {}})
    assert await store.reset("u1", None, meta(0)) is None
    assert await contents(store, "users", "open") == (meta(0), {"users": {}, "open": {}})


async def test_counts_follow_swaps_that_set_and_delete(store: Store) -> None:
    """A bucket that grew, shrank and became empty by swaps is believed at every step."""
    steps: list[Changes] = [
        {"users": {"a": b"1", "b": b"1"}},
        {"users": {"a": b"2", "c": b"1", "never": None}},
        {"users": {"a": None, "b": None, "c": None}},
        {"users": {"d": b"1"}},
    ]
    await begin(store)
    for height, changes in enumerate(steps, 1):
        assert await store.swap("u1", tip(height), meta(height + 1), changes) is None
        assert (await contents(store, "users"))[0] == meta(height + 1)
    assert await contents(store, "users") == (meta(5), {"users": {"d": b"1"}})


async def test_every_byte_survives(store: Store) -> None:
    """Values may hold any byte and be empty; names of fields may hold any character; so may chain and spine."""
    every = bytes(range(256))
    names = ["", " ", "\r\n", "é", "😀", "{tag}", "a:b", "\x00", "$3", "*"]
    odd = Meta(Tip("lé\r\n", 1, "\x00c😀"), every + b"\r\n$-1\r\n")
    assert (
        await store.swap("u1", NOTHING, odd, {"users": dict.fromkeys(names, every) | {"empty": b""}}) is None
    )
    assert await contents(store, "users") == (odd, {"users": dict.fromkeys(names, every) | {"empty": b""}})
    assert await store.read_fields("u1", "users", [*names, "empty"]) == (odd, [every] * len(names) + [b""])
    assert await store.swap("u1", odd.tip, meta(2), {"users": dict.fromkeys(names, None)}) is None
    assert await contents(store, "users") == (meta(2), {"users": {"empty": b""}})


async def test_big_values(store: Store) -> None:
    """Values and a spine of several megabytes go in and come out whole."""
    value, spine = bytes(range(256)) * 16_000, b"s" * 2_000_000
    assert await store.swap("u1", NOTHING, meta(1, spine), {"users": {"big": value, "small": b"1"}}) is None
    assert await contents(store, "users") == (meta(1, spine), {"users": {"big": value, "small": b"1"}})
    assert await store.read_fields("u1", "users", ["big"]) == (meta(1, spine), [value])


async def test_a_bucket_of_100000_fields(store: Store) -> None:
    """A hundred thousand fields are set in one swap, read whole and in part, and deleted in one swap."""
    fields = {f"user-{n}": b"%d" % n for n in range(100_000)}
    await begin(store, {"users": fields, "open": {"x": b"1"}})
    assert await contents(store, "users", "open") == (meta(1), {"users": fields, "open": {"x": b"1"}})
    names = [f"user-{n}" for n in range(0, 120_000, 3)]
    assert await store.read_fields("u1", "users", names) == (meta(1), [fields.get(name) for name in names])
    gone: Changes = {"users": dict.fromkeys(list(fields)[1:], None) | {"new": b"1"}}
    assert await store.swap("u1", tip(1), meta(2), gone) is None
    assert await contents(store, "users") == (meta(2), {"users": {"user-0": b"0", "new": b"1"}})


async def test_an_answer_is_the_callers_own(store: Store) -> None:
    """What a read gave does not change with later swaps, and changing it changes nothing in the store."""
    await begin(store, {"users": {"a": b"1"}})
    _, before = await contents(store, "users")
    assert await store.swap("u1", tip(1), meta(2), {"users": {"a": b"2"}}) is None
    assert before == {"users": {"a": b"1"}}
    before["users"]["b"] = b"3"
    assert await contents(store, "users") == (meta(2), {"users": {"a": b"2"}})


@pytest.mark.parametrize("name", ["meta", "", "Users", "a b", "a}", "x" * 65])
async def test_a_name_that_is_no_buckets_is_refused(store: Store, name: str) -> None:
    """A bucket's name that would not fit every store is refused by all calls, before anything is sent."""
    with pytest.raises(ValueError, match="bucket name"):
        await store.swap("u1", NOTHING, meta(1), {name: {"a": b"1"}})
    with pytest.raises(ValueError, match="bucket name"):
        await store.read_buckets("u1", [name])
    with pytest.raises(ValueError, match="bucket name"):
        await store.read_fields("u1", name, ["a"])
    assert await store.read_meta("u1") is None


async def test_a_swap_too_large_is_refused(store: Store) -> None:
    """One field more than the limit is refused before anything is sent."""
    fields = dict.fromkeys(map(str, range(SWAP_LIMIT)), b"")
    with pytest.raises(ValueError, match="at most 250000"):
        await store.swap("u1", NOTHING, meta(1), {"users": fields, "open": {"x": b""}})
    assert await store.read_meta("u1") is None


async def test_of_concurrent_swaps_exactly_one_wins(store: Store) -> None:
    """At every height one of many racing tasks wins; the meta's spine and the winners' fields agree on which."""
    await store.reset("u1", None, meta(0))
    won = await asyncio.gather(*(race(store, "u1", f"task{n}") for n in range(8)))
    assert sum(won) == RACE_ROUNDS
    await assert_one_winner_a_height(store)


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["redis", "cluster", "sentinel"])
async def test_of_four_processes_exactly_one_wins(kind: str, request: pytest.FixtureRequest) -> None:
    """Four processes of eight tasks race through every height; each height has exactly one winner."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    config = redis_config(kind, request)
    store = RedisStore(config, prefix)
    await store.reset("u1", None, meta(0))
    hosts = ",".join(f"{host}:{port}" for host, port in config.hosts)
    url = f"{'redis' if kind == 'redis' else f'redis+{kind}'}://{hosts}/{config.master}"
    results = await race_of_processes(store_kit.__file__, url, prefix, "8")
    assert sum(results) == RACE_ROUNDS
    await assert_one_winner_a_height(store)
    await forget(store)
    await store.close()


async def assert_one_winner_a_height(store: Store) -> None:
    """The race ended at its last height, and each height has one winner."""
    last, found = await contents(store, "winners")
    winners = dict(field.split(":") for field in found["winners"])
    assert len(found["winners"]) == len(winners) == RACE_ROUNDS
    assert last == meta(RACE_ROUNDS, winners[str(RACE_ROUNDS)].encode())


async def test_reads_belong_to_one_tip_while_a_writer_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value that a read gives, whole buckets in steps or some fields, is of the tip that it gives."""
    monkeypatch.setattr("adgovernor.stores.redis.AT_ONCE", 60)
    names = [f"user-{n}" for n in range(300)]
    stop = asyncio.Event()

    def at(height: int) -> dict[str, dict[str, bytes | None]]:
        value = b"%d" % height
        # Heights come and go with fields of their own, so that a torn read would also have one too many.
        own = {f"only-{height}": value, f"only-{height - 1}": None}
        return {"users": {**dict.fromkeys(names, value), **own}, "open": {"x": value}}

    async def write() -> int:
        height = 0
        now = NOTHING
        while not stop.is_set():
            height += 1
            assert await store.swap("u1", now, meta(height), at(height)) is None
            now = tip(height)
            await asyncio.sleep(0)
        return height

    async def read() -> set[int]:
        seen = set()
        for _ in range(40):
            found, buckets = await contents(store, "users", "open")
            if found is not None:
                height = found.tip.height
                whole = {b: {n: v for n, v in f.items() if v is not None} for b, f in at(height).items()}
                assert buckets == whole
                seen.add(height)
            found, values = await store.read_fields("u1", "users", names[::7])
            assert set(values) == {None if found is None else b"%d" % found.tip.height}
            await asyncio.sleep(0)
        return seen

    writing = asyncio.create_task(write())
    seen = await asyncio.gather(*(read() for _ in range(3)))
    stop.set()
    assert await writing >= max(map(max, seen))
    assert len(set.union(*seen)) > 1


BUCKETS = ("users", "open")
NAMES = st.sampled_from(["a", "b", "c", "d"])
CHANGES = st.dictionaries(
    st.sampled_from(BUCKETS),
    st.dictionaries(NAMES, st.none() | st.binary(max_size=3), max_size=4),
    max_size=2,
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["swap", "reset", "create"]), st.integers(0, 2), st.integers(0, 2), CHANGES),
    max_size=25,
)


class Model:
    """What a store must answer, in the fewest words."""

    def __init__(self) -> None:
        self.meta: Meta | None = None
        self.fields: dict[str, dict[str, bytes]] = {bucket: {} for bucket in BUCKETS}

    def step(self, how: str, expected: Tip, new: Meta, changes: Changes) -> Meta | None:
        here = NOTHING if self.meta is None else self.meta.tip
        if here != expected or (how == "create" and self.meta is not None):
            return self.meta or Meta(NOTHING, b"")
        self.meta = new
        if how != "swap":
            self.fields = {bucket: {} for bucket in BUCKETS}
            return None
        for bucket, fields in changes.items():
            merged = {**self.fields[bucket], **fields}
            self.fields[bucket] = {name: value for name, value in merged.items() if value is not None}
        return None


async def _follow(store: Store, shard: str, steps: list[tuple[str, int, int, dict[str, Any]]]) -> None:
    model = Model()
    places = [NOTHING, tip(1), tip(2)]
    for how, at, to, changes in steps:
        new = Meta(places[to], b"%d" % to)
        if how == "swap":
            answer = await store.swap(shard, places[at], new, changes)
        else:
            answer = await store.reset(shard, None if how == "create" else places[at], new)
        expected = NOTHING if how == "create" else places[at]
        assert answer == model.step(how, expected, new, changes)
        assert await store.read_buckets(shard, BUCKETS) == (model.meta, model.fields)
        values = [model.fields["users"].get(name) for name in "abcd"]
        assert await store.read_fields(shard, "users", list("abcd")) == (model.meta, values)


@given(STEPS)
def test_memory_answers_as_the_model_does(steps: list[tuple[str, int, int, dict[str, Any]]]) -> None:
    """Any sequence of swaps and resets gives the answers and the state of a model of a dozen lines."""
    asyncio.run(_follow(MemoryStore(), "u1", steps))


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["redis", "cluster"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_redis_answers_as_the_model_does(
    kind: str, request: pytest.FixtureRequest, steps: list[tuple[str, int, int, dict[str, Any]]]
) -> None:
    """Any sequence of swaps and resets gives on Redis the answers and the state of the same model."""

    async def follow() -> None:
        store = RedisStore(redis_config(kind, request), f"t{uuid.uuid4().hex[:12]}")
        await _follow(store, "u1", steps)
        await store.drop("u1")
        await store.close()

    asyncio.run(follow())
