"""The publishing SDK against a real broker."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import StatusCommand
from adgovernor.contracts.errors import BadInput, BadSettings, Unavailable
from adgovernor.contracts.events import Click, Impression, OptOut
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.contracts.routing import partition_of
from adgovernor.publish import Publisher, StoppedAt, publish_lines
from adgovernor.publish.lanes import Lanes, Published

pytestmark = pytest.mark.servers

PARTITIONS = 4
"""As the fixture `deployment` makes them."""


def lanes_of(publisher: Publisher) -> Lanes:
    """The publisher's way to Kafka, to break it."""
    assert isinstance(publisher._lanes, Lanes)
    return publisher._lanes


def _request(number: int, user: str | None = None) -> AdRequest:
    return AdRequest(
        request_id=f"r{number}",
        time_ms=1_700_000_000_000 + number,
        user_id=user or f"user-{number % 17}",
        candidates=(Candidate(campaign_id="c1", creative_id="k1"),),
    )


async def _read(bootstrap: str, full_name: str) -> dict[int, list[tuple[bytes, bytes, dict[str, bytes]]]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(full_name, number) for number in range(PARTITIONS)]
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: dict[int, list[tuple[bytes, bytes, dict[str, bytes]]]] = {n: [] for n in range(PARTITIONS)}
        while sum(len(messages) for messages in found.values()) < sum(ends.values()):
            for tp, messages in (await consumer.getmany(timeout_ms=200)).items():
                found[tp.partition].extend((m.key or b"", m.value or b"", dict(m.headers)) for m in messages)
        return found
    finally:
        await consumer.stop()


async def test_three_lines(kafka_bootstrap: str, deployment: str) -> None:
    """An ad request lands on its person's partition, keyed by routing id, with CloudEvents headers."""
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        published = await publisher.ad_request(_request(1, "u1"))

    partition = partition_of(b"u1", PARTITIONS)
    assert published == Published(topics.AD_REQUESTS, partition, 0)
    found = await _read(kafka_bootstrap, f"{deployment}.ad-requests")
    ((key, value, headers),) = found[partition]
    assert key == b"u1"
    assert AdRequest.model_validate_json(value) == _request(1, "u1")
    assert headers["ce_id"] == b"r1"
    assert headers["ce_type"] == b"adgovernor.ad-request.v1"


async def test_every_kind_of_event_has_its_topic(kafka_bootstrap: str, deployment: str) -> None:
    """Impressions and clicks, user events and commands go to their topics, keyed by routing or account id."""
    impression = Impression(decision_id="r1", routing_id="u1", time_ms=1)
    click = Click(type="click", decision_id="r1", routing_id="u1", time_ms=2)
    command = StatusCommand(command="pause", command_id="k1", account_id="a1", campaign_id="c1")
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        first = await publisher.impression(impression)
        second = await publisher.click(click)
        opted = await publisher.user_event(OptOut(type="opt-out", routing_id="u1", time_ms=3))
        commanded = await publisher.command(command)

    assert (first.topic, second.offset) == ("impressions", 1)
    assert first.partition == second.partition == opted.partition == partition_of(b"u1", PARTITIONS)
    assert commanded == Published("campaigns", partition_of(b"a1", PARTITIONS), 0)


async def test_many_tasks_share_batches_and_keep_the_order_of_a_key(
    kafka_bootstrap: str, deployment: str
) -> None:
    """Two thousand calls at once are all acknowledged, at distinct offsets, in call order for each person."""
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        places = await asyncio.gather(*(publisher.ad_request(_request(n)) for n in range(2000)))

    assert len({(place.partition, place.offset) for place in places}) == 2000
    for messages in (await _read(kafka_bootstrap, f"{deployment}.ad-requests")).values():
        by_user: dict[bytes, list[int]] = {}
        for key, value, _ in messages:
            by_user.setdefault(key, []).append(AdRequest.model_validate_json(value).time_ms)
        assert all(times == sorted(times) for times in by_user.values())


async def test_bulk_with_small_buffers(kafka_bootstrap: str, deployment: str) -> None:
    """A bulk call far larger than the buffers publishes everything, once."""
    async with Publisher(kafka_bootstrap, prefix=deployment, buffer_bytes=20_000) as publisher:
        assert await publisher.ad_requests(_request(n) for n in range(5000)) == 5000

    found = await _read(kafka_bootstrap, f"{deployment}.ad-requests")
    ids = [AdRequest.model_validate_json(value).request_id for part in found.values() for _, value, _ in part]
    assert len(ids) == len(set(ids)) == 5000


async def test_bad_lines_are_named_and_the_others_go_on(kafka_bootstrap: str, deployment: str) -> None:
    """A bad line is reported by number and reason; the good ones are published with their own bytes."""
    good = b'{"request_id": "r1", "time_ms": 5, "user_id": "u1", "unknown": [1,  2]}'
    lines = [good + b"\n", b"{nonsense\n", b"\n", b'{"request_id": "r2"}\n', good.replace(b"r1", b"r3")]
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        summary = await publish_lines(publisher, topics.AD_REQUESTS, lines)

    assert (summary.lines, summary.published, summary.bad, summary.blank) == (5, 2, 2, 1)
    assert [(bad.number, bad.reason) for bad in summary.bad_lines] == [(2, "not_json"), (4, "invalid")]
    assert "time_ms" in summary.bad_lines[1].message
    found = await _read(kafka_bootstrap, f"{deployment}.ad-requests")
    assert [value for _, value, _ in found[partition_of(b"u1", PARTITIONS)]] == [
        good,
        good.replace(b"r1", b"r3"),
    ]


