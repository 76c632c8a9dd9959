"""What the benchmarks of the whole have in common: topics, campaigns, requests encoded beforehand, workers."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import IO, Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.routing import partition_of
from adgovernor.runtime.topics_admin import create_topics

# A topic just made has no leader for a moment, and the client says so many times.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

PARTITIONS = 8
CAMPAIGNS = 50
PEOPLE = 100_000
CANDIDATES = 5
_BATCH_BYTES = 900_000


def addresses() -> tuple[str, str]:
    """Kafka's and Redis's."""
    return os.environ["ADGOVERNOR_TEST_KAFKA"], os.environ["ADGOVERNOR_TEST_REDIS"]


@asynccontextmanager
async def deployment() -> AsyncIterator[str]:
    """The prefix of a fresh deployment of `PARTITIONS` partitions."""
    kafka, _ = addresses()
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    await create_topics(KafkaConnection(kafka), prefix, PARTITIONS)
    yield prefix


def campaigns(now_ms: int) -> dict[int, list[tuple[bytes, bytes]]]:
    """Commands by partition: campaigns that never run dry, with two caps each."""
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for number in range(CAMPAIGNS):
        account = f"account-{number}"
        command = {
            "command": "upsert",
            "command_id": f"define-{number}",
            "account_id": account,
            "time_ms": now_ms,
            "campaign": {
                "campaign_id": f"campaign-{number}",
                "account_id": account,
                "budget_micros": 10**15,
                "price_micros": 1000,
                "caps": [
                    {"scope": "campaign", "window": "rolling", "length_ms": 86_400_000, "limit": 5},
                    {"scope": "creative", "window": "rolling", "length_ms": 3_600_000, "limit": 2},
                ],
            },
        }
        key = account.encode()
        found.setdefault(partition_of(key, PARTITIONS), []).append((key, orjson.dumps(command)))
    return found


def requests(count: int, start_ms: int, per_ms: int, seed: int = 1) -> dict[int, list[tuple[bytes, bytes]]]:
    """So many requests of five candidates by partition, ``per_ms`` of them in each millisecond of event time."""
    rng = random.Random(seed)
    found: dict[int, list[tuple[bytes, bytes]]] = {partition: [] for partition in range(PARTITIONS)}
    for key, value in some_requests(rng, 0, count, start_ms, seed, per_ms):
        found[partition_of(key, PARTITIONS)].append((key, value))
    return found


def some_requests(
    rng: random.Random, first: int, count: int, start_ms: int, seed: int, per_ms: int = 1
) -> Iterator[tuple[bytes, bytes]]:
    """So many requests, numbered from ``first`` on, with their keys."""
    for number in range(count):
        person = f"user-{rng.randrange(PEOPLE):06}"
        request = {
            "request_id": f"{seed}-{first + number:08}",
            "time_ms": start_ms + number // per_ms,
            "user_id": person,
            "placement": "preroll",
            "labels": ["sports"],
            "candidates": [
                {
                    "campaign_id": f"campaign-{rng.randrange(CAMPAIGNS)}",
                    "creative_id": f"creative-{rng.randrange(200)}",
                    "price_micros": 1000 + rng.randrange(500),
                }
                for _ in range(CANDIDATES)
            ],
        }
        yield person.encode(), orjson.dumps(request)


async def publish(topic: str, messages: Mapping[int, list[tuple[bytes, bytes]]]) -> None:
    """Publishes messages by partition, as fast as the broker takes them."""
    producer = AIOKafkaProducer(
        bootstrap_servers=addresses()[0], enable_idempotence=True, max_batch_size=1_000_000
    )
    await producer.start()
    try:
        async with asyncio.TaskGroup() as group:
            for partition, rows in messages.items():
                group.create_task(_publish_partition(producer, topic, partition, rows))
    finally:
        await producer.stop()


async def _publish_partition(
    producer: AIOKafkaProducer, topic: str, partition: int, rows: list[tuple[bytes, bytes]]
) -> None:
    batch, size = producer.create_batch(), 0
    sent: asyncio.Future[Any] | None = None
    for key, value in rows:
        if size + len(value) > _BATCH_BYTES or batch.append(timestamp=None, key=key, value=value) is None:
            sent = await producer.send_batch(batch, topic, partition=partition)
            batch, size = producer.create_batch(), 0
            batch.append(timestamp=None, key=key, value=value)
        size += len(value) + 100
    if batch.record_count():
        sent = await producer.send_batch(batch, topic, partition=partition)
    if sent is not None:
        await sent


class Ends:
    """How many messages a topic has."""

    def __init__(self, topic: str) -> None:
        self._places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        self._consumer = AIOKafkaConsumer(bootstrap_servers=addresses()[0])

    async def __aenter__(self) -> Ends:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def total(self) -> int:
        """The sum over its partitions."""
        return sum((await self._consumer.end_offsets(self._places)).values())


class WorkerProcess:
    """A worker in a process of its own, as `adgovernor run` starts it."""

    def __init__(self, prefix: str, log: IO[bytes]) -> None:
        kafka, redis = addresses()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ADGOVERNOR_")},
            "ADGOVERNOR_PREFIX": prefix,
            "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": kafka,
            "ADGOVERNOR_REDIS__URL": redis,
            "ADGOVERNOR_METRICS_HOST": "127.0.0.1",
            "ADGOVERNOR_METRICS_PORT": str(self.port),
            "ADGOVERNOR_SESSION_TIMEOUT_MS": "120000",
            "ADGOVERNOR_LOG_LEVEL": "warning",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from adgovernor.app.cli import main; main()", "run"],
            env=environment,
            stdout=log,
            stderr=log,
        )

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def get(self, path: str) -> tuple[int, bytes]:
        """What it serves over HTTP."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def shards(self) -> int:
        """How many shards it runs."""
        status, body = self.get("/readyz")
        if status != 200:
            return 0
        return sum(state == "running" for state in orjson.loads(body).get("shards", {}).values())


@contextmanager
def workers(prefix: str, count: int, log: IO[bytes]) -> Any:
    """So many workers, which own all shards when the block begins."""
    running = [WorkerProcess(prefix, log) for _ in range(count)]
    try:
        until = time.monotonic() + 90
        while True:
            owned = [worker.shards() for worker in running]
            if sum(owned) == 2 * PARTITIONS and min(owned) > 0:
                break
            if any(worker.process.poll() is not None for worker in running) or time.monotonic() > until:
                raise RuntimeError(f"the workers did not start: they own {owned} of {2 * PARTITIONS} shards")
            time.sleep(0.1)
        yield running
    finally:
        for worker in running:
            if worker.process.poll() is None:
                worker.signal(signal.SIGCONT)
                worker.signal(signal.SIGTERM)
        for worker in running:
            try:
                worker.process.wait(20)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


async def until(condition: Callable[[], Awaitable[bool]], step_s: float, deadline_s: float) -> None:
    """Looks every ``step_s`` whether a condition holds; raises TimeoutError past the deadline."""
    async with asyncio.timeout(deadline_s):
        while not await condition():  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(step_s)


def topic(prefix: str, name: str) -> str:
    """A topic's full name."""
    return topics.full_name(prefix, name)
