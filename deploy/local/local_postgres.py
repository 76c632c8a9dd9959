"""PostgreSQL as a local process, for the tests of library mode's database backend."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from supervised import ServerFailed, Supervised, free_ports

_READY_TIMEOUT_S = 30.0
_INITDB_TIMEOUT_S = 120.0
_DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian puts each version's programs; they are not on the path."""
_USER = "adgovernor"


@dataclass(frozen=True, slots=True)
class LocalPostgres:
    """A running PostgreSQL; `url` is SQLAlchemy's, for asyncpg."""

    url: str
    process: Supervised

    def stop(self) -> None:
        """Kill the process and delete its directory."""
        self.process.stop()


def find_postgres() -> Path | None:
    """The folder of initdb and postgres, or None."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(_DEBIAN.glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)
    needed = ("initdb", "postgres")
    return next((found for found in folders if all((found / name).exists() for name in needed)), None)


def start_postgres() -> LocalPostgres:
    """Start a server on a free port, with an empty database that anybody on this machine may use. As root it runs
    as another user, because PostgreSQL refuses to be root's. Raises ServerFailed."""
    programs = find_postgres()
    if programs is None:
        raise ServerFailed("there are no initdb and postgres on the path or under /usr/lib/postgresql")
    directory = Path(tempfile.mkdtemp(prefix="adgovernor-postgres-"))
    data = directory / "data"
    as_user: list[str] = []
    if os.geteuid() == 0:
        user = _unprivileged()
        os.chown(directory, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    make = [str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C"]
    made = subprocess.run(
        [*as_user, *make, "--no-sync"], cwd=directory, capture_output=True, text=True, timeout=_INITDB_TIMEOUT_S,
        check=False,
    )  # fmt: skip
    if made.returncode != 0:
        shutil.rmtree(directory, ignore_errors=True)
        raise ServerFailed(f"initdb failed:\n{(made.stdout + made.stderr)[-2000:]}")
    (port,) = free_ports(1)
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "60",
    }
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    process = Supervised(
        "postgres",
        [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port), *arguments],
        directory,
    )
    try:
        process.start()
        process.wait_ready(
            lambda: _listens(port) and "ready to accept connections" in process.output(), _READY_TIMEOUT_S
        )
    except BaseException:
        process.stop()
        raise
    return LocalPostgres(f"postgresql+asyncpg://{_USER}@127.0.0.1:{port}/postgres", process)


def _unprivileged() -> pwd.struct_passwd:
    """The packages' own user where there is one."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
