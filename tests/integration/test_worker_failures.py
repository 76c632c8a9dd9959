"""Workers on a real broker and a real Redis: killed, stopped and continued, told to stop, and Redis emptied."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from redis.asyncio import Redis

import servers
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.contracts.routing import partition_of
from adgovernor.publish.kafka import start_producer
from adgovernor.runtime.chain import Walk
from adgovernor.runtime.kafka_log import KafkaLogOptions, KafkaShardLog
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.outputs import outputs_of
from adgovernor.runtime.topics_admin import create_topics

PARTITIONS = 2
SCRIPT = Path(__file__).with_name("worker_process.py")

pytestmark = pytest.mark.timeout(240)


class Site:
    """A deployment with its topics, and processes that work on it."""

    def __init__(self, bootstrap: str, redis_url: str, prefix: str) -> None:
        self.connection = KafkaConnection(bootstrap)
        self.redis_url = redis_url
        self.prefix = prefix
        self.readers = KafkaReaders(self.connection)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sent: dict[tuple[str, int], int] = {}
        self._environment = {
            **os.environ,
            "ADGOVERNOR_TEST_KAFKA": bootstrap,
            "ADGOVERNOR_TEST_REDIS": redis_url,
        }

    def start(self, group: str = "") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), self.prefix, str(PARTITIONS)],
            env={**self._environment, "WORKER_GROUP": group},
            stdout=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    async def publish(self, topic: str, values: list[tuple[str, dict[str, Any] | bytes]]) -> None:
        producer = await start_producer(self.connection, 20)
        for key, value in values:
            raw = value if isinstance(value, bytes) else orjson.dumps(value)
            partition = partition_of(key.encode(), PARTITIONS)
            await producer.send(f"{self.prefix}.{topic}", value=raw, key=key.encode(), partition=partition)
            self.sent[topic, partition] = self.sent.get((topic, partition), 0) + 1
        await producer.stop()

    async def define(self, campaign: str, budget: int, **more: Any) -> None:
        body = {
            "campaign_id": campaign,
            "account_id": "a1",
            "budget_micros": budget,
            "price_micros": 1000,
            **more,
        }
        command = {
            "command": "upsert",
            "account_id": "a1",
            "command_id": f"define-{campaign}",
            "time_ms": now_ms(),
            "campaign": body,
        }
        await self.publish(topics.CAMPAIGNS, [("a1", command)])

    async def requests(self, first: int, count: int) -> None:
        rng = random.Random(first)
        values: list[tuple[str, dict[str, Any] | bytes]] = []
        for n in range(first, first + count):
            user = f"user{rng.randrange(400)}"
            values.append((user, {
                "request_id": f"r{n}", "time_ms": now_ms(), "user_id": user,
                "candidates": [{"campaign_id": "c1", "creative_id": "x"}, {"campaign_id": "c2", "creative_id": "y"}],
            }))  # fmt: skip
            if n % 50 == 0:
                values.append((user, b"{poison"))
        await self.publish(topics.AD_REQUESTS, values)

    def log(self, shard: str) -> KafkaShardLog:
        return KafkaShardLog(shard, self.connection, KafkaLogOptions(self.prefix), None, self.readers)

    async def ledger(self, shard: str) -> list[ReadBlock]:
        """The blocks that count."""
        walk, log, blocks = Walk(self.prefix, shard), self.log(shard), []
        while True:
            entries, end = await log.read_ledger(walk.offset, 10_000_000)
            blocks += [block for entry in entries if (block := walk.step(entry)) is not None]
            if walk.offset >= end:
                return blocks

    async def seen(self, partition: int) -> list[dict[str, Any]]:
        """Decisions as a reader that keeps one number a partition sees them."""
        last, found = 0, []
        for event in await self.log("u0").tail(topics.DECISIONS, partition, 1_000_000):
            body = orjson.loads(event.value or b"")
            if body["dn"] == last + 1:
                last += 1
                found.append(body)
        return found

    async def all_handled(self, timeout_s: float = 90) -> None:
        """Until the ledgers' tips are past everything sent, and every decision is published."""
        until = time.monotonic() + timeout_s
        while True:
            behind = []
            for (topic, partition), count in self.sent.items():
                shard = (
                    topics.treasury_shard(partition)
                    if topic == topics.CAMPAIGNS
                    else topics.user_shard(partition)
                )
                blocks = await self.ledger(shard)
                if not blocks or blocks[-1].header.positions[topic] < count:
                    behind.append(f"{topic}[{partition}]")
                elif topic == topics.AD_REQUESTS:
                    told = [o for block in blocks for o in outputs_of(block) if o.topic == topics.DECISIONS]
                    if len(await self.seen(partition)) < len(told):
                        behind.append(f"decisions[{partition}]")
            if not behind:
                return
            assert time.monotonic() < until, f"not handled in time: {behind}"
            await asyncio.sleep(0.5)

    async def last_owners(self, of: Callable[[set[str]], bool], timeout_s: float = 60) -> None:
        """Until the processes (ids) that wrote the last block of each shard's ledger are as wanted."""
        until = time.monotonic() + timeout_s
        while True:
            owners = {
                blocks[-1].header.owner.split("/")[1] if blocks else ""
                for partition in range(PARTITIONS)
                for shard in (topics.user_shard(partition), topics.treasury_shard(partition))
                for blocks in (await self.ledger(shard),)
            }
            if of(owners):
                return
            assert time.monotonic() < until, f"the ledgers' owners in the end: {owners}"
            await asyncio.sleep(0.2)

    async def assert_exact(self) -> None:
        """Each input has one record; a reader sees the ledger's decisions, each once, in order."""
        for partition in range(PARTITIONS):
            blocks = await self.ledger(topics.user_shard(partition))
            causes = [(r.topic, r.offset) for block in blocks for r in block.records if r.offset >= 0]
            assert len(causes) == len(set(causes))
            offsets = sorted(offset for topic, offset in causes if topic == topics.AD_REQUESTS)
            assert offsets == list(range(self.sent.get((topics.AD_REQUESTS, partition), 0)))
            told = [o.value for block in blocks for o in outputs_of(block) if o.topic == topics.DECISIONS]
            assert [orjson.loads(value or b"") for value in told] == await self.seen(partition)

    async def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest_asyncio.fixture
