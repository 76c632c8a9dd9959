"""Servers in containers: they serve this machine alone, and nothing of them outlives whoever asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from deployments import plain_environment, until
from redis.asyncio import Redis, RedisCluster

import docker_servers
import servers

pytestmark = pytest.mark.servers

SCRIPT = Path(servers.__file__)


@pytest.fixture(autouse=True)
def engine() -> Any:
    """A client of the engine, which has the images; skips where there is none, or none can be had."""
    if reason := docker_servers.no_docker_because():
        pytest.skip(reason)
    try:
        docker_servers.pull(docker_servers.kafka_image(), docker_servers.REDIS_IMAGE)
    except servers.ServerFailed as error:
        pytest.skip(str(error))
    from testcontainers.core.docker_client import DockerClient

    if DockerClient().host() != "localhost":
        pytest.skip("the engine is on another machine")
    return DockerClient().client


@contextmanager
def running(server: servers.Server) -> Iterator[str]:
    """The address of a server that is stopped at the end of the block."""
    try:
        assert server.source == "container"
        yield server.address
    finally:
        server.stop()


def behind(engine: Any, port: int | str) -> Any:
    """The container that serves a port of this machine."""
    (found,) = engine.containers.list(filters={"publish": str(port)})
    return found


def volumes(container: Any) -> set[str]:
    """The volumes that a container brought."""
    return {mount["Name"] for mount in container.attrs["Mounts"] if mount["Type"] == "volume"}


def left(engine: Any, ids: Sequence[str], names: set[str]) -> set[str]:
    """Which containers and volumes are still there."""
    there = {one.id for one in engine.containers.list(all=True)} & set(ids)
    return there | ({one.name for one in engine.volumes.list()} & names)


async def test_a_broker_in_a_container_keeps_blocks_and_is_reached_from_here_alone(engine: Any) -> None:
    """A broker takes a message of 8 MB and gives it back, listens for this machine only, and leaves nothing."""
    block = os.urandom(8 * 1024 * 1024)
    with running(servers.obtain_kafka(variables=())) as bootstrap:
        container = behind(engine, bootstrap.rpartition(":")[2])
        published = [each for ports in container.ports.values() for each in ports or []]
        assert {each["HostIp"] for each in published} == {"127.0.0.1"}
        brought = volumes(container)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic("blocks", 1, 1, topic_configs={"max.message.bytes": "10485760"})])
        await admin.close()
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", max_request_size=len(block) + 4096
        )
        consumer = AIOKafkaConsumer("blocks", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        async with producer, consumer:
            await producer.send_and_wait("blocks", block, partition=0)
            assert (await consumer.getone()).value == block
    assert not left(engine, [container.id], brought)


async def test_a_redis_in_a_container_evicts_nothing_and_is_reached_from_here_alone(engine: Any) -> None:
    """A Redis answers, refuses to evict, listens for this machine only, and leaves nothing."""
    with running(servers.obtain_redis(variables=())) as url:
        async with Redis.from_url(url) as client:
            assert await client.set("capped", 3)
            assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
            container = behind(engine, client.connection_pool.connection_kwargs["port"])
        published = [each for ports in container.ports.values() for each in ports or []]
        assert {each["HostIp"] for each in published} == {"127.0.0.1"}
        brought = volumes(container)
    assert not left(engine, [container.id], brought)


async def test_a_cluster_in_a_container_divides_keys_among_three_masters() -> None:
    """A client that knows one node of the Cluster writes to all three masters."""
    with running(docker_cluster()) as url:
        async with RedisCluster.from_url(url) as client:
            for number in range(60):
                await client.set(f"{{u{number}}}", number)
            assert [await client.get(f"{{u{number}}}") for number in range(60)] == [
                b"%d" % n for n in range(60)
            ]
            assert len(client.get_primaries()) == 3


def docker_cluster() -> servers.Server:
    """A Cluster of the test's own, also where the environment names another."""
    url, container = docker_servers.start_redis_cluster_container()
    return servers.Server(url, "container", container.stop)


REPORT = (
    "import os, sys; print(os.environ['ADGOVERNOR_TEST_REDIS'].split(':')[2].split('/')[0], flush=True); "
)


def run_script(*arguments: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `servers.py run` with a Redis of its own; the address of Kafka is a given one, which is not started."""
    given = {servers.KAFKA_VARIABLE: "kafka.example:9092", **(variables or {})}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "run", *arguments],
        env=plain_environment() | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_run_removes_the_containers(engine: Any, number: signal.Signals) -> None:
    """SIGINT, SIGTERM or SIGKILL to `run` ends its containers; after SIGKILL the reaper does that, in 10 s."""
    with run_script("--", sys.executable, "-c", REPORT + "import time; time.sleep(600)") as run:
        assert run.stdout is not None
        container = behind(engine, run.stdout.readline().strip())
        brought = volumes(container)
        run.send_signal(number)
        run.wait(60)
    assert run.returncode != 0
    until(lambda: not left(engine, [container.id], brought), "the end of the container")


def test_keep_leaves_the_container_and_prints_the_command_that_removes_it(engine: Any) -> None:
    """With `--keep` Redis goes on after the run, and the printed command removes it and its data."""
    with run_script("--keep", "--", sys.executable, "-c", REPORT) as run:
        output, messages = run.communicate(timeout=120)
    container = behind(engine, output.strip())
    try:
        brought = volumes(container)
        command = messages.rstrip().rpartition("\n")[2].split()
        assert command == ["docker", "rm", "--force", "--volumes", container.short_id]
    finally:
        container.remove(force=True, v="--volumes" in messages)
    assert not left(engine, [container.id], brought)


def test_an_image_that_cannot_be_pulled_is_named_and_a_local_process_serves(engine: Any) -> None:
    """Where a registry gives nothing, `run` says which image it wanted and why, and goes on without containers."""
    servers.require_local(redis=True)
    nowhere = {"TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX": "127.0.0.1:1/"}
    with run_script("--", sys.executable, "-c", REPORT, variables=nowhere) as run:
        output, messages = run.communicate(timeout=120)
    assert run.returncode == 0, messages
    assert re.search(r"Redis: 127\.0\.0\.1:1/redis:7 could not be pulled: .*connection refused", messages)
    assert "(local process)" in messages
    assert not engine.containers.list(filters={"publish": output.strip()})
