"""People of shards that are not being read: kept in a temporary file, so that memory holds one shard's at a time."""

from __future__ import annotations

import tempfile
from typing import IO

import orjson

from adgovernor.core.history import Person
from adgovernor.core.user_shard import UserShard


class Shelf:
    """One shard's people. They come back exactly as they would from a store."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def put_away(self, machine: UserShard) -> None:
        """Takes the people out of the machine's memory."""
        file = tempfile.TemporaryFile(prefix="adgovernor-audit-")  # noqa: SIM115 - kept until they are taken out
        for name, person in machine.persons.items():
            value = person.encode()
            file.write(orjson.dumps([name, None if value is None else value.decode()]) + b"\n")
        machine.persons = {}
        machine.take_changes()
        self._file = file

    def take_out(self, machine: UserShard) -> None:
        """Brings them back; nothing where none were put away."""
        file, self._file = self._file, None
        if file is None:
            return
        with file:
            file.seek(0)
            for line in file:
                name, value = orjson.loads(line)
                machine.persons[name] = Person.decode(None if value is None else value.encode())
