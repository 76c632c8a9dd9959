"""The history of a deployment as its broker holds it."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from adgovernor.audit.history import KafkaHistory
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.publish.kafka import start_producer
from adgovernor.runtime.topics_admin import create_topics

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("kept", [3, 0])
async def test_what_retention_took_is_passed_over(kafka_bootstrap: str, topic_prefix: str, kept: int) -> None:
    """A topic whose first messages are gone is read from the first that is left."""
    connection = KafkaConnection(kafka_bootstrap)
    await create_topics(connection, topic_prefix, 1)
    name = topics.full_name(topic_prefix, topics.AD_REQUESTS)
    producer = await start_producer(connection, 10)
    for number in range(8):
        await producer.send_and_wait(name, value=b"%d" % number, partition=0)
    await producer.stop()
    admin = AIOKafkaAdminClient(**connection.client_options())
    await admin.start()
    await admin.delete_records({TopicPartition(name, 0): RecordsToDelete(before_offset=8 - kept)})
    await admin.close()
    async with KafkaHistory(connection, topic_prefix) as history:
        assert await history.first(topics.AD_REQUESTS, 0) == 8 - kept
        offsets = [message.offset async for message in history.messages(topics.AD_REQUESTS, 0)]
    assert offsets == list(range(8 - kept, 8))
