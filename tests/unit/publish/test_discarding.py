"""Letting a producer go that has messages it could not deliver."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerClosed

from adgovernor.publish.kafka import discard_producer


async def test_a_batch_that_waits_to_be_sent_again_is_let_go_without_a_complaint() -> None:
    """What a producer tried to send and will try again fails when it is discarded, and nothing is on the error log."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    producer, place = AIOKafkaProducer(enable_idempotence=True), TopicPartition("t", 0)
    accumulator = producer._message_accumulator
    producer._txn_manager.set_pid_and_epoch(1, 0)
    answers = []
    for tp in (place, TopicPartition("t", 1)):
        batch = producer.create_batch()
        batch.append(key=None, value=b"v", timestamp=None)
        answers.append(await accumulator.add_batch(batch, tp, 1.0))
    accumulator.reenqueue(accumulator._pop_batch(place))

    await discard_producer(producer)

    for answer in answers:
        with pytest.raises(ProducerClosed):
            await answer
    await asyncio.sleep(0)
    assert complaints == []
