"""Kafka and Redis in containers, through testcontainers.

The containers bind the same port inside and outside, so that the address they advertise holds on both sides.
testcontainers is a development dependency and imported only here, inside the functions: these scripts also run
where it is not installed.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from local_kafka import COMMON_SETTINGS, JVM_OPTIONS, heap_options, internal_replication, kafka_version
from local_redis import NO_DISK, cluster_formed, form_cluster, redis_command
from supervised import ServerFailed, free_ports

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

REDIS_IMAGE = "redis:7"
_READY_TIMEOUT_S = 120
"""Images may have to be pulled first; that is not counted."""


def no_docker_because() -> str | None:
    """Why no container can be started here, or None when an engine answers."""
    try:
        from docker.errors import DockerException
        from testcontainers.core.docker_client import DockerClient
    except ImportError:
        return "there is no container engine, or no testcontainers to use it with"
    try:
        DockerClient().client.ping()
    except DockerException:
        return "no container engine answers"
    return None


def start_kafka_container(heap_mb: int, *, kept: bool) -> tuple[str, DockerContainer]:
    """Start one broker in KRaft mode; its bootstrap address and the container."""
    (port,) = free_ports(1)
    host = _host()
    settings = {
        **COMMON_SETTINGS,
        **internal_replication(1),
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://0.0.0.0:9093",
        "advertised.listeners": f"PLAINTEXT://{host}:{port}",
    }
    environment = {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in settings.items()}
    environment["KAFKA_HEAP_OPTS"] = " ".join(heap_options(heap_mb))
    environment["KAFKA_JVM_PERFORMANCE_OPTS"] = " ".join(JVM_OPTIONS)
    environment["CLUSTER_ID"] = (
        base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
    )
    image = f"apache/kafka:{kafka_version()}"
    return f"{host}:{port}", _start(image, [port], "Kafka Server started", environment=environment, kept=kept)


def start_redis_container(*, kept: bool) -> tuple[str, DockerContainer]:
    """Start one Redis; its URL and the container."""
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--protected-mode", "no", *NO_DISK]
    container = _start(REDIS_IMAGE, [port], "Ready to accept connections", command=command, kept=kept)
    return f"redis://{_host()}:{port}/0", container


def start_redis_cluster_container(masters: int = 3) -> tuple[str, DockerContainer]:
    """Start a Cluster of masters, all in one container, so that 127.0.0.1 means the same inside and outside."""
    if _host() not in ("localhost", "127.0.0.1"):
        raise ServerFailed(
            "a Redis Cluster in a container needs an engine on this machine: its nodes name 127.0.0.1"
        )
    chosen = free_ports(2 * masters)
    ports, bus_ports = chosen[:masters], chosen[masters:]
    nodes = [
        f"redis-server --port {port} --cluster-enabled yes --cluster-port {bus_port} --cluster-node-timeout 2000"
        f" --cluster-config-file nodes-{port}.conf --protected-mode no --save '' --maxmemory-policy noeviction &"
        for port, bus_port in zip(ports, bus_ports, strict=True)
    ]
    container = _start(
        REDIS_IMAGE, ports, "Ready to accept connections", command=["sh", "-c", " ".join([*nodes, "wait"])]
    )
    try:
        _wait_until(lambda: all(redis_command(port, "PING").startswith("+PONG") for port in ports))
        form_cluster(ports, bus_ports)
        _wait_until(lambda: all(cluster_formed(port, masters) for port in ports))
    except BaseException:
        container.stop()
        raise
    return f"redis://127.0.0.1:{ports[0]}/0", container


def _wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not ready():
        if time.monotonic() > deadline:
            raise ServerFailed(f"the Redis Cluster's container was not ready after {_READY_TIMEOUT_S} s")
        time.sleep(0.1)


def _host() -> str:
    """The host under which the engine's bound ports are reached from here."""
    from testcontainers.core.docker_client import DockerClient

    return DockerClient().host()


def _start(
    image: str,
    ports: Sequence[int],
    ready: str,
    *,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    kept: bool = False,
) -> DockerContainer:
    """Start a container and wait for a line of its log; raises ServerFailed with what the engine said."""
    from docker.errors import DockerException
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    if kept:
        # The reaper removes containers when this process ends, which is what --keep must not have.
        testcontainers_config.ryuk_disabled = True
    container = DockerContainer(image)
    if command:
        container.with_command(list(command))
    container.with_envs(**(environment or {}))
    for port in ports:
        container.with_bind_ports(port, port)
    container.waiting_for(LogMessageWaitStrategy(ready).with_startup_timeout(_READY_TIMEOUT_S))
    try:
        container.start()
    except BaseException as error:
        container.stop()
        # A time-out and a lost connection are OSErrors, a container that exited is a RuntimeError.
        if isinstance(error, DockerException | OSError | RuntimeError):
            raise ServerFailed(f"a container of {image} could not be started: {error}") from error
        raise
    return container