async def test_missing_topic_is_named(kafka_bootstrap: str, topic_prefix: str) -> None:
    """Publishing into a deployment that does not exist soon says which topic is missing and how to make it."""
    async with Publisher(kafka_bootstrap, prefix=topic_prefix, deadline_s=60) as publisher:
        with pytest.raises(BadSettings, match=f"{topic_prefix}.ad-requests does not exist.*topics create"):
            async with asyncio.timeout(20):
                await publisher.ad_request(_request(1))


async def test_what_is_no_event_is_refused(kafka_bootstrap: str, deployment: str) -> None:
    """What is not an event of the topic's contract is refused by its type."""
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        with pytest.raises(BadInput, match=r"takes a typed ad request .* not dict"):
            await publisher.ad_request({"request_id": "r1"})  # type: ignore[arg-type]


async def test_a_closed_publisher_publishes_nothing(kafka_bootstrap: str, deployment: str) -> None:
    """After its `async with` a publisher refuses at once, to partitions that it knew and to others."""
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        await publisher.ad_request(_request(1))
    for late in (_request(1), _request(2), Impression(decision_id="r1", routing_id="u1", time_ms=1)):
        with pytest.raises(BadInput, match="the publisher is closed"):
            async with asyncio.timeout(1):
                await publisher.event(
                    topics.IMPRESSIONS if isinstance(late, Impression) else topics.AD_REQUESTS, late
                )


async def test_other_partition_count_is_refused(kafka_bootstrap: str, deployment: str) -> None:
    """A publisher that expects another number of partitions refuses to publish anything."""
    async with Publisher(kafka_bootstrap, prefix=deployment, partitions=8) as publisher:
        with pytest.raises(BadSettings, match="has 4 partitions, the deployment has 8"):
            await publisher.ad_request(_request(1))


async def test_message_larger_than_the_topic_takes(kafka_bootstrap: str, deployment: str) -> None:
    """A message that the broker refuses for its size fails alone: the next one to its partition is taken."""
    big = _request(1, "u1").model_copy(update={"metadata": {"pad": "x" * 14_000_000}})
    publisher = Publisher(
        kafka_bootstrap,
        prefix=deployment,
        message_bytes=20_000_000,
        compression=None,
        buffer_bytes=64_000_000,
    )
    async with publisher:
        with pytest.raises(BadInput, match=r"max\.message\.bytes"):
            await publisher.ad_request(big)
        assert (await publisher.ad_request(_request(2, "u1"))).offset == 0


async def test_message_larger_than_configured(kafka_bootstrap: str, deployment: str) -> None:
    """A message above the publisher's own limit is refused before anything is sent."""
    async with Publisher(kafka_bootstrap, prefix=deployment, message_bytes=300) as publisher:
        with pytest.raises(BadInput, match="larger than 300 bytes"):
            await publisher.ad_request(_request(1))


async def test_a_broken_producer_is_replaced(kafka_bootstrap: str, deployment: str) -> None:
    """When the client's producer dies under way, calls go on with a new one and all are acknowledged."""
    async with Publisher(kafka_bootstrap, prefix=deployment) as publisher:
        await publisher.ad_request(_request(0))
        calls = [asyncio.create_task(publisher.ad_request(_request(n))) for n in range(1, 500)]
        await asyncio.sleep(0)
        await lanes_of(publisher)._link.discard()
        await asyncio.gather(*calls)

    found = await _read(kafka_bootstrap, f"{deployment}.ad-requests")
    ids = {AdRequest.model_validate_json(value).request_id for part in found.values() for _, value, _ in part}
    assert ids == {f"r{n}" for n in range(500)}


async def test_nobody_answers() -> None:
    """Where no broker listens, opening a publisher says so within its deadline."""
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be used"):
        async with Publisher("127.0.0.1:1", deadline_s=3):
            pass


async def test_lines_stop_where_kafka_is_gone(kafka_bootstrap: str, deployment: str) -> None:
    """When Kafka stops answering midway, the summary says how many messages are acknowledged."""

    async def lines() -> object:
        for number in range(2000):
            yield _request(number).model_dump_json().encode()
        # From here on the client knows no broker that answers.
        for lane in lanes_of(publisher)._lanes.values():
            lane.task.cancel()
        for number in range(2000, 2100):
            yield _request(number).model_dump_json().encode()

    async with Publisher(kafka_bootstrap, prefix=deployment, deadline_s=2) as publisher:
        with pytest.raises(StoppedAt) as stopped:
            await publish_lines(publisher, topics.AD_REQUESTS, lines())  # type: ignore[arg-type]
        assert stopped.value.summary.published <= 2000
        assert stopped.value.summary.lines == 2100
        lanes_of(publisher)._lanes.clear()
