"""The servers that the scripts start: they serve, they fail loudly, and nothing of them outlives whoever asked."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from deployments import plain_environment
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError
from required import required

import servers

pytestmark = pytest.mark.servers

SCRIPT = Path(servers.__file__)
ENDING_S = 15.0
Started = TypeVar("Started", servers.LocalKafka, servers.LocalRedis, servers.LocalSentinel)


@pytest.fixture(autouse=True)
def local_servers() -> None:
    """Install and download what local processes need; skip where that cannot be done and the run does not insist."""
    with required():
        servers.require_local(kafka=True, redis=True)


@contextmanager
def running(started: Started) -> Iterator[Started]:
    """Stop servers at the end of the block."""
    try:
        yield started
    finally:
        started.stop()


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def assert_all_end(pids: Sequence[int], directories: Sequence[str] = ()) -> None:
    """Wait, within a bound, until processes have ended and directories are gone."""
    deadline = time.monotonic() + ENDING_S
    while left := [pid for pid in pids if alive(pid)] + [path for path in directories if Path(path).exists()]:
        assert time.monotonic() < deadline, f"still there after {ENDING_S} s: {left}"
        time.sleep(0.05)


def process_ids(processes: Sequence[servers.Supervised]) -> list[int]:
    """The servers' own processes and their supervisors'."""
    return [pid for process in processes for pid in (process.pid, process.supervisor_pid)]


async def create_topic(bootstrap: str, topic: str, replication: int) -> None:
    """Create a topic of one partition that takes blocks of 8 MB."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        configs = {"max.message.bytes": str(10 * 1024 * 1024)}
        await admin.create_topics([NewTopic(topic, 1, replication, topic_configs=configs)])
    finally:
        await admin.close()


async def append(bootstrap: str, topic: str, value: bytes) -> None:
    """Append one message with every in-sync replica's acknowledgement."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=len(value) + 4096)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def read_first(bootstrap: str, topic: str) -> bytes:
    """Read the first message of a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        value = (await consumer.getone()).value
        assert isinstance(value, bytes)
        return value
    finally:
        await consumer.stop()


@pytest.mark.slow
async def test_a_broker_keeps_a_block_of_eight_megabytes_through_a_crash_and_stopping_leaves_nothing() -> (
    None
):
    """A broker takes 8 MB in one message, has it after SIGKILL and a new start, and is gone when stopped."""
    block = os.urandom(8 * 1024 * 1024)
    with running(servers.start_kafka()) as kafka:
        await create_topic(kafka.bootstrap, "blocks", replication=1)
        await append(kafka.bootstrap, "blocks", block)
        broker = kafka.brokers[0]
        broker.send_signal(signal.SIGKILL)
        broker.wait_dead()
        kafka.start_again(0)
        assert await read_first(kafka.bootstrap, "blocks") == block
        pids = process_ids(kafka.brokers)
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert not broker.directory.exists()


@pytest.mark.slow
async def test_three_brokers_go_on_when_one_is_killed() -> None:
    """A topic of replication 3 takes messages after one of three brokers was killed."""
    with running(servers.start_kafka(3)) as kafka:
        await create_topic(kafka.bootstrap, "replicated", replication=3)
        kafka.brokers[2].send_signal(signal.SIGKILL)
        kafka.brokers[2].wait_dead()
        await append(kafka.bootstrap, "replicated", b"still here")
        assert await read_first(kafka.bootstrap, "replicated") == b"still here"
        pids = process_ids(kafka.brokers)
    assert not any(alive(pid) for pid in pids)


async def test_one_redis_answers_until_it_is_stopped() -> None:
    """A single Redis keeps what is written, refuses to evict, and is gone when stopped."""
    with running(servers.start_redis()) as redis:
        async with Redis.from_url(redis.url) as client:
            await client.set("capped", 3)
            assert await client.get("capped") == b"3"
            assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
        pids = process_ids(redis.processes)
    assert not any(alive(pid) for pid in pids)
    async with Redis.from_url(redis.url) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()


async def test_a_cluster_divides_keys_among_three_masters() -> None:
    """A client that knows one node of the Cluster writes to all three masters."""
    with running(servers.start_redis_cluster()) as redis:
        async with RedisCluster.from_url(redis.url) as client:
            for number in range(60):
                await client.set(f"{{u{number}}}", number)
            assert [await client.get(f"{{u{number}}}") for number in range(60)] == [
                b"%d" % n for n in range(60)
            ]
            assert len(client.get_primaries()) == 3
        for port in redis.ports:
            async with Redis(port=port) as node:
                assert await node.dbsize() > 0


async def test_sentinels_name_the_replica_when_the_master_dies() -> None:
    """After the master was killed, a client of the sentinels writes to what was its replica."""
    with running(servers.start_redis_sentinel()) as trio:
        sentinel = Sentinel(list(trio.sentinels))  # type: ignore[no-untyped-call]
        before = await sentinel.discover_master(trio.master_name)
        trio.master.send_signal(signal.SIGKILL)
        async with asyncio.timeout(30):
            while (after := await master_or_none(sentinel, trio.master_name)) in (None, before):  # noqa: ASYNC110 - set by other processes
                await asyncio.sleep(0.1)
        assert after is not None
        async with Redis(host=after[0], port=after[1]) as client:
            assert await client.set("moved", 1)


