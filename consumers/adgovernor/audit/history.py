"""Where a history is read from: a broker, a log in memory, or a folder that one was copied to.

A folder holds one file of JSON lines a topic partition, ``ledger/3.jsonl``: ``{"offset", "time_ms", "key", "value",
"headers"}``; texts where the bytes are UTF-8, else ``key_b64`` and ``value_b64``. ``first.json`` has the first offsets
of those partitions of which retention had taken the beginning.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol, Self

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.unsealing import Keys
from adgovernor.subscribe.kafka import RawMessage

_READ_BYTES = 2_000_000
"""A dozen topics are read beside each ledger, so each may have a little in memory only."""
_FIRST = "first.json"
_PATIENCE = 10
"""Empty reads in a row, each of a second, before a partition that promised more is given up."""


class History(Protocol):
    """All topics of one deployment, readable from their beginnings."""

    async def partitions(self) -> int:
        """How many partitions every topic has."""
        ...

    async def first(self, topic: str, partition: int) -> int:
        """The offset at which a partition begins: above 0 where retention has taken what was before."""
        ...

    def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        """Every message from offset ``start`` to the end seen when reading began, in offset order."""
        ...


async def take_new_keys(history: History, keys: Keys, partition: int) -> list[tuple[str, str]]:
    """Takes the persons' keys of a partition that were made since they were last read. Gives what is no key: the
    place of each such message, and what is wrong with it."""
    wrong: list[tuple[str, str]] = []
    async for message in history.messages(topics.PERSON_KEYS, partition, keys.end):
        try:
            keys.take(message.offset, message.key, message.value)
        except BadInput as error:
            wrong.append((f"{topics.PERSON_KEYS}[{partition}] offset {message.offset}", str(error)))
    return wrong


class MemoryHistory:
    """The history that a `MemoryBroker` holds."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def partitions(self) -> int:
        """See `History.partitions`."""
        return self._broker.partitions

    async def first(self, topic: str, partition: int) -> int:
        """See `History.first`."""
        return 0

    async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        """See `History.messages`."""
        end = self._broker.end(topic, partition)
        for event in self._broker.read(topic, partition, start, end):
            time_ms = self._broker.time_ms(topic, partition, event.offset)
            yield RawMessage(partition, event.offset, time_ms, event.key, event.value, event.headers)


class KafkaHistory:
    """The history that a broker holds: one client reads all of it, one partition after the other. To be closed."""

    def __init__(
        self, connection: KafkaConnection | str, prefix: str, *, read_bytes: int = _READ_BYTES
    ) -> None:
        """``read_bytes``: about how much of a partition is in memory at once, for each that is being read."""
        self._prefix = prefix
        self._read_bytes = read_bytes
        self._readers = KafkaReaders(KafkaConnection.of(connection), 1, "adgovernor-audit")
        self._found: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets the connection go."""
        await self._readers.close()

    async def partitions(self) -> int:
        """See `History.partitions`."""
        await self._find(topics.LEDGER)
        return self._found[topics.LEDGER]

    async def first(self, topic: str, partition: int) -> int:
        """See `History.first`."""
        return await self._readers.first(await self._find(topic), partition)

    async def _find(self, topic: str) -> str:
        """The topic's name on the broker. Raises `BadSettings` where it is not there."""
        name = topics.full_name(self._prefix, topic)
        if topic not in self._found:
            names = [topics.full_name(self._prefix, each) for each in topics.ALL_TOPICS]
            found = await self._readers.partitions(names)
            self._found = {
                each: found[full]
                for each, full in zip(topics.ALL_TOPICS, names, strict=True)
                if full in found
            }
        if topic not in self._found:
            raise BadSettings(
                f"topic {name} does not exist, or this user may not see it; make the topics with "
                "`adgovernor topics create`, mend the prefix, or give this user READ on it"
            )
        return name

    async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        """See `History.messages`."""
        name = await self._find(topic)
        at, idle, until = start, 0, -1
        while until < 0 or at < until:
            # Retention may take inputs and outputs at any time, also while they are read.
            at = max(at, await self._readers.first(name, partition))
            records, end = await self._readers.read(name, partition, at, self._read_bytes)
            until = end if until < 0 else until
            idle = 0 if records else idle + 1
            if idle > _PATIENCE and at < until:
                raise Unavailable(
                    f"{name}[{partition}] shows nothing at offset {at}, but its end is {until}: is a replica missing?"
                )
            for record in records:
                if record.offset < until:
                    headers = tuple(record.headers)
                    yield RawMessage(
                        partition, record.offset, record.timestamp, record.key, record.value, headers
                    )
                at = record.offset + 1


