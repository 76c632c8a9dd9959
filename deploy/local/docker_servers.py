"""Kafka and Redis in containers, through testcontainers.

The containers bind the same port inside and outside, so that the address they advertise holds on both sides; the
servers ask nobody for a password, so an engine on this machine publishes their ports on the loopback address alone.
testcontainers is a development dependency and imported only here, inside the functions: these scripts also run
where it is not installed.
"""

from __future__ import annotations

import base64
import functools
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from local_kafka import COMMON_SETTINGS, JVM_OPTIONS, heap_options, internal_replication, kafka_version
from local_redis import NO_DISK, cluster_formed, form_cluster, redis_command
from supervised import ServerFailed, free_ports

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

REDIS_IMAGE = "redis:7"
_READY_TIMEOUT_S = 120
"""Images may have to be pulled first; that is not counted."""
_ANSWER_TIMEOUT_S = 10
_LOOPBACK = ("localhost", "127.0.0.1")


@functools.cache
def no_docker_because() -> str | None:
    """Why no container can be started here, or None when an engine answers."""
    try:
        from docker.errors import DockerException
        from testcontainers.core.docker_client import DockerClient
    except ImportError:
        return "there is no container engine, or no testcontainers to use it with"
    try:
        DockerClient(timeout=_ANSWER_TIMEOUT_S).client.ping()
    except (DockerException, OSError) as error:
        if "Permission denied" in str(error):
            return "you may not use the container engine (on Debian: sudo usermod -aG docker $USER, then log in again)"
        if engine_wanted():
            return f"the container engine does not answer: {error}"
        return "no container engine answers"
    return None


def engine_wanted() -> bool:
    """Whether somebody who sees no container used here will wonder why."""
    return bool(os.environ.get("DOCKER_HOST")) or Path("/var/run/docker.sock").exists()


def kafka_image() -> str:
    """The image of the broker that the local processes run, too."""
    return f"apache/kafka:{kafka_version()}"


def pull(*images: str, kept: bool = False) -> None:
    """See to it that the engine has images, and the one that removes what a killed run leaves behind.

    Raises ServerFailed with what the engine said.
    """
    from docker.errors import DockerException, ImageNotFound
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.docker_client import DockerClient

    engine = DockerClient().client
    names = images if kept else (*images, testcontainers_config.ryuk_image)
    for name in (testcontainers_config.hub_image_name_prefix + name for name in names):
        try:
            engine.images.get(name)
        except ImageNotFound:
            print(f"pulling {name} (once)...", file=sys.stderr, flush=True)
        else:
            continue
        try:
            engine.images.pull(name)
        except (DockerException, OSError) as error:
            raise ServerFailed(f"{name} could not be pulled: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """What the engine said, without the request that it answered."""
    return str(getattr(error, "explanation", None) or error)


def start_kafka_container(heap_mb: int, *, kept: bool) -> tuple[str, DockerContainer]:
    """Start one broker in KRaft mode; its bootstrap address and the container."""
    pull(kafka_image(), kept=kept)
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
    container = _start(kafka_image(), [port], "Kafka Server started", environment=environment, kept=kept)
    return f"{host}:{port}", container


def start_redis_container(*, kept: bool) -> tuple[str, DockerContainer]:
    """Start one Redis; its URL and the container."""
    pull(REDIS_IMAGE, kept=kept)
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--protected-mode", "no", *NO_DISK]
    container = _start(REDIS_IMAGE, [port], "Ready to accept connections", command=command, kept=kept)
    return f"redis://{_host()}:{port}/0", container


def start_redis_cluster_container(masters: int = 3) -> tuple[str, DockerContainer]:
    """Start a Cluster of masters, all in one container, so that 127.0.0.1 means the same inside and outside."""
    if _host() not in _LOOPBACK:
        raise ServerFailed(
            "a Redis Cluster in a container needs an engine on this machine: its nodes name 127.0.0.1"
        )
    pull(REDIS_IMAGE)
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

    host = DockerClient().host()
    return "127.0.0.1" if host in _LOOPBACK else host


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
    bound = {str(port): ("127.0.0.1", port) if _host() in _LOOPBACK else port for port in ports}
    # The engine's client takes an address here, which testcontainers' own method has no room for.
    container.ports.update(cast("dict[str, int | None]", bound))
    container.waiting_for(LogMessageWaitStrategy(ready).with_startup_timeout(_READY_TIMEOUT_S))
    try:
        container.start()
    except BaseException as error:
        container.stop()
        # A time-out and a lost connection are OSErrors, a container that exited is a RuntimeError.
        if isinstance(error, DockerException | OSError | RuntimeError):
            raise ServerFailed(f"a container of {image} could not be started: {_words(error)}") from error
        raise
    return container