async def master_or_none(sentinel: Sentinel, name: str) -> tuple[str, int] | None:
    """The master that the sentinels name, None while they see it down and have not chosen another."""
    try:
        host, port = await sentinel.discover_master(name)
    except MasterNotFoundError:
        return None
    return host, port


def test_a_broker_that_cannot_start_says_why_and_leaves_nothing() -> None:
    """A setting that the broker refuses raises an error with the end of its log, and its directory is deleted."""
    with pytest.raises(
        servers.ServerFailed, match=r"(?s)end of the log of kafka-1.*log\.retention\.hours"
    ) as failure:
        servers.start_kafka(settings={"log.retention.hours": "soon"})
    left = [
        path
        for path in Path("/tmp").glob("adgovernor-kafka-*/server.properties")
        if "soon" in path.read_text()
    ]
    assert left == [], failure.value


STARTER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import servers
started = []
# From a thread that ends at once: servers belong to the process, not to the thread that started them.
thread = threading.Thread(target=lambda: started.extend([servers.start_redis(), servers.start_kafka()]))
thread.start(); thread.join()
processes = [*started[0].processes, *started[1].brokers]
assert all(process.alive() for process in processes)
print(*(f"{p.pid},{p.supervisor_pid},{p.directory}" for p in processes), flush=True)
sys.stdin.read()
"""


def test_a_killed_starter_leaves_no_process_and_no_data() -> None:
    """Servers end, and their directories are deleted, when the process that started them is killed by SIGKILL."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(SCRIPT.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout is not None
        told = [line.split(",") for line in starter.stdout.readline().split()]
        assert len(told) == 2
        pids = [int(pid) for each in told for pid in each[:2]]
        assert all(alive(pid) for pid in pids)
        starter.kill()
    assert_all_end(pids, [directory for _, _, directory in told])


def test_a_killed_supervisor_takes_its_server_along() -> None:
    """A server ends when its supervisor is killed by SIGKILL."""
    with running(servers.start_redis()) as redis:
        os.kill(redis.processes[0].supervisor_pid, signal.SIGKILL)
        assert_all_end([redis.processes[0].pid])


def run_script(*arguments: str) -> subprocess.Popen[str]:
    """Start `servers.py run` with a Redis of its own; the address of Kafka is a given one, which is not started. Where
    there is a container engine, it is not found."""
    given = {servers.KAFKA_VARIABLE: "kafka.example:9092", "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "run", *arguments],
        env={**plain_environment(), **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


REPORT = (
    "import os, sys, urllib.parse; u = urllib.parse.urlsplit(os.environ['ADGOVERNOR_TEST_REDIS']); "
    "print(os.getpid(), u.port, os.environ['ADGOVERNOR_TEST_KAFKA'], flush=True); "
)


def redis_pid(port: str) -> int:
    """The process that serves Redis on a port of this machine."""
    told = servers.redis_command(int(port), "INFO", "server")
    found = re.search(r"process_id:(\d+)", told)
    assert found, f"no Redis on port {port}"
    return int(found[1])


def test_run_hands_on_addresses_and_the_exit_code_and_stops_what_it_started() -> None:
    """The command of `run` finds the addresses in its environment, its exit code is run's, and Redis is gone after."""
    with run_script("--", sys.executable, "-c", REPORT + "sys.exit(7)") as run:
        output, messages = run.communicate(timeout=60)
        _, port, kafka = output.split()
    assert run.returncode == 7, messages
    assert messages.startswith("no containers: the container engine does not answer: "), messages
    assert kafka == "kafka.example:9092"
    assert servers.redis_command(int(port), "PING") == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_run_ends_the_command_and_the_servers(number: signal.Signals) -> None:
    """SIGINT, SIGTERM or SIGKILL to `run` ends its command and its servers."""
    with run_script("--", sys.executable, "-c", REPORT + "import time; time.sleep(600)") as run:
        assert run.stdout is not None
        command, port, _ = run.stdout.readline().split()
        redis = redis_pid(port)
        assert alive(int(command))
        run.send_signal(number)
        run.wait(ENDING_S)
        assert_all_end([int(command), redis])
    assert run.returncode != 0


def test_keep_leaves_the_servers_and_prints_the_command_that_stops_them() -> None:
    """With `--keep` Redis goes on after the run, and the printed command ends it and deletes its data."""
    with run_script("--keep", "--", sys.executable, "-c", REPORT) as run:
        output, messages = run.communicate(timeout=60)
    redis = redis_pid(output.split()[1])
    directory = servers.redis_command(int(output.split()[1]), "CONFIG", "GET", "dir").split("\r\n")[4]
    assert Path(directory).exists()
    command = messages.rstrip().rpartition("\n")[2].strip()
    assert re.fullmatch(r"kill \d+", command)
    subprocess.run(command, shell=True, check=True)
    assert_all_end([redis], [directory])


def test_who_may_not_install_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-server and without root's rights the error names the command that installs it."""
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(servers.ServersUnavailable, match="sudo apt-get install redis-server"):
        servers.require_local(redis=True)
