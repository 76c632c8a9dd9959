"""What waits in memory for the broker: refused, put off or taken before any of it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from aiokafka import AIOKafkaProducer

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.publish.lanes import _OVERHEAD_BYTES, Lanes, Link, Ticket

KEY = b"ann"


def lanes_to_nowhere(buffer_bytes: int) -> Lanes:
    return Lanes(
        KafkaConnection("nowhere:1"),
        buffer_bytes=buffer_bytes,
        message_bytes=1_000,
        deadline_s=5.0,
        compression=None,
        client_id="test",
    )


@pytest.fixture
async def lanes() -> AsyncIterator[Lanes]:
    """Lanes to nowhere, for messages of up to 1,000 bytes and 2,000 bytes of them."""
    made = lanes_to_nowhere(2_000)
    yield made
    await made.close()


def put(lanes: Lanes, size: int, ticket: Ticket | None = None) -> bool:
    """Hands over a message that takes so many bytes."""
    value = bytes(size - len(KEY) - _OVERHEAD_BYTES)
    return lanes.put_nowait(topics.AD_REQUESTS, "p.ad-requests", 0, KEY, value, [], ticket or Ticket())


async def test_a_message_larger_than_the_topic_takes_is_refused_before_it_waits(lanes: Lanes) -> None:
    """One byte too many is the caller's error, and takes no room from what may be sent."""
    with pytest.raises(BadInput, match="1001 bytes for topic ad-requests is larger than 1000 bytes"):
        put(lanes, 1_001)
    assert [put(lanes, 1_000), put(lanes, 1_000)] == [True, True]


async def test_full_buffers_take_more_once_they_are_half_empty(lanes: Lanes) -> None:
    """What does not fit is put off until half of what waits is gone, so that callers do not come one by one."""
    assert [put(lanes, 1_000), put(lanes, 900), put(lanes, 500)] == [True, True, False]
    lanes.release(800)
    with pytest.raises(Unavailable, match="1100 bytes wait for Kafka"):
        await lanes.room(0.0)
    lanes.release(100)
    await lanes.room(0.0)
    assert put(lanes, 1_000)


@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "being sent"])
async def test_what_nobody_waits_for_any_more_leaves_its_room_to_others(lanes: Lanes, begun: bool) -> None:
    """Messages whose callers gave up are not sent, and others take their place in the buffers."""
    tickets = [Ticket(), Ticket()]
    assert [put(lanes, 1_000, ticket) for ticket in tickets] == [True, True]
    assert not put(lanes, 500)
    if begun:
        await asyncio.sleep(0)
    for ticket in tickets:
        ticket.abandoned = True
    await lanes.room(5.0)
    assert [put(lanes, 1_000), put(lanes, 1_000)] == [True, True]


async def test_a_lane_lets_go_of_its_own_producer_only() -> None:
    """Where another lane has replaced the broken producer meanwhile, the new one is kept."""
    link = Link(KafkaConnection("nowhere:1"), 1.0, {})
    link._producer = new = cast(AIOKafkaProducer, object())
    await link.discard(cast(AIOKafkaProducer, object()))
    assert link._producer is new


async def test_a_message_larger_than_all_buffers_is_taken_when_nothing_waits() -> None:
    """Nothing that goes away would make room for it."""
    lanes = lanes_to_nowhere(500)
    try:
        assert [put(lanes, 900), put(lanes, 400)] == [True, False]
    finally:
        await lanes.close()


async def test_whoever_waits_when_it_closes_is_told(lanes: Lanes) -> None:
    """A message that was not acknowledged fails its caller, and the next call is refused."""
    ticket = Ticket()
    assert lanes.put_nowait(topics.AD_REQUESTS, "p.ad-requests", 0, KEY, b"{}", [], ticket)
    await asyncio.sleep(0)
    await lanes.close()
    with pytest.raises(Unavailable, match="closed before Kafka acknowledged"):
        await ticket.wait(5.0)
    with pytest.raises(BadInput, match="the publisher is closed"):
        put(lanes, 500)