class FolderHistory:
    """A history copied to a folder by `copy`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first: dict[str, dict[str, int]] | None = None

    async def partitions(self) -> int:
        """See `History.partitions`."""
        found = list((self._folder / topics.LEDGER).glob("*.jsonl"))
        if not found:
            raise BadInput(
                f"{self._folder} holds no history: make one with `adgovernor audit --copy-to FOLDER`"
            )
        return len(found)

    async def first(self, topic: str, partition: int) -> int:
        """See `History.first`."""
        if self._first is None:
            path = self._folder / _FIRST
            try:
                self._first = orjson.loads(path.read_bytes()) if path.exists() else {}
            except orjson.JSONDecodeError as error:
                raise BadInput(f"{path}: not of a copied history: {error}") from error
        return int(self._first.get(topic, {}).get(str(partition), 0))

    async def messages(self, topic: str, partition: int, start: int = 0) -> AsyncIterator[RawMessage]:
        """See `History.messages`."""
        path = self._folder / topic / f"{partition}.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = orjson.loads(line)
                    if row["offset"] < start:
                        continue
                    yield RawMessage(
                        partition,
                        row["offset"],
                        row["time_ms"],
                        _bytes_of(row, "key"),
                        _bytes_of(row, "value"),
                        tuple((name, b64decode(text)) for name, text in row["headers"]),
                    )
                except (orjson.JSONDecodeError, KeyError, ValueError) as error:
                    raise BadInput(
                        f"{path}, line {number}: not a message of a copied history: {error}"
                    ) from error


def _bytes_of(row: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_b64" in row:
        return b64decode(row[f"{name}_b64"])
    text = row[name]
    return None if text is None else text.encode()


def row_of(message: RawMessage) -> dict[str, Any]:
    """A message as a line of a copied history."""
    row: dict[str, Any] = {"offset": message.offset, "time_ms": message.time_ms}
    for name, raw in (("key", message.key), ("value", message.value)):
        try:
            row[name] = None if raw is None else raw.decode()
        except UnicodeDecodeError:
            row[f"{name}_b64"] = b64encode(raw or b"").decode()
    row["headers"] = [[name, b64encode(raw).decode()] for name, raw in message.headers]
    return row


async def copy(history: History, folder: Path) -> int:
    """Copies a whole history to a folder; how many messages it has.

    Raises:
        BadInput: where the folder cannot be written.
    """
    partitions = await history.partitions()
    count = 0
    first: dict[str, dict[str, int]] = {}
    try:
        for topic in topics.ALL_TOPICS:
            (folder / topic).mkdir(parents=True, exist_ok=True)
            for partition in range(partitions):
                if begins := await history.first(topic, partition):
                    first.setdefault(topic, {})[str(partition)] = begins
                with (folder / topic / f"{partition}.jsonl").open("wb") as file:
                    async for message in history.messages(topic, partition):
                        file.write(orjson.dumps(row_of(message)) + b"\n")
                        count += 1
        (folder / _FIRST).write_bytes(orjson.dumps(first))
    except OSError as error:
        raise BadInput(
            f"cannot write to {folder}: {error.strerror or error}; name a folder that this user may make or fill"
        ) from error
    return count
