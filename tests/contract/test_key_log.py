"""What every `KeyLog` promises: one suite for the one in memory and for Kafka; then what is Kafka's own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.runtime.kafka_keys import KafkaKeyLog, key_producers
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.key_log import KeyLog, MemoryKeyLog
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.ports import RawEvent

_KEYS = [(f"{number:024x}", b"secret") for number in range(5)]


@asynccontextmanager
async def kafka_keys(bootstrap: str, prefix: str, policy: str) -> AsyncIterator[KafkaKeyLog]:
    """The log of shard u0, empty, whose topic keeps messages by ``policy``."""
    connection = KafkaConnection(bootstrap)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    name = topics.full_name(prefix, topics.PERSON_KEYS)
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"cleanup.policy": policy})])
    await admin.close()
    readers = KafkaReaders(connection, 1)
    log = KafkaKeyLog("u0", prefix, readers, key_producers(connection, "test-keys"))
    try:
        yield log
    finally:
        await log.close()
        await readers.close()


@pytest_asyncio.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
async def keys(request: pytest.FixtureRequest) -> AsyncIterator[KeyLog]:
    """The log of shard u0, empty."""
    if request.param == "memory":
        yield MemoryKeyLog(MemoryBroker(1), "u0")
        return
    bootstrap = request.getfixturevalue("kafka_bootstrap")
    async with kafka_keys(bootstrap, f"t{uuid.uuid4().hex[:10]}", "compact") as log:
        yield log


async def shown(log: KeyLog, offset: int, count: int) -> list[RawEvent]:
    """What is read from an offset on, once so many messages are there."""
    async with asyncio.timeout(20):
        while len(events := (await log.read(offset, 100_000))[0]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return events


async def test_what_was_acknowledged_is_read_where_it_landed(keys: KeyLog) -> None:
    """Keys and tombstones get offsets in order, a reader finds them there, and behind the end there is nothing."""
    assert await keys.read(0, 1_000) == ([], 0)
    assert await keys.put(_KEYS, 10) == [0, 1, 2, 3, 4]
    assert await keys.put([(_KEYS[1][0], None)], 10) == [5]
    found = [(event.offset, (event.key or b"").decode(), event.value) for event in await shown(keys, 3, 3)]
    assert found == [(3, *_KEYS[3]), (4, *_KEYS[4]), (5, _KEYS[1][0], None)]
    assert await keys.read(6, 1_000) == ([], 6)


async def test_a_topic_that_expired_is_read_from_where_it_begins(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Where retention took the oldest keys, the others are read: who needs one that is gone misses it by its name."""
    async with kafka_keys(kafka_bootstrap, topic_prefix, "delete") as log:
        await log.put(_KEYS, 10)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        await admin.start()
        place = TopicPartition(topics.full_name(topic_prefix, topics.PERSON_KEYS), 0)
        await admin.delete_records({place: RecordsToDelete(before_offset=3)})
        await admin.close()
        assert [event.offset for event in await shown(log, 1, 2)] == [3, 4]
