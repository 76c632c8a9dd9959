"""A worker in this process on a real broker: what it says of itself, and which failures end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings
from adgovernor.core.machine import Input, Machine
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.core.user_shard import UserShard
from adgovernor.publish.kafka import start_producer
from adgovernor.runtime import worker as worker_module
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.topics_admin import create_topics
from adgovernor.runtime.worker import Worker, WorkerSettings
from adgovernor.stores.base import Meta, Tip
from adgovernor.stores.memory import MemoryStore

PARTITIONS = 2


def machine(shard: str) -> Machine:
    rules = Rules(partitions=PARTITIONS)
    return machine_of(shard, rules)


def worker(
    connection: KafkaConnection, prefix: str, store: MemoryStore, factory: Callable[[str], Machine] = machine
) -> Worker:
    return Worker(connection, store, factory, WorkerSettings(prefix), EngineSettings(prefix, PARTITIONS))


async def request(connection: KafkaConnection, prefix: str, partition: int) -> None:
    """One request on a partition, wherever its key belongs."""
    producer = await start_producer(connection, 20)
    body = {"request_id": f"r{partition}", "time_ms": time.time_ns() // 1_000_000, "user_id": "ann"}
    await producer.send_and_wait(
        f"{prefix}.ad-requests", value=orjson.dumps(body), key=b"ann", partition=partition
    )
    await producer.stop()


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 40) -> None:
    """Until a condition on other tasks' or the servers' state holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - a poll of others, without an event
            await asyncio.sleep(0.05)


async def decisions(readers: KafkaReaders, prefix: str, partition: int, count: int) -> None:
    """Until so many decisions are on a partition."""

    async def there() -> bool:
        return len(await readers.tail(f"{prefix}.decisions", partition, 10)) >= count

    await until(there)


async def ready(*workers: Worker, shards: int = 2 * PARTITIONS) -> None:
    """Until each of the workers has so many shards, all in memory."""

    async def all_ready() -> bool:
        return all(w.health().ready and len(w.health().shards) == shards for w in workers)

    await until(all_ready)


async def test_a_worker_owns_all_shards_and_says_so(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Alone in its group it runs every shard; it is ready once all are in memory, and ends in success when told to."""
    connection = KafkaConnection(kafka_bootstrap)
    await create_topics(connection, topic_prefix, PARTITIONS)
    subject = worker(connection, topic_prefix, MemoryStore())
    assert not subject.health().ready
    running = asyncio.create_task(subject.run())
    await ready(subject)
    assert subject.health().shards == dict.fromkeys(("u0", "u1", "t0", "t1"), "running")
    assert subject.health().alive
    subject.stop()
    async with asyncio.timeout(30):
        await running


async def test_a_worker_that_leaves_tells_the_group_how_far_it_came(
    kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lag tools see what a worker has handled when it stops, also between two of the times at which it tells."""
    monkeypatch.setattr(worker_module, "_COMMIT_EVERY_S", 600.0)
    connection, readers = KafkaConnection(kafka_bootstrap), KafkaReaders(KafkaConnection(kafka_bootstrap))
    await create_topics(connection, topic_prefix, PARTITIONS)
    subject = worker(connection, topic_prefix, MemoryStore())
    running = asyncio.create_task(subject.run())
    await ready(subject)
    await request(connection, topic_prefix, 0)
    await decisions(readers, topic_prefix, 0, 1)
    await readers.close()
    subject.stop()
    async with asyncio.timeout(30):
        await running
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    kept = await admin.list_consumer_group_offsets(f"{topic_prefix}.adgovernor")
    await admin.close()
    asked = [TopicPartition(f"{topic_prefix}.ad-requests", partition) for partition in range(PARTITIONS)]
    assert [kept[tp].offset for tp in asked] == [1, 0]


async def test_a_halted_shard_says_why_and_the_others_go_on(kafka_bootstrap: str, topic_prefix: str) -> None:
    """One shard whose store belongs to another ledger halts; the worker stays and its other shards decide."""
    connection, store, readers = (
        KafkaConnection(kafka_bootstrap),
        MemoryStore(),
        KafkaReaders(KafkaConnection(kafka_bootstrap)),
    )
    await create_topics(connection, topic_prefix, PARTITIONS)
    await store.reset("u0", None, Meta(Tip("f" * 64, 0, ""), b"{}"))
    subject = worker(connection, topic_prefix, store)
    running = asyncio.create_task(subject.run())
    await ready(subject)
    await request(connection, topic_prefix, 1)
    await decisions(readers, topic_prefix, 1, 1)
    assert "store_of_another_ledger" in subject.health().shards["u0"]
    assert subject.health().shards["u1"] == "running"
    subject.stop()
    async with asyncio.timeout(30):
        await running
    await readers.close()


async def test_a_shard_that_dies_takes_the_worker_down(kafka_bootstrap: str, topic_prefix: str) -> None:
    """A bug in one shard's core ends the process's run with that error, instead of a shard that silently rests."""
    connection = KafkaConnection(kafka_bootstrap)
    await create_topics(connection, topic_prefix, PARTITIONS)

    class Broken(UserShard):
        def read(self, topic: str, offset: int, key: bytes | None, value: bytes | None) -> Input:
            raise RuntimeError("a bug")

    def factory(shard: str) -> Machine:
        return Broken(shard, Rules(partitions=PARTITIONS)) if shard == "u0" else machine(shard)

    subject = worker(connection, topic_prefix, MemoryStore(), factory)
    running = asyncio.create_task(subject.run())
    await ready(subject)
    await request(connection, topic_prefix, 0)
    with pytest.raises(RuntimeError, match="a bug"):
        async with asyncio.timeout(30):
            await running


async def test_a_worker_refuses_topics_that_do_not_exist(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Without its topics a worker does not start, and says which command makes them."""
    with pytest.raises(BadSettings, match="topics create"):
        await worker(KafkaConnection(kafka_bootstrap), topic_prefix, MemoryStore()).run()


async def test_shards_move_to_a_second_worker_and_back(kafka_bootstrap: str, topic_prefix: str) -> None:
    """A worker that joins gets its part; when it leaves, the first has all again and goes on deciding."""
    connection, store, readers = (
        KafkaConnection(kafka_bootstrap),
        MemoryStore(),
        KafkaReaders(KafkaConnection(kafka_bootstrap)),
    )
    await create_topics(connection, topic_prefix, PARTITIONS)
    first, second = worker(connection, topic_prefix, store), worker(connection, topic_prefix, store)
    running = asyncio.create_task(first.run())
    await ready(first)
    joining = asyncio.create_task(second.run())
    await ready(first, second, shards=PARTITIONS)
    assert first.health().shards.keys().isdisjoint(second.health().shards)
    await request(connection, topic_prefix, 0)
    await request(connection, topic_prefix, 1)
    await decisions(readers, topic_prefix, 0, 1)
    await decisions(readers, topic_prefix, 1, 1)
    second.stop()
    async with asyncio.timeout(40):
        await joining
    await ready(first)
    await request(connection, topic_prefix, 0)
    await request(connection, topic_prefix, 1)
    await decisions(readers, topic_prefix, 0, 1)
    first.stop()
    async with asyncio.timeout(30):
        await running
    await readers.close()
