"""Publishing to a broker that hangs: every call ends within its deadline, and so does letting go."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from required import required

import servers
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.requests import AdRequest
from adgovernor.publish import Publisher, StoppedAt, publish_lines
from adgovernor.publish.kafka import discard_producer, start_producer

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def broker() -> Iterator[servers.LocalKafka]:
    """A broker of these tests' own, which they may stop and continue."""
    with required():
        servers.require_local(kafka=True)
        kafka = servers.start_kafka()
    try:
        yield kafka
    finally:
        kafka.stop()


@pytest.fixture
def hang(broker: servers.LocalKafka) -> Iterator[None]:
    """Stops the broker for the rest of the test; `resume` continues it earlier."""
    yield
    broker.brokers[0].send_signal(signal.SIGCONT)


def _stop(broker: servers.LocalKafka) -> None:
    """Stops the broker. A signal reaches a process's threads one by one, and one that still runs still answers."""
    process = broker.brokers[0]
    process.send_signal(signal.SIGSTOP)
    until = time.monotonic() + 10.0
    while not all(_is_stopped(task) for task in Path(f"/proc/{process.pid}/task").iterdir()):
        assert time.monotonic() < until, "the broker did not stop"


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _resume(broker: servers.LocalKafka) -> None:
    broker.brokers[0].send_signal(signal.SIGCONT)


async def _topic(broker: servers.LocalKafka, prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topics.full_name(prefix, topics.AD_REQUESTS), 2, 1)])
    finally:
        await admin.close()


def _request(number: int) -> AdRequest:
    return AdRequest(
        request_id=f"r{number}", time_ms=number, user_id=f"u{number}", metadata={"pad": "x" * 200}
    )


async def test_calls_end_at_their_deadline_and_later_ones_work(
    broker: servers.LocalKafka, hang: None
) -> None:
    """A call to a hung broker raises within its deadline; when the broker is back the same publisher works on."""
    await _topic(broker, "a")
    loop = asyncio.get_running_loop()
    async with Publisher(broker.bootstrap, prefix="a", deadline_s=2.0) as publisher:
        await publisher.ad_request(_request(0))
        _stop(broker)
        began = loop.time()
        answers = await asyncio.gather(
            *(publisher.ad_request(_request(n)) for n in range(1, 20)), return_exceptions=True
        )
        assert loop.time() - began < 4.0
        assert all(isinstance(answer, Unavailable) for answer in answers)
        _resume(broker)
        async with asyncio.timeout(60):
            while True:
                try:
                    again = await publisher.ad_request(_request(20))
                except Unavailable:
                    continue
                break
        assert again.offset >= 0


async def test_full_buffers_refuse_instead_of_growing(broker: servers.LocalKafka, hang: None) -> None:
    """While nothing is taken, a call that finds the buffers full raises within its deadline and is not sent."""
    await _topic(broker, "b")
    async with Publisher(broker.bootstrap, prefix="b", deadline_s=1.0, buffer_bytes=4_000) as publisher:
        await publisher.ad_request(_request(0))
        _stop(broker)
        answers = await asyncio.gather(
            *(publisher.ad_request(_request(n)) for n in range(1, 100)), return_exceptions=True
        )
        assert all(isinstance(answer, Unavailable) for answer in answers)
        assert any("was not published" in str(answer) for answer in answers)
        _resume(broker)


async def test_lines_say_how_far_they_came(broker: servers.LocalKafka, hang: None) -> None:
    """When the broker hangs midway, publishing lines stops and says how many are acknowledged."""
    await _topic(broker, "c")

    async def lines() -> AsyncIterator[bytes]:
        for number in range(3_000):
            if number == 2_000:
                # What came before must be on its way, or nothing would be acknowledged.
                await asyncio.sleep(1.0)
                _stop(broker)
            yield _request(number).model_dump_json().encode()

    async def publish() -> None:
        async with Publisher(broker.bootstrap, prefix="c", deadline_s=2.0) as publisher:
            await publish_lines(publisher, topics.AD_REQUESTS, lines())

    with pytest.raises(StoppedAt) as stopped:
        await publish()
    assert 0 < stopped.value.summary.published <= 2_000
    assert stopped.value.summary.lines > 2_000


async def test_a_producer_with_an_undeliverable_batch_is_let_go_at_once(
    broker: servers.LocalKafka, hang: None
) -> None:
    """Discarding ends soon although a batch is under way, fails that batch, and leaves no task behind."""
    await _topic(broker, "d")
    producer = await start_producer(KafkaConnection(broker.bootstrap), 10.0)
    name = topics.full_name("d", topics.AD_REQUESTS)
    await producer.send_and_wait(name, b"v", partition=0)
    _stop(broker)
    batch = producer.create_batch()
    batch.append(timestamp=None, key=b"k", value=b"v")
    future = await producer.send_batch(batch, name, partition=0)
    await asyncio.sleep(0.3)
    loop = asyncio.get_running_loop()
    began = loop.time()

    await discard_producer(producer)

    assert loop.time() - began < 3.0
    with pytest.raises(KafkaError):
        await future
    assert producer._sender.sender_task.done()
    await producer.stop()


async def test_a_cancelled_call_leaves_no_complaint(
    broker: servers.LocalKafka, hang: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A publisher that is left while a batch is under way lets go without a word on the error log."""
    # A captured log record would keep the batch alive, and its complaint with it.
    caplog.set_level(logging.CRITICAL, logger="aiokafka")
    await _topic(broker, "e")
    complaints: list[object] = []
    stopped = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def publish() -> None:
        async with Publisher(broker.bootstrap, prefix="e") as publisher:
            await publisher.ad_request(_request(0))
            _stop(broker)
            stopped.set()
            await asyncio.gather(*(publisher.ad_request(_request(n)) for n in range(1, 20)))

    task = asyncio.create_task(publish())
    await stopped.wait()
    await asyncio.sleep(0.3)  # The batch is under way, and stays so.
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    _resume(broker)
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_broker_that_never_answers_is_given_up() -> None:
    """A server that takes connections and says nothing is unavailable within the deadline, and nothing hangs."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable, match="cannot be used"):
        async with Publisher(address, deadline_s=1.0):
            pass
    assert loop.time() - began < 10.0
    server.close()
