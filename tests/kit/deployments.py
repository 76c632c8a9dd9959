"""A deployment as a person uses it: commands with their exit codes, and the processes that work for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from forked import run_program

PROGRAM: Final = "adgovernor.app.cli"
PATIENCE_S: Final = 60.0
"""How long anything is waited for."""

T = TypeVar("T")


def plain_environment() -> dict[str, str]:
    """This process's, without settings of a person's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ADGOVERNOR_")}


def until(ready: Callable[[], T | None], what: str) -> T:
    """Asks again until there is an answer, within a bound."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := ready()):
        assert time.monotonic() < deadline, f"{what} did not come about within {PATIENCE_S:g} s"
        time.sleep(0.2)
    return answer


class Deployment:
    """One prefix on some servers. ``settings`` are named as in the environment, less ``ADGOVERNOR_``."""

    def __init__(self, prefix: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.prefix = prefix
        self.folder = folder
        self.environment = plain_environment() | {
            "ADGOVERNOR_PREFIX": prefix,
            "ADGOVERNOR_METRICS_HOST": "127.0.0.1",
            "ADGOVERNOR_METRICS_PORT": "0",
            "PYTHONUNBUFFERED": "1",
            **{f"ADGOVERNOR_{name}": value for name, value in settings.items()},
        }

    @property
    def kafka(self) -> str:
        """The broker's address."""
        return self.environment["ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS"]

    @property
    def redis(self) -> str:
        """The store's address."""
        return self.environment["ADGOVERNOR_REDIS__URL"]

    def said(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """A command's exit code, standard output and standard error."""
        done = run_program(PROGRAM, arguments, environment=self.environment, folder=self.folder, stdin=stdin)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def run(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """A command's standard output; it must end with this code."""
        found, out, error = self.said(*arguments, stdin=stdin)
        assert found == code, (arguments, found, out, error, self.logs())
        return out

    def json(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> Any:
        """A command's JSON document."""
        return json.loads(self.run(*arguments, "--json", code=code, stdin=stdin))

    def lines(self, *arguments: str, code: int = 0) -> list[Any]:
        """A command's JSON lines."""
        return [json.loads(line) for line in self.run(*arguments, code=code).splitlines()]

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of a command that runs on; what it says is `log` of its name."""
        with (self.folder / f"{name}.log").open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", PROGRAM, *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=file,
                stderr=file,
            )

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.folder / f"{name}.log").read_text()

    def logs(self) -> str:
        """What all processes said last."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    @contextmanager
    def process(
        self, name: str, *arguments: str, starts: str
    ) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        """A process, and the address of its metrics, once it has said that it ``starts``. It must end well when it is
        told to."""
        process = self.start(name, *arguments)

        def address() -> str | None:
            assert process.poll() is None, self.log(name)
            said = next((line for line in self.log(name).splitlines() if starts in line), None)
            return None if said is None else f"http://127.0.0.1:{json.loads(said)['metrics_port']}"

        try:
            yield process, str(until(address, f"the start of {name}"))
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(40) == 0, self.log(name)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)
