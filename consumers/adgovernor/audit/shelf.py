"""People of a shard who are not in memory: kept in a temporary database file, and brought back when they are needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from adgovernor.core.user_shard import UserShard

_AT_ONCE: Final = 500
"""Names that one question may have; every version of the database takes twice as many."""


class Shelf:
    """One shard's people. They come back exactly as they would from a store."""

    def __init__(self, path: Path) -> None:
        """``path``: of the file, in a folder that its owner removes in the end."""
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._changed: set[str] = set()
        """Who is in memory and not as the file has them."""

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect(self._path, isolation_level=None)
            # What is lost with this process is of no use to another.
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS people (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID"
            )
        return self._database

    def put_away(self, machine: UserShard, keep: int) -> None:
        """Takes the people out of the machine's memory who were not needed for longest, all but ``keep``. Every change
        of the machine's people must be told to `note` before."""
        leaving = list(islice(machine.persons, max(0, len(machine.persons) - keep)))
        database = self._open()
        database.execute("BEGIN")
        database.executemany(
            "INSERT OR REPLACE INTO people VALUES (?, ?)",
            ((name, machine.persons[name].encode()) for name in leaving if name in self._changed),
        )
        database.execute("COMMIT")
        self._changed.difference_update(leaving)
        for name in leaving:
            del machine.persons[name]

    def note(self, changed: set[str]) -> None:
        """These have changed in memory."""
        self._changed |= changed

    def bring(self, machine: UserShard, names: Sequence[str]) -> None:
        """Brings people into the machine's memory; who was never put away is new."""
        found: dict[str, bytes | None] = {}
        if self._database is not None or self._path.exists():
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                question = f"SELECT name, value FROM people WHERE name IN ({marks})"  # noqa: S608 - only marks
                found.update(self._open().execute(question, some))
        for name in names:
            machine.load(name, found.get(name))

    def rest(self, machine: UserShard) -> Iterator[tuple[str, bytes | None]]:
        """The stored form of everybody who is not in memory."""
        if self._database is None:
            return
        for name, value in self._database.execute("SELECT name, value FROM people"):
            if name not in machine.persons:
                yield name, value

    def close(self) -> None:
        """Lets the file go until it is needed again."""
        if self._database is not None:
            self._database.close()
            self._database = None
