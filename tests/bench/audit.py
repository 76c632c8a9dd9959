"""What proving a history costs: `adgovernor audit` on copies of two lengths, how that grows, and what processes gain.

The histories are written by the machines themselves (see `_history`), so no server is needed; against Kafka come its
client's time, and the comparison with Redis. Memory should not grow with a history, CPU with its length and no more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from tests.bench import _history

REQUESTS = int(os.environ.get("BENCH_AUDIT_REQUESTS", "30000"))
"""Of the shorter history; the longer has four times as many. Each makes about 1.8 records."""
LONGER = 4


def run() -> dict[str, Any]:
    """Records a second, CPU a record and peak memory at both lengths, the ratios of the last two, and how much faster
    the longer one is proved by a process for each processor."""
    jobs = max(2, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="adgovernor-bench-") as folder:
        _write(Path(folder) / "short", REQUESTS)
        short = _measure(Path(folder) / "short")
        _write(Path(folder) / "long", LONGER * REQUESTS)
        long = _measure(Path(folder) / "long")
        together = _measure(Path(folder) / "long", jobs)
    return {
        "short": short,
        "long": long,
        "jobs": jobs,
        "long_with_jobs": together,
        "faster_with_jobs": round(together["records_per_s"] / long["records_per_s"], 2),
        "longer_by": round(long["records"] / short["records"], 2),
        "cpu_us_per_record_ratio": round(long["cpu_us_per_record"] / short["cpu_us_per_record"], 2),
        "peak_mb_ratio": round(long["peak_mb"] / short["peak_mb"], 2),
    }


def _write(folder: Path, requests: int) -> None:
    # In a process of its own: what a process has used until then counts as its children's, too.
    writing = [sys.executable, "-m", "tests.bench._history", str(folder), str(requests)]
    subprocess.run(writing, check=True)


def _measure(folder: Path, jobs: int = 1) -> dict[str, Any]:
    """``peak_mb``: of the largest process."""
    command = [sys.executable, "-c", "from adgovernor.app.cli import main; main()"]
    command += ["audit", "--from", str(folder), "--json", "--jobs", str(jobs)]
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = os.posix_spawn(
            sys.executable,
            command,
            {**os.environ, "ADGOVERNOR_PREFIX": _history.PREFIX},
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1)],
        )
        _, status, used = os.wait4(process, 0)
        took_s = time.perf_counter() - began
        output.seek(0)
        report = orjson.loads(output.read())
    if os.waitstatus_to_exitcode(status) != 0 or not report["green"]:
        raise RuntimeError(f"the audit is not green: {report['findings'][:3]}")
    records = report["counted"]["records"]
    return {
        "records": records,
        "records_per_s": round(records / took_s),
        "cpu_us_per_record": round((used.ru_utime + used.ru_stime) / records * 1e6, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
    }
