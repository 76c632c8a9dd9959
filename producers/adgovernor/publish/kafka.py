"""Producers of the Kafka client: how one is started, and how one is let go without hanging.

An idempotent producer that had a definite refusal or an expired batch answers every later append to that
partition with an error, so the only cure is another producer. Its own ``stop()`` waits for batches that can
never be delivered; `discard_producer` does not.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    ProducerClosed,
    TopicAuthorizationFailedError,
)

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings

REFUSED: Final = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)
"""What a broker answers to whom it gives no right."""
_CLOSE_S: Final = 5.0
_CANCELS: Final = 50
"""The sender's task swallows a cancellation that meets it inside a request; each try waits a tenth of a
second."""


async def start_producer(connection: KafkaConnection, deadline_s: float, **options: Any) -> AIOKafkaProducer:
    """An idempotent producer with ``acks=all``, connected. ``options`` are further ones of the client.

    Raises:
        Unavailable: where Kafka cannot be reached or does not answer within ``deadline_s``.
        BadSettings: where the connection's own settings are wrong, or this user may write nothing.
    """
    producer = AIOKafkaProducer(
        **connection.client_options(), acks="all", enable_idempotence=True, linger_ms=0, **options
    )
    try:
        async with asyncio.timeout(deadline_s):
            await producer.start()
    except REFUSED as error:
        await discard_producer(producer)
        raise may_not_write(f"Kafka at {connection.bootstrap_servers}") from error
    except (KafkaError, OSError, TimeoutError) as error:
        await discard_producer(producer)
        raise connection.unusable(error) from error
    except asyncio.CancelledError:
        await discard_producer(producer)
        raise
    return producer


def may_not_write(what: str) -> BadSettings:
    """What to tell of a broker that refuses to let this user write; ``what``: to which topic, or to which Kafka."""
    return BadSettings(
        f"{what} may not be written by this user; give it WRITE on the topics that it writes to"
    )


async def discard_producer(producer: AIOKafkaProducer) -> None:
    """Lets a producer go at once: nothing more is sent, and every batch that was not acknowledged fails.

    What is already in the network may still land. Private names of the client's producer are used here and nowhere
    else.
    """
    producer._closed = True
    accumulator = producer._message_accumulator
    accumulator._closed = True
    task = producer._sender.sender_task if producer._sender is not None else None
    if task is not None:
        task.cancel()
    try:
        async with asyncio.timeout(_CLOSE_S):
            await producer.client.close()
    except TimeoutError:
        # The sockets are gone with the event loop; the sender below is what must not live on.
        pass
    if task is not None:
        for _ in range(_CANCELS):
            if task.done():
                break
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
    batches = [batch for waiting in accumulator._batches.values() for batch in waiting]
    batches += accumulator._pending_batches
    # The client takes a batch that has an answer out of those under way. One that waits to be sent again is not among
    # them, and it would complain.
    accumulator._pending_batches.update(batches)
    accumulator.fail_all(ProducerClosed())
    for batch in batches:
        # Whoever waited may have gone; asyncio would then complain of an exception that nobody looked at.
        for future in (batch.future, batch._drain_waiter):
            if not future.cancelled():
                future.exception()
