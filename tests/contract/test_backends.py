"""One suite for every `StateBackend`, and for what `Transactions` makes of them: exactly once, whoever races."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import backend_kit
import pytest
import pytest_asyncio
from backend_kit import RACERS, SERVERS, PassingBackend, add_one, address_of, backend_at, race, take_one
from hypothesis import given
from hypothesis import strategies as st
from racers import race_of_processes
from store_kit import Mode, Proxy

from adgovernor.contracts.errors import BadSettings, Unavailable
from adgovernor.stores.backends import (
    KEY_LENGTH,
    REMEMBERED,
    Change,
    InMemoryBackend,
    StateBackend,
    Transactions,
    Versioned,
)
from adgovernor.stores.database import DatabaseBackend
from adgovernor.stores.redis_backend import RedisBackend
from adgovernor.stores.redis_client import RedisConfig


@pytest_asyncio.fixture(params=["memory", "sqlite", *SERVERS])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateBackend]:
    """An empty backend of each kind."""
    made = backend_at(address_of(request.param, request, tmp_path), f"t{uuid.uuid4().hex[:12]}")
    yield made
    for key in ("k", "unit", "count", *ODD_KEYS):
        now = await made.load(key)
        if now is not None:
            await made.delete(key, now)
    await made.close()


ODD_KEYS = ["é😀", "a b", "{tag}", "'; --", "x" * KEY_LENGTH, "%", "\r\n"]


def first(value: bytes = b"1", operation: str = "op-1", ttl_ms: int | None = None) -> Change:
    """The change that makes a key's first value."""
    return Change.by(operation, None, value, ttl_ms)


async def test_a_value_is_made_changed_and_deleted(backend: StateBackend) -> None:
    """A key has nothing, then its first version, then the second, and nothing again."""
    await backend.ping()
    assert await backend.load("k") is None
    assert await backend.swap("k", first())
    one = await backend.load("k")
    assert one == first().wanted
    assert one is not None
    assert (one.version, one.value) == (1, b"1")
    change = Change.by("op-2", one, b"2")
    assert await backend.swap("k", change)
    two = await backend.load("k")
    assert two == change.wanted
    assert two is not None
    assert (two.version, two.value) == (2, b"2")
    assert await backend.delete("k", two)
    assert await backend.load("k") is None


async def test_a_swap_from_elsewhere_changes_nothing(backend: StateBackend) -> None:
    """A swap or delete that expects nothing, another version or another operation's is refused."""
    assert await backend.swap("k", first())
    one = first().wanted
    assert not await backend.swap("k", first(b"x", "op-x"))
    assert not await backend.swap("k", Change.by("op-x", Versioned(2, b"1", one.marks), b"x"))
    others = first(operation="op-other").wanted
    assert not await backend.swap("k", Change.by("op-x", others, b"x"))
    assert not await backend.delete("k", others)
    assert not await backend.delete("k", Versioned(2, b"1", one.marks))
    assert await backend.load("k") == one
    assert not await backend.delete("missing", one)
    assert not await backend.swap("missing", Change.by("op-2", one, b"x"))
    assert await backend.load("missing") is None


async def test_a_value_made_anew_is_another(backend: StateBackend) -> None:
    """After a delete, a swap that expects the deleted value is refused, though the new one has its version."""
    assert await backend.swap("k", first())
    one = first().wanted
    assert await backend.delete("k", one)
    assert await backend.swap("k", first(b"1", "op-new"))
    assert not await backend.swap("k", Change.by("op-2", one, b"2"))
    assert await backend.load("k") == first(b"1", "op-new").wanted


async def test_every_byte_survives(backend: StateBackend) -> None:
    """Values hold any byte, nothing at all, and megabytes; keys any character but zero."""
    every = bytes(range(256))
    for key, value in zip(ODD_KEYS, itertools.cycle([every, b"", every * 8_000]), strict=False):
        assert await backend.swap(key, first(value))
        assert await backend.load(key) == first(value).wanted


@pytest.mark.parametrize("key", ["", "x" * (KEY_LENGTH + 1), "a\x00b"])
async def test_what_cannot_be_a_key_everywhere_is_refused(backend: StateBackend, key: str) -> None:
    """No key, one too long, and one with a zero character are refused by every call."""
    with pytest.raises(ValueError, match="key"):
        await backend.load(key)
    with pytest.raises(ValueError, match="key"):
        await backend.swap(key, first())
    with pytest.raises(ValueError, match="key"):
        await backend.delete(key, first().wanted)


