"""A server process that cannot outlive whoever started it.

Each server runs under a small supervisor (this file, run as a script). The supervisor holds the read end of a pipe
whose write end only the starter has, so the end of the starter, by whatever signal, closes the pipe; the supervisor
then kills the server and deletes its directory. The server in turn asks the kernel for a SIGKILL when its supervisor
dies. A kept server's supervisor ignores the pipe and ends on SIGTERM.

A process group is not enough (SIGKILL of the starter reaches nobody else), nor is a parent-death signal alone (the
kernel sends it when the starting *thread* ends, and fixtures may start servers from threads).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_STOP_TIMEOUT_S = 15.0
"""How long a SIGKILLed server and the removal of its directory may take before that is an error."""


class ServerFailed(RuntimeError):
    """A server could not be started or did not get ready in time; the message ends with the tail of its log."""


class PortTaken(ServerFailed):
    """Somebody else took a port between its choice and its use; starting again with other ports mends it."""


class Supervised:
    """One server process in a directory of its own, with its output in a log file beside its data."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, *, kept: bool = False) -> None:
        """Describe a server; `directory` is deleted when it is stopped, `kept` lets it outlive this process."""
        self.name = name
        self.directory = directory
        self.log = directory / f"{name}.log"
        self._command = list(command)
        self._kept = kept
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.pid = 0

    @property
    def supervisor_pid(self) -> int:
        """The process to send SIGTERM to, to stop a kept server and delete its data; 0 before the first start."""
        return self._supervisor.pid if self._supervisor else 0

    def start(self) -> None:
        """Start the process (again, on the same data, after it died); `pid` is then the server's own."""
        if self.alive():
            raise ServerFailed(f"{self.name} is already running as process {self.pid}")
        self._reap()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *(["--kept"] if self._kept else []), "--directory",
             str(self.directory), "--log", str(self.log), "--", *self._command],
            stdin=subprocess.DEVNULL if self._kept else subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A kept server must not hold open a pipe that this process's messages go to.
            stderr=subprocess.DEVNULL if self._kept else None,
            # A new session keeps a terminal's Ctrl-C away: servers stop after their users, not with them.
            start_new_session=True,
        )  # fmt: skip
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as line:
            answer = line.read()
        if not answer.strip():
            self._supervisor.wait(_STOP_TIMEOUT_S)
            raise ServerFailed(f"{self.name} could not be started as {self._command[0]}\n{self.log_tail()}")
        self.pid = int(answer)

    def alive(self) -> bool:
        """Whether the server runs; a process stopped by SIGSTOP counts as running."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the server itself, for tests of failures (SIGKILL, SIGSTOP, SIGCONT, SIGTERM)."""
        if self.alive():
            os.kill(self.pid, number)

    def wait_dead(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Wait until the server has ended after a signal; raises ServerFailed when it does not."""
        if self._supervisor is None:
            return
        try:
            self._supervisor.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"{self.name} (process {self.pid}) did not end in {timeout_s} s") from None

    def stop(self) -> None:
        """Kill the server and delete its directory; its data is not meant to be used again."""
        if self._supervisor is not None:
            if self.alive():
                self._supervisor.terminate()
            self.wait_dead()
            self._reap()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _reap(self) -> None:
        if self._supervisor is not None and self._supervisor.stdin is not None:
            self._supervisor.stdin.close()

    def output(self) -> str:
        """What the server has logged since its last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as stream:
            stream.seek(self._log_start)
            return stream.read().decode(errors="replace")

    def log_tail(self, lines: int = 25) -> str:
        """The end of the log, for an error message."""
        tail = self.output().splitlines()[-lines:]
        return "\n".join([f"--- the end of the log of {self.name}:", *tail]) if tail else "(its log is empty)"

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready()`; raises PortTaken or ServerFailed when the server dies or is not ready in time."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive():
                output = self.output()
                taken = "Address already in use" in output or "BindException" in output
                raise (PortTaken if taken else ServerFailed)(f"{self.name} ended at start\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} was not ready after {timeout_s:.0f} s\n{self.log_tail()}")
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on now; somebody may before they are used (see PortTaken)."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def die_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that has the kernel send this signal when the starting thread ends (Linux; nothing elsewhere)."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        set_parent_death_signal = 1
        prctl(set_parent_death_signal, int(number))
        if os.getppid() != parent:  # The parent died before the kernel was asked.
            os._exit(1)

    return ask


def _supervise(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    with options.log.open("ab") as log:
        try:
            child = subprocess.Popen(
                options.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=options.directory,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )  # fmt: skip
        except OSError as error:
            log.write(f"{error}\n".encode())
            return 1

    def stop(*_: object) -> None:
        stopping.set()
        child.kill()

    def stop_at_end_of_input() -> None:
        sys.stdin.buffer.read()
        stop()

    signal.signal(signal.SIGTERM, stop)
    if not options.kept:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    os.write(1, f"{child.pid}\n".encode())
    os.close(1)
    code = child.wait()
    if stopping.is_set():
        shutil.rmtree(options.directory, ignore_errors=True)
    # A server that died by itself leaves its data and its log for whoever starts it again or looks into it.
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # The daemon thread may hold the lock of standard input; a plain exit would wait for it and abort.
    os._exit(_supervise(sys.argv[1:]))
