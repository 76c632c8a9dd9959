"""Redis as local processes: one server, a Cluster of masters, or a master with a replica and three sentinels."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from supervised import PortTaken, ServerFailed, Supervised, free_ports

_READY_TIMEOUT_S = 30.0
_PORT_ATTEMPTS = 3
_SLOTS = 16384
SERVER_BINARIES = ("redis-server", "valkey-server")
SENTINEL_MASTER = "adgovernor"
NO_DISK = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")
"""The ledger is the truth, so no server of tests or demo writes to disk; eviction would lose state silently."""

_Started = TypeVar("_Started")


def find_redis() -> str | None:
    """The path of redis-server or valkey-server, or None."""
    return next((path for name in SERVER_BINARIES if (path := shutil.which(name))), None)


@dataclass(frozen=True, slots=True)
class LocalRedis:
    """Running Redis processes; `url` is that of the single server, of the Cluster's first node or of the master."""

    url: str
    processes: tuple[Supervised, ...]
    ports: tuple[int, ...]

    def stop(self) -> None:
        """Kill all processes and delete their directories."""
        for process in self.processes:
            process.stop()


@dataclass(frozen=True, slots=True)
class LocalSentinel:
    """A master, a replica and three sentinels that watch them under the name `master_name`."""

    sentinels: tuple[tuple[str, int], ...]
    master_name: str
    master: Supervised
    replica: Supervised
    ports: tuple[int, int]
    """Of the master and of the replica."""
    processes: tuple[Supervised, ...]

    def stop(self) -> None:
        """Kill all processes and delete their directories."""
        for process in self.processes:
            process.stop()


def start_redis(*, settings: Sequence[str] = (), kept: bool = False) -> LocalRedis:
    """Start one server on a free port; `settings` are further arguments of redis-server. Raises ServerFailed."""

    def start(started: list[Supervised]) -> LocalRedis:
        (port,) = free_ports(1)
        started.append(_start_node("redis", port, settings, kept=kept))
        return LocalRedis(f"redis://127.0.0.1:{port}/0", tuple(started), (port,))

    return _with_other_ports(start)


def start_redis_cluster(
    masters: int = 3, *, replicated: bool = False, tls: Path | None = None, kept: bool = False
) -> LocalRedis:
    """Start a Cluster and wait until every node says that all slots are served.

    `replicated`: each master has one replica, in the same order behind all masters, which knows all that it knows.
    `tls`: a folder with `ca.pem`, `server.pem` and `server.key`. The nodes then speak TLS with each other, and `url` is
    of the first one's TLS port; `ports` remain without.
    """

    def start(started: list[Supervised]) -> LocalRedis:
        nodes = 2 * masters if replicated else masters
        chosen = free_ports(3 * nodes)
        ports, bus_ports, secure = chosen[:nodes], chosen[nodes : 2 * nodes], chosen[2 * nodes :]
        for port, bus_port, tls_port in zip(ports, bus_ports, secure, strict=True):
            settings = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(bus_port),
                "--cluster-node-timeout",
                "2000",
                "--repl-diskless-sync-delay",
                "0",
                *(_words(_tls_settings(tls, tls_port)) if tls is not None else ()),
            ]
            started.append(_start_node(f"redis-cluster-{port}", port, settings, kept=kept))
        form_cluster(ports, bus_ports, masters)
        for process, port in zip(started, ports, strict=True):
            process.wait_ready(partial(cluster_formed, port, nodes), _READY_TIMEOUT_S)
        for process, port, master in zip(started[masters:], ports[masters:], ports, strict=False):
            _expect(port, "OK", "CLUSTER", "REPLICATE", _node_id(master))
            process.wait_ready(partial(_replicates, port), _READY_TIMEOUT_S)
        url = f"redis://127.0.0.1:{ports[0]}/0" if tls is None else f"rediss://127.0.0.1:{secure[0]}/0"
        return LocalRedis(url, tuple(started), tuple(ports))

    return _with_other_ports(start)


