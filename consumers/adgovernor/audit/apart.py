"""Shards followed at the same time, each in a process of its own: an audit uses as many processors as it is given.

A process gets its tasks on its standard input, so that no password lies in a file, and leaves what it found as a file
of the audit's own folder. The sums over all shards are made by whoever asked, from what they found.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
from asyncio.subprocess import PIPE
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from adgovernor.audit.follow import follow
from adgovernor.audit.followed import Followed
from adgovernor.audit.history import FolderHistory, History, KafkaHistory
from adgovernor.audit.report import Report
from adgovernor.audit.stored import resident_form
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import AdGovernorError, BadInput, BadSettings, Unavailable
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.runtime.collector import Collector
from adgovernor.stores.base import Store
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig


@dataclass(frozen=True, slots=True)
class Source:
    """Where a deployment's history is, and its store."""

    prefix: str
    kafka: KafkaConnection
    folder: Path | None = None
    """Of a copied history, which is read in place of Kafka's."""
    redis: RedisConfig | None = None
    """None: the store is not compared."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[History, Store | None]]:
        """Both, let go in the end."""
        store = None if self.redis is None else RedisStore(self.redis, self.prefix)
        try:
            if self.folder is not None:
                yield FolderHistory(self.folder), store
                return
            async with KafkaHistory(self.kafka, self.prefix) as history:
                yield history, store
        finally:
            if store is not None:
                await store.close()


@dataclass(frozen=True, slots=True)
class _Task:
    """What one process is to do."""

    source: Source
    shard: str
    partitions: int
    folder: Path

    @property
    def found(self) -> Path:
        return self.folder / f"{self.shard}.found"


@dataclass(frozen=True, slots=True)
class _Found:
    """What one process found."""

    one: Followed
    """Its machine is as new."""
    state: dict[str, dict[str, bytes]]
    """Of the machine: what a store would hold of it, but for people, who are on the shelf."""
    report: Report


class Apart:
    """Follows shards in processes of their own."""

    def __init__(self, source: Source, jobs: int) -> None:
        """``jobs``: how many processes."""
        self._source = source
        self._jobs = jobs

    async def follow(
        self, shards: Sequence[str], partitions: int, folder: Path
    ) -> list[tuple[Followed, Report]]:
        """Each shard as far as its ledger goes, and what was found on the way, in the order of ``shards``.

        Raises:
            AdGovernorError: the first that a process met, or where one ended without a word.
        """
        # User shards take longest, so none of them should be the last to begin.
        first = sorted(shards, key=topics.is_treasury)
        waiting = deque(_Task(self._source, shard, partitions, folder) for shard in first)
        found: dict[str, _Found] = {}
        crew = [asyncio.create_task(_lead(waiting, found)) for _ in range(min(self._jobs, len(shards)))]
        try:
            await asyncio.gather(*crew)
        finally:
            for each in crew:
                each.cancel()
            await asyncio.gather(*crew, return_exceptions=True)
        for one in found.values():
            one.one.machine.restore(one.state)
        return [(found[shard].one, found[shard].report) for shard in shards]


async def _lead(waiting: deque[_Task], found: dict[str, _Found]) -> None:
    """Has one process do tasks until none waits."""
    # A session of its own keeps a terminal's Ctrl-C away; the end of its input tells it that this process is gone.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while waiting:
            task = waiting.popleft()
            process.stdin.write(b64encode(pickle.dumps(task)) + b"\n")
            if not await process.stdout.readline():
                code = await process.wait()
                raise AdGovernorError(
                    f"the process that followed {task.shard} ended with code {code}: see what it said, if anything; "
                    "where it was killed for want of memory, give fewer --jobs"
                )
            answer: _Found | AdGovernorError
            # Its line came after the file was whole (`work`), so what is there is the answer to this task.
            answer = pickle.loads(task.found.read_bytes())  # noqa: S301 - our own process wrote it, to our own folder
            if isinstance(answer, AdGovernorError):
                raise answer
            found[task.shard] = answer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


# --- In the other process --------------------------------------------------------------------------------------


async def _follow(task: _Task) -> _Found:
    report = Report()
    async with task.source.opened() as (history, store):
        prefix, shard = task.source.prefix, task.shard
        one = await follow(history, prefix, shard, task.partitions, store, task.folder, report)
    state = resident_form(one.machine)
    one.machine = machine_of(shard, Rules(partitions=task.partitions))
    return _Found(one, state, report)


def _do(line: bytes) -> None:
    task: _Task = pickle.loads(b64decode(line))  # noqa: S301 - whoever started us wrote it
    answer: _Found | AdGovernorError
    try:
        answer = asyncio.run(_follow(task))
    except AdGovernorError as error:
        kind = next((kind for kind in (Unavailable, BadSettings, BadInput) if isinstance(error, kind)), None)
        answer = (kind or AdGovernorError)(str(error))
    task.found.write_bytes(pickle.dumps(answer))


def work() -> None:
    """Does the tasks that come on standard input, one a line, and says so on standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)  # Whatever else is said goes to standard error.
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    collector = Collector()
    while True:
        _do(tasks.get())
        collector.sweep()
        os.write(answers, b"done\n")


def _listen(tasks: SimpleQueue[bytes]) -> None:
    rest = b""
    while part := os.read(0, 4_096):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            tasks.put(line)
    os._exit(0)


if __name__ == "__main__":
    # Under the name by which whoever reads the answers knows these classes.
    from adgovernor.audit import apart

    apart.work()
