"""Shards followed in processes of their own: the same report, errors told, and no process left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from audit_kit import a_history

from adgovernor.audit.apart import Apart, Source
from adgovernor.audit.history import MemoryHistory, copy
from adgovernor.audit.report import Report
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import AdGovernorError, BadInput


async def a_folder(folder: Path) -> Source:
    """A copied history of two partitions."""
    await copy(MemoryHistory((await a_history()).broker), folder)
    return Source("test", KafkaConnection(), folder)


async def prove(source: Source, jobs: int) -> Report:
    """One after the other with one job, else in so many processes."""
    async with source.opened() as (history, store):
        return await audit(history, "test", store, apart=Apart(source, jobs) if jobs > 1 else None)


def followers() -> list[int]:
    """This process's children that follow shards."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and b"adgovernor.audit.apart" in command:
            found.append(int(entry.name))
    return found


async def test_it_finds_what_one_process_finds(tmp_path: Path) -> None:
    """However many processes there are, the report is the same: sums, notes, findings and their order."""
    source = await a_folder(tmp_path)
    alone = await prove(source, 1)
    assert alone.green
    assert (await prove(source, 3)).as_dict() == alone.as_dict()
    path = tmp_path / topics.LEDGER / "1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3].replace(b"now_ms", b"now_mz"), *lines[4:]]))
    (tmp_path / topics.DECISIONS / "0.jsonl").write_bytes(b"")
    alone = await prove(source, 1)
    assert {finding.check for finding in alone.findings} == {"chain", "outputs"}
    assert (await prove(source, 2)).as_dict() == alone.as_dict()
    assert followers() == []


async def test_what_a_process_cannot_read_is_raised_here(tmp_path: Path) -> None:
    """An error of a shard is that of the whole audit, with its own words, and ends the other processes."""
    source = await a_folder(tmp_path)
    with (tmp_path / topics.LEDGER / "1.jsonl").open("ab") as file:
        file.write(b"no message\n")
    with pytest.raises(BadInput, match=r"1\.jsonl, line \d+: not a message"):
        await prove(source, 2)
    assert followers() == []


@dataclass(frozen=True, slots=True)
class _Deadly(KafkaConnection):
    """Whoever takes it out of a file ends with code 9."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


async def test_a_process_that_ends_without_a_word_is_told(tmp_path: Path) -> None:
    """Where one was killed, say for want of memory, the audit fails and says what to do."""
    source = await a_folder(tmp_path)
    with pytest.raises(AdGovernorError, match=r"ended with code 9.*fewer --jobs"):
        await prove(Source(source.prefix, _Deadly(), source.folder), 2)
    assert followers() == []


async def test_nobody_is_left_where_an_audit_is_given_up(tmp_path: Path) -> None:
    """Whoever stops waiting for an audit ends its processes."""
    source = await a_folder(tmp_path)
    path = tmp_path / topics.LEDGER / "0.jsonl"
    path.unlink()
    os.mkfifo(path)  # Who opens it waits for a writer.
    task = asyncio.create_task(prove(source, 2))
    until = time.monotonic() + 60
    while len(followers()) < 2 and time.monotonic() < until:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.01)
    assert len(followers()) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert followers() == []


def test_a_process_ends_with_whoever_started_it() -> None:
    """Where its input ends, nobody waits for what it would find."""
    command = [sys.executable, "-m", "adgovernor.audit.apart"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
