"""Library mode's state in a database: PostgreSQL by asyncpg, SQLite by aiosqlite; needs ``adgovernor[sql]``.

One table, one row a value, one statement a call: the statement's own WHERE is the compare-and-set, so there is no
transaction to leave open and no isolation level to choose.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    delete,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.elements import ColumnElement

from adgovernor.contracts.errors import BadSettings, Unavailable
from adgovernor.stores.backends import KEY_LENGTH, Change, Versioned, check_key
from adgovernor.stores.clock import wall_clock_ms

_INSERT: Final[dict[str, Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_SWEEP_EVERY: Final = 100
"""Values with an end that are written before ended rows are looked for."""
_SWEPT: Final = 1_000
"""Most rows that are removed at once, so that nobody waits for it long."""
_log = structlog.get_logger("adgovernor.stores")
_DRIVERS: Final = "postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE or sqlite+aiosqlite:///FILE"


class DatabaseBackend:
    """A `StateBackend` in a table of a PostgreSQL or SQLite database, which it makes where it is missing.

    Rows of pods and sessions whose life has ended are not seen any more, and are removed now and then, a few at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        table: str = "adgovernor_state",
        connections: int = 8,
        timeout_s: float = 10.0,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """``connections``: most at once. ``timeout_s``: longest that one call may take. ``clock_ms`` gives the time
        in milliseconds; only values with a time to live ask for it. Raises `BadSettings`."""
        try:
            self._engine: AsyncEngine = create_async_engine(
                url,
                isolation_level="AUTOCOMMIT",
                pool_size=connections,
                max_overflow=0,
                pool_timeout=timeout_s,
                pool_pre_ping=True,
                connect_args={"timeout": timeout_s},
            )
        except ImportError as error:
            raise BadSettings(f"database: {error}; install adgovernor[sql] and use {_DRIVERS}") from error
        except (ArgumentError, TypeError, ValueError):
            # What is wrong with it may be the password, so it is not shown. SQLite in memory has no pool.
            raise BadSettings(f"database address cannot be used: write {_DRIVERS}") from None
        dialect = self._engine.dialect.name
        if dialect not in _INSERT:
            raise BadSettings(f"database {dialect}: use {_DRIVERS}")
        self._insert = _INSERT[dialect]
        self._timeout_s = timeout_s
        self._clock_ms = clock_ms
        self._ready = False
        self._making = asyncio.Lock()
        self._table = Table(
            table,
            MetaData(),
            Column("key", String(KEY_LENGTH), primary_key=True),
            Column("version", BigInteger, nullable=False),
            Column("marks", LargeBinary, nullable=False),
            Column("value", LargeBinary, nullable=False),
            Column("ends_ms", BigInteger, index=True),
        )
        self._mortal = 0
        """How many values with an end were written since rows were last removed."""

    async def load(self, key: str) -> Versioned | None:
        """See `StateBackend.load`."""
        check_key(key)
        columns = self._table.c
        query = select(columns.version, columns.value, columns.marks).where(columns.key == key, self._alive())
        async with self._connection() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Versioned(row.version, row.value, row.marks)

    async def swap(self, key: str, change: Change) -> bool:
        """See `StateBackend.swap`."""
        check_key(key)
        wanted = change.wanted
        values = {
            "version": wanted.version,
            "marks": wanted.marks,
            "value": wanted.value,
            "ends_ms": None if change.ttl_ms is None else self._clock_ms() + change.ttl_ms,
        }
        if change.expected is None:
            # A row whose life has ended may still lie there.
            statement = self._insert(self._table).values(key=key, **values)
            statement = statement.on_conflict_do_update(
                index_elements=[self._table.c.key], set_=values, where=~self._alive()
            )
        else:
            statement = update(self._table).where(self._is(key, change.expected)).values(**values)
        changed = await self._changes_one(statement)
        if change.ttl_ms is not None:
            await self._sweep()
        return changed

    async def delete(self, key: str, expected: Versioned) -> bool:
        """See `StateBackend.delete`."""
        check_key(key)
        return await self._changes_one(delete(self._table).where(self._is(key, expected)))

    async def ping(self) -> None:
        """See `StateBackend.ping`."""
        async with self._connection() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """See `StateBackend.close`."""
        await self._engine.dispose()

    async def _sweep(self) -> None:
        """Removes some rows whose life has ended, once in a while: more than can have been added meanwhile."""
        self._mortal += 1
        if self._mortal < _SWEEP_EVERY:
            return
        self._mortal = 0
        key = self._table.c.key
        ended = select(key).where(~self._alive()).limit(_SWEPT).scalar_subquery()
        try:
            async with self._connection() as connection:
                await connection.execute(delete(self._table).where(key.in_(ended), ~self._alive()))
        except Unavailable as error:
            # What was asked for is done, and rows that lie there a while longer do no harm.
            _log.warning("ended rows were not removed, they are tried again", reason=str(error))

    def _alive(self) -> ColumnElement[bool]:
        ends = self._table.c.ends_ms
        return or_(ends.is_(None), ends > self._clock_ms())

    def _is(self, key: str, expected: Versioned) -> ColumnElement[bool]:
        columns = self._table.c
        place = and_(columns.version == expected.version, columns.marks == expected.marks)
        return and_(columns.key == key, place, self._alive())

    async def _changes_one(self, statement: Any) -> bool:
        async with self._connection() as connection:
            return bool((await connection.execute(statement)).rowcount == 1)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection for one statement, the table being there; nothing is ever sent twice."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self._ready:
                    self._check_folder()
                    await self._make_table()
                async with self._engine.connect() as connection:
                    yield connection
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            place = self._engine.url.render_as_string(hide_password=True)
            reason = str(getattr(error, "orig", None) or error) or type(error).__name__
            raise Unavailable(f"database {place}: {reason}") from error

    def _check_folder(self) -> None:
        """Raises `FileNotFoundError` where SQLite's file has no folder to be in: the driver would say less, and leave a
        thread behind that reports to an event loop which may be gone by then."""
        name = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and name and not name.startswith("file:"):
            folder = Path(name).parent
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {folder}: make it, or name another file")

    async def _make_table(self) -> None:
        async with self._making:
            if self._ready:
                return
            async with self._engine.connect() as connection:
                if self._engine.dialect.name == "sqlite":
                    # Readers and the writer do not block each other, and processes take turns in writing.
                    await connection.execute(text("PRAGMA journal_mode=WAL"))
                try:
                    await connection.run_sync(self._table.create, checkfirst=True)
                except SQLAlchemyError:
                    # Another process may have made it meanwhile; if it has not, this asks in vain.
                    await connection.execute(select(self._table.c.key).limit(1))
            self._ready = True
