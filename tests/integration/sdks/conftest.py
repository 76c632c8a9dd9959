"""Topics for the tests of the publishing and the subscribing SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adgovernor.contracts import topics

PARTITIONS = 4


@pytest_asyncio.fixture
async def deployment(kafka_bootstrap: str, topic_prefix: str) -> AsyncIterator[str]:
    """The prefix of a fresh deployment with the public topics, `PARTITIONS` partitions each."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [
                NewTopic(topics.full_name(topic_prefix, topic), PARTITIONS, 1)
                for topic in (*topics.PUBLIC_INPUTS, *topics.PUBLIC_OUTPUTS, *topics.DLQS)
            ]
        )
    finally:
        await admin.close()
    yield topic_prefix