async def test_operations_are_remembered_up_to_a_limit(backend: StateBackend) -> None:
    """The marks of the last operations stay with the value, and no more than the limit."""
    now = None
    changes: list[Change] = []
    first_ones: list[str] = []
    for n in range(REMEMBERED + 5):
        changes.append(Change.by(f"op-{n}", now, b"%d" % n))
        assert await backend.swap("k", changes[-1])
        now = await backend.load("k")
        first_ones.append(changes[0].outcome(now))
    assert first_ones == ["done"] * REMEMBERED + ["unknown"] * 5
    assert [change.outcome(now) for change in changes] == ["unknown"] * 5 + ["done"] * REMEMBERED


def test_a_value_made_anew_tells_nothing_of_a_change_to_the_old_one() -> None:
    """Of a value that was deleted and made anew, and changed as often or more, nobody can say what became of a change
    to the first."""
    doubtful = Change.by("mine", first(b"1").wanted, b"2")
    now = Change.by("another's", None, b"1").wanted
    for number in range(3):
        now = Change.by(f"later {number}", now, b"2").wanted
        assert doubtful.outcome(now) == "unknown"


async def test_a_time_to_live_ends_a_value_unless_it_is_changed(backend: StateBackend) -> None:
    """A value with a time to live is gone after it and can be made anew; a change without one makes it stay."""
    assert await backend.swap("k", first(b"short", ttl_ms=60_000))
    assert await backend.load("k") == first(b"short").wanted
    stays = Change.by("op-2", first(b"short").wanted, b"stays")
    assert await backend.swap("k", stays)
    ends = Change.by("op-3", stays.wanted, b"ends", ttl_ms=1)
    assert await backend.swap("k", ends)
    for _ in range(10_000):
        if await backend.load("k") is None:
            break
    assert not await backend.swap("k", Change.by("op-4", ends.wanted, b"late"))
    assert not await backend.delete("k", ends.wanted)
    assert await backend.swap("k", first(b"new"))
    assert await backend.load("k") == first(b"new").wanted


async def test_a_time_to_live_must_be_above_zero() -> None:
    """No time at all is refused: it would delete what it writes."""
    with pytest.raises(ValueError, match="ttl_ms"):
        first(ttl_ms=0)


async def test_of_many_tasks_one_gets_the_last_unit(backend: StateBackend) -> None:
    """Of 64 tasks exactly one wins, all others are told that it is exhausted, and no count is lost or told twice."""
    assert await backend.swap("unit", first(b"1"))
    told, counts = await race(backend, "only")
    assert told == {"won": 1, "exhausted": RACERS - 1}
    assert sorted(counts) == list(range(1, RACERS + 1))


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
async def test_of_four_processes_one_gets_the_last_unit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of 64 tasks in each of four processes exactly one wins, all others are told that it is exhausted, and no
    count is lost or told twice."""
    address, prefix = address_of(kind, request, tmp_path), f"t{uuid.uuid4().hex[:12]}"
    backend = backend_at(address, prefix)
    assert await backend.swap("unit", first(b"1"))
    told: Counter[str] = Counter()
    counts: list[int] = []
    for outcomes, seen in await race_of_processes(backend_kit.__file__, address, prefix):
        told.update(outcomes)
        counts += seen
    assert told == {"won": 1, "exhausted": 4 * RACERS - 1}
    assert sorted(counts) == list(range(1, 4 * RACERS + 1))
    for key in ("unit", "count"):
        now = await backend.load(key)
        assert now is not None
        assert await backend.delete(key, now)
    await backend.close()


class Lossy(PassingBackend):
    """A backend over another that loses answers and requests as it is told to, one word a swap."""

    def __init__(self, inner: StateBackend, plan: list[str]) -> None:
        super().__init__(inner)
        self.plan = plan
        self.late: list[tuple[str, Change]] = []

    async def swap(self, key: str, change: Change) -> bool:
        """``answer``: it happens and nobody is told; ``request``: it never happens; ``late``: it lands when the
        next one does, before it."""
        fate = self.plan.pop(0) if self.plan else "pass"
        landing, self.late = self.late, []
        for late in landing:
            await self.inner.swap(*late)
        if fate == "late":
            self.late.append((key, change))
        if fate in ("late", "request"):
            raise Unavailable("the request is lost")
        done = await self.inner.swap(key, change)
        if fate == "answer":
            raise Unavailable("the answer is lost")
        return done


@given(
    st.lists(
        st.lists(st.sampled_from(["pass", "answer", "request", "late"]), max_size=6), min_size=1, max_size=4
    )
)
def test_whatever_is_lost_each_operation_happens_once(plans: list[list[str]]) -> None:
    """With answers lost, requests lost and requests that land late, several processes' increments count once each."""

    async def run() -> None:
        inner = InMemoryBackend()
        processes = [Transactions(Lossy(inner, plan)) for plan in plans]
        counts = await asyncio.gather(
            *(
                process.apply("k", f"{n}.{m}", add_one)
                for n, process in enumerate(processes)
                for m in range(5)
            )
        )
        assert sorted(counts) == list(range(1, 5 * len(plans) + 1))
        now = await inner.load("k")
        assert now is not None
        assert int(now.value) == len(counts)

    asyncio.run(run())


