"""Programs in processes of their own that need not import everything again: forked from one that has.

A command imports for a second or two before it does anything, which is most of what a test of many commands would take.
Everything else is as it is for ``python -m MODULE`` and ``python FILE``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "adgovernor.app.campaigns_commands",
        "adgovernor.app.embedded",
        "adgovernor.app.starts",
        "adgovernor.app.stored",
        "adgovernor.app.watch_commands",
        "adgovernor.library",
        "adgovernor.runtime.topics_admin",
        "adgovernor.sessions.library_governor",
        "adgovernor.sessions.stream_governor",
        "adgovernor.stores.database",
        "adgovernor.stores.redis",
        "rich.table",
    ]
)
_STREAMS = {
    0: ("in", os.O_RDONLY),
    1: ("out", os.O_WRONLY | os.O_CREAT),
    2: ("err", os.O_WRONLY | os.O_CREAT),
}


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a program."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run_program(
    program: str | Path,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stdin: bytes = b"",
    timeout_s: float = 120.0,
) -> Done:
    """Runs a module (by name) or a file (by path) to its end. ``environment``: all of it; left out, this process's."""
    with tempfile.TemporaryDirectory() as streams:
        (Path(streams) / "in").write_bytes(stdin)
        known = dict(os.environ if environment is None else environment)
        work = (program, list(arguments), known, str(folder or Path.cwd()), streams)
        process = _CONTEXT.Process(target=_be, args=work)
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{program} did not end within {timeout_s:g} s")
        out, err = ((Path(streams) / name).read_bytes() for name in ("out", "err"))
        return Done(process.exitcode, out, err)


def _be(
    program: str | Path, arguments: list[str], environment: dict[str, str], folder: str, streams: str
) -> None:
    for number, (name, flags) in _STREAMS.items():
        opened = os.open(f"{streams}/{name}", flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(program), *arguments]
    if isinstance(program, Path):
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