async def site(kafka_bootstrap: str, redis_url: str) -> AsyncIterator[Site]:
    """Topics of a fresh prefix with two campaigns; every process is gone afterwards."""
    found = Site(kafka_bootstrap, redis_url, f"w{uuid.uuid4().hex[:10]}")
    await create_topics(found.connection, found.prefix, PARTITIONS)
    await found.define("c1", 10**9, caps=[{"scope": "campaign", "window": "lifetime", "limit": 3}])
    await found.define("c2", 150_000)
    yield found
    await found.stop_all()
    await found.readers.close()


async def test_a_killed_worker_loses_nothing_and_repeats_nothing(site: Site) -> None:
    """Two workers, one killed with SIGKILL under load and started again: one record an input, each decision once."""
    first, second = site.start(), site.start()
    await site.requests(0, 1500)
    await site.last_owners({str(first.pid), str(second.pid)}.__eq__)
    await site.requests(1500, 1500)
    first.kill()
    await site.requests(3000, 1000)
    site.start()
    await site.all_handled()
    await site.assert_exact()


async def test_a_stopped_and_continued_worker_is_harmless(site: Site) -> None:
    """A worker stopped for longer than its session and then continued appends nothing that counts."""
    first, second = site.start(), site.start()
    await site.requests(0, 1000)
    await site.last_owners({str(first.pid), str(second.pid)}.__eq__)
    await site.requests(1000, 1000)
    first.send_signal(signal.SIGSTOP)
    await site.requests(2000, 1000)
    await site.last_owners({str(second.pid)}.__eq__)
    await site.requests(3000, 500)
    first.send_signal(signal.SIGCONT)
    await site.requests(3500, 500)
    await site.all_handled()
    await site.assert_exact()
    assert first.poll() is None, "the continued worker goes on"