async def test_an_answer_lost_for_too_long_is_told(backend: StateBackend) -> None:
    """Where more has happened than is remembered since an answer was lost, the caller hears that nobody knows."""

    class Overtaken(Lossy):
        async def swap(self, key: str, change: Change) -> bool:
            done = await super().swap(key, change)
            for n in range(REMEMBERED + 1):
                await Transactions(self.inner).apply(key, f"other-{n}", add_one)
            assert done
            raise Unavailable("the answer is lost")

    with pytest.raises(Unavailable, match="cannot be told"):
        await Transactions(Overtaken(backend, [])).apply("k", "mine", add_one)
    now = await backend.load("k")
    assert now is not None
    assert int(now.value) == REMEMBERED + 2


async def test_a_backend_that_stays_away_is_told_in_time(tmp_path: Path) -> None:
    """Past its deadline a transaction says `Unavailable` with the reason, and has not waited much longer."""

    class Away(Lossy):
        async def load(self, key: str) -> Versioned | None:
            raise Unavailable("gone fishing")

    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="gone fishing"):
            await Transactions(Away(InMemoryBackend(), []), deadline_s=0.2).apply("k", "op", add_one)


async def test_nothing_is_written_where_nothing_changes(backend: StateBackend) -> None:
    """A decision that leaves the state as it is answers its result and makes no version."""
    assert await Transactions(backend).apply("k", "op", take_one) == "exhausted"
    assert await backend.load("k") is None


async def test_an_error_of_the_decision_is_the_callers(backend: StateBackend) -> None:
    """What the pure function raises comes out unchanged, nothing is written, and the key is free again."""

    def refuse(value: bytes | None) -> tuple[bytes | None, int]:
        raise ZeroDivisionError

    transactions = Transactions(backend)
    with pytest.raises(ZeroDivisionError):
        await transactions.apply("k", "op", refuse)
    assert await transactions.apply("k", "op", add_one) == 1


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["redis", "postgres"])
@pytest.mark.parametrize("mode", ["lose_reply", "lose_request"])
async def test_a_connection_cut_in_a_swap(
    kind: str, mode: Mode, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """When the connection is cut before or after a swap reached the server, a transaction counts it once."""
    address, prefix = address_of(kind, request, tmp_path), f"t{uuid.uuid4().hex[:12]}"
    behind = backend_at(address, prefix)
    port = int(address.rpartition(":")[2].partition("/")[0])
    async with Proxy(port).running() as proxy:
        away = backend_at(address.replace(f":{port}", f":{proxy.port}"), prefix)
        transactions = Transactions(away)
        assert await transactions.apply("count", "op-1", add_one) == 1
        now = await away.load("count")
        # The wanted value is in the swap's own message, whatever else the client says before it.
        proxy.set(mode, when=b"31415")
        with pytest.raises(Unavailable):
            await away.swap("count", Change.by("op-2", now, b"31415"))
        landed = await behind.load("count")
        assert landed is not None
        assert landed.version == (2 if mode == "lose_reply" else 1)
        assert await behind.delete("count", landed)
        await behind.swap("count", first(b"27181"))
        proxy.set(mode, when=b"27182")
        assert await transactions.apply("count", "op-3", add_one) == 27182
        await away.close()
    last = await behind.load("count")
    assert last is not None
    assert (last.version, last.value) == (2, b"27182")
    assert await behind.delete("count", last)
    await behind.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql+asyncmy://u:secret@h/d",
        "nonsense:secret",
        "sqlite://",
        "postgresql://u:secret@h/d",
        "sqlite+aiosqlite://",
    ],
)
def test_a_database_that_cannot_be_used_is_refused(url: str) -> None:
    """An address of another database, another driver or no file is refused with what to write, no password shown."""
    with pytest.raises(BadSettings, match="sqlite") as refusal:
        DatabaseBackend(url)
    assert "secret" not in str(refusal.value)


