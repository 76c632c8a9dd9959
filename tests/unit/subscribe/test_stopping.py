"""Letting a Kafka client go, whatever it does then."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from adgovernor.subscribe.kafka import stop_consumer


def consumer_that(monkeypatch: pytest.MonkeyPatch, stop: object) -> tuple[AIOKafkaConsumer, list[str]]:
    """A client that was never started, whose own ``stop`` does something else; and what is done with it."""
    consumer, done = AIOKafkaConsumer(), list[str]()

    async def close() -> None:
        done.append("closed")

    monkeypatch.setattr(consumer, "stop", stop)
    monkeypatch.setattr(consumer._client, "close", close)
    consumer._closed = True
    return consumer, done


async def test_a_client_that_cancels_itself_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose stop ends with a cancellation of its own cancels nobody else, and its connections are closed."""

    async def stop() -> None:
        raise asyncio.CancelledError

    consumer, done = consumer_that(monkeypatch, stop)
    assert await stop_consumer(consumer) is False
    assert done == ["closed"]


async def test_a_client_that_hangs_is_let_go_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose stop never ends is waited for as long as is said, then its connections are closed."""
    ended = []

    async def stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    consumer, done = consumer_that(monkeypatch, stop)
    assert await stop_consumer(consumer, 0.1) is False
    assert (done, ended) == (["closed"], [True])


async def test_who_waits_for_a_client_may_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation of whoever lets a client go is theirs, and leaves nothing behind that waits."""
    begun = asyncio.Event()
    stopping: list[asyncio.Task[object] | None] = []

    async def stop() -> None:
        stopping.append(asyncio.current_task())
        begun.set()
        await asyncio.Event().wait()

    consumer, _ = consumer_that(monkeypatch, stop)
    task = asyncio.create_task(stop_consumer(consumer))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (other,) = stopping
    assert other is not None
    await asyncio.wait({other})
    assert other.cancelled()


async def test_what_a_client_says_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops well is believed, and an error of its stop is raised."""

    async def well() -> None:
        return

    async def badly() -> None:
        raise KafkaError("no")

    assert await stop_consumer(consumer_that(monkeypatch, well)[0]) is True
    with pytest.raises(KafkaError, match="no"):
        await stop_consumer(consumer_that(monkeypatch, badly)[0])