async def test_redis_emptied_under_load_is_rebuilt(site: Site) -> None:
    """The shards notice, build the store up from the ledger again, and caps still hold."""
    site.start()
    await site.requests(0, 1500)
    async with Redis.from_url(site.redis_url) as client:
        keys: list[bytes] = []
        for _ in range(300):
            keys = [key async for key in client.scan_iter(match=f"*{site.prefix}*:users", count=1000)]
            if keys:
                break
            await asyncio.sleep(0.2)
        keys = [key async for key in client.scan_iter(match=f"*{site.prefix}*", count=1000)]
        assert keys
        await client.unlink(*keys)
    await site.requests(1500, 1500)
    await site.all_handled()
    await site.assert_exact()
    await assert_capped(site)


async def test_redis_losing_keys_one_by_one_is_rebuilt(site: Site) -> None:
    """Under load each bucket of each shard is deleted alone, its meta left: it is noticed, and caps still hold."""
    worker = site.start()
    await site.requests(0, 1000)
    await site.all_handled()
    async with Redis.from_url(site.redis_url) as client:
        keys = [key async for key in client.scan_iter(match=f"*{site.prefix}*", count=1000)]
        buckets = sorted(key for key in keys if not key.endswith(b":meta"))
        assert {key.rpartition(b":")[2] for key in buckets} >= {b"users", b"open", b"campaigns", b"core"}
        for turn, key in enumerate(buckets):
            await client.unlink(key)
            await site.requests(1000 + 200 * turn, 200)
    await site.all_handled()
    await site.assert_exact()
    await assert_capped(site)
    assert worker.poll() is None


async def assert_capped(site: Site) -> None:
    """Nobody was served the capped campaign more often than its cap allows."""
    for partition in range(PARTITIONS):
        served: dict[str, int] = {}
        for body in await site.seen(partition):
            if (body["slots"][0].get("winner") or {}).get("campaign_id") == "c1":
                served[body["routing_id"]] = served.get(body["routing_id"], 0) + 1
        assert max(served.values()) <= 3


async def test_a_worker_told_to_stop_finishes_and_leaves(site: Site) -> None:
    """SIGTERM ends the process with success, with everything that was begun published and stored."""
    worker = site.start()
    await site.requests(0, 500)
    await site.all_handled()
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 30) == 0
    await site.assert_exact()
    site.start()
    await site.requests(500, 100)
    await site.all_handled()
    await site.assert_exact()


async def test_two_owners_of_every_shard_at_once(site: Site) -> None:
    """Workers of two groups, each owning all shards all the time: one record an input, each decision once."""
    workers = [site.start(f"{site.prefix}-a"), site.start(f"{site.prefix}-b")]
    for turn in range(4):
        await site.requests(500 * turn, 500)
        await site.all_handled()
    await site.assert_exact()
    owners = {
        block.header.owner for p in range(PARTITIONS) for block in await site.ledger(topics.user_shard(p))
    }
    assert len(owners) == 2, "both wrote"
    assert [worker.poll() for worker in workers] == [None, None]


async def test_a_broker_that_dies_and_comes_back(own_kafka: servers.LocalKafka, redis_url: str) -> None:
    """While Kafka is away nothing is decided; when it is back the same worker goes on, and nothing is lost. Told to
    stop while Kafka is away again, it ends in success all the same."""
    site = Site(own_kafka.bootstrap, redis_url, f"w{uuid.uuid4().hex[:10]}")
    try:
        await create_topics(site.connection, site.prefix, PARTITIONS)
        await site.define("c1", 10**9)
        worker = site.start()
        await site.requests(0, 300)
        await site.all_handled()
        await site.requests(300, 600)
        own_kafka.brokers[0].send_signal(signal.SIGKILL)
        own_kafka.brokers[0].wait_dead()
        await asyncio.sleep(3)
        await asyncio.to_thread(own_kafka.start_again, 0)
        await site.requests(900, 300)
        await site.all_handled()
        await site.assert_exact()
        assert worker.poll() is None
        own_kafka.brokers[0].send_signal(signal.SIGKILL)
        own_kafka.brokers[0].wait_dead()
        await asyncio.sleep(1)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 45) == 0
    finally:
        await site.stop_all()
        await site.readers.close()