def form_cluster(ports: Sequence[int], bus_ports: Sequence[int], masters: int | None = None) -> None:
    """Divide the slots among the first `masters` (left out: all) of these empty nodes on 127.0.0.1, and have the others
    meet the first one."""
    owners = ports[:masters]
    bounds = [_SLOTS * n // len(owners) for n in range(len(owners) + 1)]
    for n, port in enumerate(owners):
        _expect(port, "OK", "CLUSTER", "ADDSLOTSRANGE", str(bounds[n]), str(bounds[n + 1] - 1))
        _expect(port, "OK", "CLUSTER", "SET-CONFIG-EPOCH", str(n + 1))
    for port in ports[1:]:
        _expect(port, "OK", "CLUSTER", "MEET", "127.0.0.1", str(ports[0]), str(bus_ports[0]))


def cluster_formed(port: int, nodes: int) -> bool:
    """Whether this node knows that many nodes and sees all slots served."""
    told = redis_command(port, "CLUSTER", "INFO")
    return "cluster_state:ok" in told and f"cluster_known_nodes:{nodes}" in told


def start_redis_sentinel(*, tls: Path | None = None) -> LocalSentinel:
    """Start a master, a replica and three sentinels (quorum 2, a silent second counts as down), all knowing all.

    `tls`: a folder with `ca.pem`, `server.pem` and `server.key`. All then speak TLS with each other and name each
    other's TLS ports; `sentinels` are those, and `ports` remain without.
    """

    def start(started: list[Supervised]) -> LocalSentinel:
        plain = free_ports(5 if tls is None else 10)
        plain, secure = plain[:5], plain[5:]
        master_port, replica_port, *sentinel_ports = plain
        named = secure or plain
        settings = [_tls_settings(tls, port) for port in secure] if tls is not None else [{}] * 5
        started.append(
            _start_node(
                "redis-master", master_port, ("--repl-diskless-sync-delay", "0", *_words(settings[0]))
            )
        )
        started.append(
            _start_node(
                "redis-replica",
                replica_port,
                ("--replicaof", "127.0.0.1", str(named[0]), *_words(settings[1])),
            )
        )
        started[1].wait_ready(partial(_replicates, replica_port), _READY_TIMEOUT_S)
        for port, own in zip(sentinel_ports, settings[2:], strict=True):
            # One by one: when a start fails, those before it are in the list and are stopped.
            started.append(_start_sentinel(port, named[0], own))
        known = {"num-slaves": "1", "num-other-sentinels": str(len(sentinel_ports) - 1)}
        for process, port in zip(started[2:], sentinel_ports, strict=True):
            process.wait_ready(partial(_sentinel_knows, port, known), _READY_TIMEOUT_S)
        sentinels = tuple(("127.0.0.1", port) for port in named[2:])
        return LocalSentinel(
            sentinels, SENTINEL_MASTER, started[0], started[1], (master_port, replica_port), tuple(started)
        )

    return _with_other_ports(start)


def _tls_settings(folder: Path, port: int) -> dict[str, str]:
    """What has a server speak TLS on this port, and with its like. Clients need no certificate."""
    return {
        "tls-port": str(port),
        "tls-cert-file": str(folder / "server.pem"),
        "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(folder / "ca.pem"),
        "tls-auth-clients": "no",
        "tls-replication": "yes",
        "tls-cluster": "yes",
    }


def _words(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def _with_other_ports(start: Callable[[list[Supervised]], _Started]) -> _Started:
    """Run `start`, again with other ports when somebody took one; what a failed try had started is stopped."""
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        started: list[Supervised] = []
        try:
            return start(started)
        except BaseException as error:
            for process in started:
                process.stop()
            if not isinstance(error, PortTaken) or attempt == _PORT_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _start_node(name: str, port: int, settings: Sequence[str], *, kept: bool = False) -> Supervised:
    directory = Path(tempfile.mkdtemp(prefix=f"adgovernor-{name}-"))
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), *NO_DISK, *settings]
    return _start_process(name, port, directory, arguments, kept)


def _start_sentinel(port: int, master_port: int, settings: Mapping[str, str]) -> Supervised:
    directory = Path(tempfile.mkdtemp(prefix="adgovernor-redis-sentinel-"))
    # A sentinel rewrites its configuration, so it insists on a file.
    configuration = directory / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        + "".join(f"{name} {value}\n" for name, value in settings.items() if name != "tls-cluster")
        + f"sentinel monitor {SENTINEL_MASTER} 127.0.0.1 {master_port} 2\n"
        f"sentinel down-after-milliseconds {SENTINEL_MASTER} 1000\n"
        f"sentinel failover-timeout {SENTINEL_MASTER} 5000\n"
    )
    return _start_process(
        f"redis-sentinel-{port}", port, directory, [str(configuration), "--sentinel"], kept=False
    )


def _start_process(name: str, port: int, directory: Path, arguments: Sequence[str], kept: bool) -> Supervised:
    binary = find_redis()
    if binary is None:
        raise ServerFailed(f"there is no {' or '.join(SERVER_BINARIES)} on the path")
    process = Supervised(name, [binary, *arguments], directory, kept=kept)
    try:
        process.start()
        process.wait_ready(lambda: redis_command(port, "PING").startswith("+PONG"), _READY_TIMEOUT_S)
    except BaseException:
        process.stop()
        raise
    return process


def _replicates(port: int) -> bool:
    """Whether a replica has all that its master has, and is told of what comes."""
    return "master_link_status:up" in redis_command(port, "INFO", "replication")


def _node_id(port: int) -> str:
    """The id of a Cluster's node, the last line of its answer."""
    return redis_command(port, "CLUSTER", "MYID").split()[-1]


def _sentinel_knows(port: int, fields: Mapping[str, str]) -> bool:
    """Whether a sentinel says this of the master (its answer is a flat list of names and values)."""
    lines = redis_command(port, "SENTINEL", "MASTER", SENTINEL_MASTER).split("\r\n")
    told = [line for line in lines if line and line[0] not in "*$"]
    return fields.items() <= dict(zip(told[::2], told[1::2], strict=False)).items()


def _expect(port: int, answer: str, *command: str) -> None:
    told = redis_command(port, *command)
    if answer not in told:
        raise ServerFailed(f"Redis on port {port} answered {' '.join(command)} with {told!r}")


def redis_command(port: int, *command: str) -> str:
    """Send one inline command to a server on 127.0.0.1; its raw answer, or nothing while it does not listen.

    This is enough for set-up and spares these scripts, which run before anything is installed, a client.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            connection.sendall(" ".join(command).encode() + b"\r\n")
            # The server answers what it has read and then sees the end; sentinels know no QUIT.
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
    except OSError:
        return ""
    return b"".join(parts).decode(errors="replace")