async def test_a_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """A server that does not answer and a file that cannot be made are `Unavailable`, without the password."""
    for url in (
        "postgresql+asyncpg://u:secret@127.0.0.1:1/d",
        f"sqlite+aiosqlite:///{tmp_path}/none/state.db",
    ):
        backend = DatabaseBackend(url)
        with pytest.raises(Unavailable) as refusal:
            await backend.load("k")
        assert "secret" not in str(refusal.value)
        await backend.close()
    assert f"there is no folder {tmp_path}/none" in str(refusal.value)


async def test_a_database_lets_go_of_what_has_ended(tmp_path: Path) -> None:
    """Rows of yesterday's pods, which nobody asks for again, are removed while others are written; what has no end, or
    has not come to it, stays."""
    now_ms = 0
    file = tmp_path / "state.db"
    backend = DatabaseBackend(f"sqlite+aiosqlite:///{file}", clock_ms=lambda: now_ms)
    assert await backend.swap("money", first())
    for number in range(250):
        now_ms = number
        assert await backend.swap(f"pod-{number}", first(ttl_ms=100))
    assert await backend.load("money") is not None
    assert await backend.load("pod-240") is not None
    await backend.close()
    with closing(sqlite3.connect(file)) as there:
        (rows,) = there.execute("SELECT count(*) FROM adgovernor_state").fetchone()
        kept = {name for (name,) in there.execute("SELECT key FROM adgovernor_state")}
    assert rows < 200, "rows that ended lie there"
    assert {"money", *(f"pod-{number}" for number in range(150, 250))} <= kept


async def test_values_are_written_where_ended_rows_cannot_be_removed(tmp_path: Path) -> None:
    """Removing what has ended is nobody's concern: where it fails, the value beside it is written all the same."""
    now_ms = 0
    file = tmp_path / "state.db"
    backend = DatabaseBackend(f"sqlite+aiosqlite:///{file}", clock_ms=lambda: now_ms)
    await backend.ping()
    with closing(sqlite3.connect(file)) as there:
        there.execute(
            "CREATE TRIGGER kept BEFORE DELETE ON adgovernor_state BEGIN SELECT RAISE(ABORT, 'kept'); END"
        )
    for number in range(110):
        now_ms = number
        assert await backend.swap(f"pod-{number}", first(ttl_ms=1))
    await backend.close()
    with closing(sqlite3.connect(file)) as there:
        assert there.execute("SELECT count(*) FROM adgovernor_state").fetchone() == (110,)


@pytest.mark.servers
async def test_a_key_that_is_somebody_elses_is_left_alone(redis_url: str) -> None:
    """A Redis key of another kind makes every call fail with words that help."""
    backend = RedisBackend(RedisConfig.from_url(redis_url), f"t{uuid.uuid4().hex[:12]}")
    name = backend.name("k")
    await backend.client.command(name, "SET", name, "x")
    with pytest.raises(BadSettings, match="another prefix"):
        await backend.load("k")
    with pytest.raises(BadSettings, match="another prefix"):
        await backend.swap("k", first())
    assert await backend.client.command(name, "GET", name) == b"x"
    await backend.client.command(name, "DEL", name)
    await backend.close()


async def test_memory_lets_go_of_what_has_ended() -> None:
    """Values that nobody asks for again, such as pods of yesterday, do not stay for ever; those without an end do."""
    now_ms = 0
    backend = InMemoryBackend(lambda: now_ms)
    value = Change.by("keep", None, b"money")
    assert await backend.swap("money", value)
    for number in range(10_000):
        now_ms = number
        assert await backend.swap(f"pod-{number}", Change.by("make", None, b"pod", ttl_ms=100))
    assert len(backend._values) < 2_100
    assert await backend.load("money") == value.wanted
    assert await backend.load(f"pod-{now_ms}") is not None
