"""Runs benchmarks: `python -m tests.bench [NAME...] [--json]`.

A benchmark is a module of this folder with a function `run() -> dict` (or `async def run()`) of figures by name; its
own name is the module's with `-` for `_`. One that sets `NEEDS_SERVERS = True` finds the addresses of a Kafka and a
Redis in ADGOVERNOR_TEST_KAFKA and ADGOVERNOR_TEST_REDIS; where they are not set, servers are started for the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import inspect
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from rich.console import Console
from rich.table import Table

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_LIBRARIES = ("adgovernor", "aiokafka", "orjson", "pydantic", "redis", "uvloop")
_SERVER_VARIABLES = ("ADGOVERNOR_TEST_KAFKA", "ADGOVERNOR_TEST_REDIS")

Figures = Mapping[str, Any]


def discover() -> dict[str, ModuleType]:
    """All benchmarks by name; other modules of the folder, which have no `run`, are helpers."""
    modules = {}
    for path in sorted(_HERE.glob("*.py")):
        if not path.stem.startswith("_"):
            module = importlib.import_module(f"tests.bench.{path.stem}")
            if callable(getattr(module, "run", None)):
                modules[path.stem.replace("_", "-")] = module
    return modules


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    described = {
        "cpu": _first_value(Path("/proc/cpuinfo"), "model name")
        or platform.processor()
        or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    return described | {library: version(library) for library in _LIBRARIES}


def _first_value(path: Path, field: str) -> str | None:
    if not path.exists():
        return None
    lines = path.read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)


def measure(module: ModuleType) -> Figures:
    """Run one benchmark; its figures and how long it took."""
    started = time.perf_counter()
    figures = module.run()
    if inspect.iscoroutine(figures):
        figures = asyncio.run(figures)
    return {**figures, "took_s": round(time.perf_counter() - started, 1)}


@contextlib.contextmanager
def _output_kept_clean() -> Iterator[IO[str]]:
    """Send all that is written to standard output, by child processes too, to standard error; yields the real one."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w") as stream, contextlib.redirect_stdout(sys.stderr):
            yield stream
    finally:
        os.dup2(real, 1)
        os.close(real)


def show(described: Figures, results: Mapping[str, Figures]) -> None:
    """Print the figures as tables."""
    console = Console()
    memory = f"{described['memory_bytes'] / 2**30:.0f} GiB"
    console.print(
        f"{described['cpu']}, {described['cores']} cores, {memory}, {described['system']}", highlight=False
    )
    versions = ", ".join(f"{name} {described[name]}" for name in ("python", *_LIBRARIES))
    console.print(f"{versions}; load before the run {described['load_before']}", highlight=False)
    for name, figures in results.items():
        table = Table(title=name, title_justify="left", show_header=False)
        table.add_column("figure")
        table.add_column("value", justify="right")
        for figure, value in flattened(figures):
            table.add_row(figure, value)
        console.print(table)


def flattened(figures: Figures, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Figures as rows of text, nested ones under dotted names."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"
        else:
            yield f"{prefix}{name}", f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code (2 when a name is unknown)."""
    parser = argparse.ArgumentParser(prog="deploy/bench", description="Run benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; all else to standard error"
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks")
    options = parser.parse_args(arguments)
    benchmarks = discover()
    if options.list:
        print(*benchmarks, sep="\n")
        return 0
    unknown = [name for name in options.names if name not in benchmarks]
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(benchmarks)}")
    chosen = {name: benchmarks[name] for name in options.names or benchmarks}
    needs_servers = any(getattr(module, "NEEDS_SERVERS", False) for module in chosen.values())
    if needs_servers and not all(os.environ.get(name) for name in _SERVER_VARIABLES):
        run = [sys.executable, str(_ROOT / "deploy/local/servers.py"), "run", "--profile", "bench", "--"]
        os.execv(sys.executable, [*run, sys.executable, "-m", "tests.bench", *arguments])
    with _output_kept_clean() as output:
        described, results = machine(), {}
        for name, module in chosen.items():
            print(f"benchmark {name}...", file=sys.stderr, flush=True)
            results[name] = measure(module)
        if options.json:
            json.dump({"machine": described, "benchmarks": results}, output, indent=2)
            output.write("\n")
        else:
            output.flush()
            with contextlib.redirect_stdout(output):
                show(described, results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
