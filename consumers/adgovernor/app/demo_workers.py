"""Workers as processes of the demonstration: started, killed when the story asks for it, and never left behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adgovernor.contracts.errors import AdGovernorError

_STOP_S: Final = 20.0
"""A worker gives its shards back within 10 s."""
_LOG_TAIL: Final = 4_000
_PR_SET_PDEATHSIG: Final = 1


class WorkerFailed(AdGovernorError):
    """A worker ended although nobody asked it to; the message ends with its log."""


def _end_with_parent() -> Callable[[], None] | None:
    """Has the kernel stop a child whose parent is gone, even by SIGKILL; where there is no Linux, nothing does."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


class Workers:
    """Some workers of one deployment, numbered from 1."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment``: the settings of the workers, added to this process's own."""
        self._environment = {**os.environ, **environment}
        self._folder = tempfile.TemporaryDirectory(prefix="adgovernor-demo-")
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ending: set[int] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            self._folder.cleanup()

    async def start(self) -> int:
        """Starts one more; its number."""
        number = len(self._processes) + 1
        with self._log(number).open("wb") as log:
            # A session of its own keeps a terminal's Ctrl-C away: workers end after the story, in order.
            self._processes[number] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "adgovernor.app.cli",
                "run",
                "--metrics-port",
                "0",
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )
        return number

    def _log(self, number: int) -> Path:
        return Path(self._folder.name) / f"worker-{number}.log"

    def number_of(self, pid: int) -> int | None:
        """The number of the worker with a process id."""
        return next((n for n, process in self._processes.items() if process.pid == pid), None)

    def pid(self, number: int) -> int:
        """A worker's process id."""
        return self._processes[number].pid

    @property
    def alive(self) -> list[int]:
        """The numbers of those that run."""
        return [n for n, process in self._processes.items() if process.returncode is None]

    async def kill(self, number: int) -> None:
        """Ends a worker by SIGKILL: it has no chance to give its shards back."""
        self._ending.add(number)
        process = self._processes[number]
        process.kill()
        await process.wait()

    async def watch(self) -> None:
        """Never returns.

        Raises:
            WorkerFailed: when a worker ends unasked.
        """
        while True:
            for number, process in self._processes.items():
                if process.returncode is not None and number not in self._ending:
                    raise WorkerFailed(
                        f"worker {number} ended with exit code {process.returncode}; its log ends with\n"
                        f"{self._tail(number)}"
                    )
            await asyncio.sleep(0.2)

    def _tail(self, number: int) -> str:
        return self._log(number).read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace")

    async def stop(self) -> None:
        """Asks all to end, and sees to it.

        Raises:
            WorkerFailed: when one did not end well.
        """
        asked = self.alive
        self._ending.update(asked)
        for number in asked:
            self._processes[number].terminate()
        waits = [asyncio.create_task(self._processes[number].wait()) for number in asked]
        if waits:
            await asyncio.wait(waits, timeout=_STOP_S)
        late = self.alive
        for number in late:
            await self.kill(number)
        for number in asked:
            code = self._processes[number].returncode
            # One that was asked before it listened for signals ended by the signal itself, and held nothing.
            if number in late or code not in (0, -signal.SIGTERM):
                told = f"did not stop within {_STOP_S:g} s" if number in late else f"stopped with code {code}"
                raise WorkerFailed(f"worker {number} {told}; its log ends with\n{self._tail(number)}")
