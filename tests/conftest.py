"""Fixtures for tests that need a real Kafka or a real Redis.

`./deploy/test` starts the servers once and hands their addresses on; a bare `pytest` starts them when the first test
asks (each pytest-xdist worker its own). A test that uses one of these fixtures carries the mark `servers` by itself.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient
from redis.asyncio import Redis
from required import required

import servers

# A shell starts what runs in its background with Ctrl-C ignored, and children inherit that: those that tests interrupt
# would never end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SERVER_FIXTURES = {
    "kafka_bootstrap",
    "own_brokers",
    "own_kafka",
    "own_redis",
    "own_redis_cluster",
    "own_sentinels",
    "postgres",
    "redis_cluster_url",
    "redis_url",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses a server, so that `-m 'not servers'` leaves all of them out. Files with slow tests come
    first: where several processes share the tests, none is left alone with a long one in the end."""
    for item in items:
        if _SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("servers")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _address(obtain: Callable[[], servers.Server]) -> Iterator[str]:
    """Hold a server for the session."""
    with required():
        server = obtain()
    try:
        yield server.address
    finally:
        server.stop()


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The bootstrap address of a Kafka broker that all tests of the session share."""
    yield from _address(servers.obtain_kafka)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis that all tests of the session share."""
    yield from _address(servers.obtain_redis)


@pytest.fixture(scope="session")
def redis_cluster_url() -> Iterator[str]:
    """The URL of one node of a Redis Cluster of three masters that all tests of the session share."""
    yield from _address(servers.obtain_redis_cluster)


@pytest.fixture
def own_kafka() -> Iterator[servers.LocalKafka]:
    """A broker of one test's own, to be killed or stopped."""
    with required():
        servers.require_local(kafka=True)
    kafka = servers.start_kafka()
    yield kafka
    kafka.stop()


@pytest.fixture
def own_brokers() -> Iterator[servers.LocalKafka]:
    """Three brokers of one test's own, to be killed or stopped."""
    with required():
        servers.require_local(kafka=True)
    kafka = servers.start_kafka(brokers=3)
    yield kafka
    kafka.stop()


@pytest.fixture
def own_redis() -> Iterator[servers.LocalRedis]:
    """A Redis of one test's own, to be killed, stopped or emptied."""
    with required():
        servers.require_local(redis=True)
    redis = servers.start_redis()
    yield redis
    redis.stop()


@pytest.fixture
def own_redis_cluster() -> Iterator[servers.LocalRedis]:
    """A Redis Cluster of three masters with a replica each, of one test's own."""
    with required():
        servers.require_local(redis=True)
    redis = servers.start_redis_cluster(replicated=True)
    yield redis
    redis.stop()


@pytest.fixture
def own_sentinels() -> Iterator[servers.LocalSentinel]:
    """A master, a replica and three Sentinels of one test's own."""
    with required():
        servers.require_local(redis=True)
    trio = servers.start_redis_sentinel()
    yield trio
    trio.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.LocalPostgres]:
    """A PostgreSQL with an empty database; skips where there is none, unless the run insists on servers."""
    with required():
        servers.require_local(postgres=True)
    server = servers.start_postgres()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def topic_prefix(kafka_bootstrap: str) -> AsyncIterator[str]:
    """A prefix for one test's topics; what it created under the prefix is deleted afterwards."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    yield prefix
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        own = [topic for topic in await admin.list_topics() if topic.startswith(prefix)]
        if own:
            await admin.delete_topics(own)
    finally:
        await admin.close()


@pytest_asyncio.fixture
async def redis_namespace(redis_url: str) -> AsyncIterator[str]:
    """A word for one test's Redis keys; every key that contains it is deleted afterwards."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    yield namespace
    async with Redis.from_url(redis_url) as client:
        async for key in client.scan_iter(match=f"*{namespace}*", count=1000):
            await client.unlink(key)
