"""What every `ShardLog` promises: one suite for the log in memory and for Kafka; then what is Kafka's own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

import servers
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.errors import BadSettings, Halted, NoTopics, Unavailable
from adgovernor.publish.kafka import start_producer
from adgovernor.runtime.kafka_inputs import KafkaInputs
from adgovernor.runtime.kafka_log import KafkaLogOptions, KafkaShardLog
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.ports import AppendUnknown, Fetch, Output, RawEvent, ShardLog
from adgovernor.runtime.topics_admin import check_topics, create_topics, describe_topics, partition_count

Produce = Callable[[str, int, Sequence[bytes]], Awaitable[None]]
PARTITIONS = 2


@dataclass
class Bench:
    """A log under test, and a way to put events on its inputs."""

    log: ShardLog
    produce: Produce


async def nothing() -> None:
    """Nobody needs to rest before a rebalance here."""


async def kafka_bench(bootstrap: str, prefix: str) -> tuple[Bench, Callable[[], Awaitable[None]]]:
    connection = KafkaConnection(bootstrap)
    await create_topics(connection, prefix, PARTITIONS)
    readers = KafkaReaders(connection)
    inputs = KafkaInputs(
        connection, prefix, f"{prefix}-group", on_revoked=nothing, on_assigned=lambda: None, buffer_events=50
    )
    await inputs.start()
    reading = asyncio.create_task(inputs.run())
    log = KafkaShardLog("u1", connection, KafkaLogOptions(prefix), inputs, readers)

    async def produce(topic: str, partition: int, values: Sequence[bytes]) -> None:
        producer = await start_producer(connection, 10)
        for value in values:
            await producer.send(topics.full_name(prefix, topic), value=value, key=b"k", partition=partition)
        await producer.stop()

    async def close() -> None:
        await log.close()
        reading.cancel()
        await inputs.stop()
        await readers.close()

    return Bench(log, produce), close


@pytest_asyncio.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.servers)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The log of shard u1, empty."""
    if request.param == "memory":
        broker = MemoryBroker(PARTITIONS)

        async def produce(topic: str, partition: int, values: Sequence[bytes]) -> None:
            for value in values:
                broker.produce(topic, partition, b"k", value)

        yield Bench(broker.shard_log("u1"), produce)
        return
    found, close = await kafka_bench(request.getfixturevalue("kafka_bootstrap"), f"t{uuid.uuid4().hex[:10]}")
    yield found
    await close()


async def fetched(
    log: ShardLog, positions: dict[str, int], count: int
) -> tuple[dict[str, list[RawEvent]], dict[str, int]]:
    """Fetches until ``count`` events came, asking on from what came, as an engine does."""
    events: dict[str, list[RawEvent]] = {name: [] for name in positions}
    ends: dict[str, int] = {}
    at = dict(positions)
    async with asyncio.timeout(20):
        while sum(map(len, events.values())) < count or ends.keys() < positions.keys():
            fetch = await log.fetch(at, 10, 0.2)
            ends.update(fetch.ends)
            for name, some in fetch.events.items():
                events[name] += some
                if some:
                    at[name] = some[-1].offset + 1
    return events, ends


USER = dict.fromkeys(topics.USER_INPUTS, 0)


async def test_appends_get_the_offsets_that_a_reader_finds(bench: Bench) -> None:
    """An acknowledged append is read back at its offset with its exact bytes, and the end is behind it."""
    blocks = [os.urandom(1000), b"", os.urandom(300_000)]
    offsets = [await bench.log.append(block, 10) for block in blocks]
    assert offsets == [0, 1, 2]
    entries, end = await bench.log.read_ledger(0, 10_000_000)
    assert [(entry.offset, entry.value) for entry in entries] == list(zip(offsets, blocks, strict=True))
    assert end == 3


async def test_the_ledger_keeps_append_times(bench: Bench) -> None:
    """A ledger entry says when the log took it."""
    before = time.time_ns() // 1_000_000
    await bench.log.append(b"block", 10)
    entries, _ = await bench.log.read_ledger(0, 1000)
    assert before - 1000 <= entries[0].time_ms <= time.time_ns() // 1_000_000 + 1000


async def test_a_ledger_is_read_in_steps(bench: Bench) -> None:
    """Reads are bounded by bytes, go on from any offset, and end where the partition does."""
    for n in range(20):
        await bench.log.append(b"%03d" % n * 1000, 10)
    seen: list[int] = []
    offset = 3
    while True:
        entries, end = await bench.log.read_ledger(offset, 9_000)
        assert end == 20
        if not entries:
            break
        seen += [entry.offset for entry in entries]
        offset = seen[-1] + 1
    assert seen == list(range(3, 20))


async def test_reading_an_empty_ledger_gives_its_end(bench: Bench) -> None:
    """Nothing was written, so nothing is found and the end is 0."""
    assert await bench.log.read_ledger(0, 1000) == ([], 0)


async def test_outputs_are_published_in_order_with_their_bytes(bench: Bench) -> None:
    """Keys, values and headers arrive unchanged, in order for each partition, other partitions included."""
    outputs = [
        Output("decisions", 1, b"k%d" % n, b"%d" % n, [("ce_id", b"%d" % n), ("ag_reason", b"\xff")])
        for n in range(2000)
    ]
    await bench.log.publish([*outputs, Output("reports", 0, b"u1", b"{}", ())], 20)
    tail = await bench.log.tail("decisions", 1, 2000)
    assert [(e.offset, e.key, e.value) for e in tail] == [(n, b"k%d" % n, b"%d" % n) for n in range(2000)]
    assert tuple(tail[7].headers) == (("ce_id", b"7"), ("ag_reason", b"\xff"))
    assert [e.value for e in await bench.log.tail("reports", 0, 5)] == [b"{}"]


async def test_a_tail_is_the_last_messages_oldest_first(bench: Bench) -> None:
    """Fewer where there are fewer, none where there are none."""
    await bench.log.publish([Output("pods", 1, None, b"%d" % n, ()) for n in range(10)], 20)
    assert [e.value for e in await bench.log.tail("pods", 1, 3)] == [b"7", b"8", b"9"]
    assert len(await bench.log.tail("pods", 1, 99)) == 10
    assert await bench.log.tail("pods", 0, 3) == []


async def test_messages_before_an_offset_are_found_step_by_step(bench: Bench) -> None:
    """Each step is what lies right before the last one, with its time, and the beginning says that it is one."""
    await bench.log.publish([Output("pods", 1, None, b"%d" % n, ()) for n in range(10)], 20)
    events, start = await bench.log.before("pods", 1, 8, 5)
    assert ([e.value for e in events], start) == ([b"3", b"4", b"5", b"6", b"7"], 3)
    assert [e.offset for e in events] == [3, 4, 5, 6, 7]
    assert all(e.time_ms > 1_600_000_000_000 for e in events)
    events, start = await bench.log.before("pods", 1, start, 5)
    assert ([e.value for e in events], start) == ([b"0", b"1", b"2"], 0)
    assert await bench.log.before("pods", 1, 0, 5) == ([], 0)


async def test_many_tails_can_be_asked_for_at_once(bench: Bench) -> None:
    """Each answer is its own partition's."""
    await bench.log.publish([Output("pods", 1, None, b"p", ()), Output("decisions", 1, None, b"d", ())], 20)
    names = ["pods", "decisions", "campaign-paused", "pods"]
    tails = await asyncio.gather(*(bench.log.tail(name, 1, 2) for name in names))
    assert [[e.value for e in tail] for tail in tails] == [[b"p"], [b"d"], [], [b"p"]]


async def test_inputs_come_from_the_position_asked_for(bench: Bench) -> None:
    """Events are contiguous from each topic's position, keys and values unchanged, and every end is told."""
    await bench.produce("ad-requests", 1, [b"%d" % n for n in range(30)])
    await bench.produce("impressions", 1, [b"i0", b"i1"])
    await bench.produce("ad-requests", 0, [b"another shard's"])
    events, ends = await fetched(bench.log, USER | {"ad-requests": 25}, 7)
    assert [(e.offset, e.key, e.value) for e in events["ad-requests"]] == [
        (n, b"k", b"%d" % n) for n in range(25, 30)
    ]
    assert [e.value for e in events["impressions"]] == [b"i0", b"i1"]
    assert ends == {"ad-requests": 30, "impressions": 2, "directives": 0, "user-events": 0}


async def test_positions_may_go_back(bench: Bench) -> None:
    """After a shard starts over it reads from an earlier position again."""
    await bench.produce("ad-requests", 1, [b"%d" % n for n in range(30)])
    await fetched(bench.log, USER, 30)
    events, _ = await fetched(bench.log, USER | {"ad-requests": 4}, 26)
    assert [e.offset for e in events["ad-requests"]] == list(range(4, 30))


async def test_a_large_backlog_comes_whole_and_in_order(bench: Bench) -> None:
    """More than the buffers hold is read step by step without loss."""
    await bench.produce("ad-requests", 1, [b"%d" % n for n in range(3000)])
    events, ends = await fetched(bench.log, USER, 3000)
    assert [e.offset for e in events["ad-requests"]] == list(range(3000))
    assert ends["ad-requests"] == 3000


async def test_a_fetch_waits_for_input_and_returns_when_it_comes(bench: Bench) -> None:
    """Without input a fetch waits up to its bound; input that comes meanwhile ends the wait."""
    await fetched(bench.log, USER, 0)
    began = time.monotonic()
    assert not any((await bench.log.fetch(USER, 10, 0.3)).events.values())
    assert time.monotonic() - began >= 0.25

    async def wait() -> Fetch:
        while True:
            fetch = await bench.log.fetch(USER, 10, 5)
            if any(fetch.events.values()):
                return fetch

    waiting = asyncio.create_task(wait())
    await bench.produce("ad-requests", 1, [b"now"])
    async with asyncio.timeout(10):
        assert [e.value for e in (await waiting).events["ad-requests"]] == [b"now"]


# --- Kafka's own ----------------------------------------------------------------------------------------------


async def test_a_refused_block_is_unknown_and_the_next_append_works(kafka_bootstrap: str) -> None:
    """A block that the broker refuses breaks the producer; it is replaced, and the offsets go on without a gap."""
    bench, close = await kafka_bench(kafka_bootstrap, f"t{uuid.uuid4().hex[:10]}")
    try:
        assert await bench.log.append(b"first", 10) == 0
        with pytest.raises(AppendUnknown):
            await bench.log.append(os.urandom(25_000_000), 20)
        assert await bench.log.append(b"second", 10) == 1
    finally:
        await close()


async def test_an_output_that_no_topic_takes_halts_the_shard(kafka_bootstrap: str) -> None:
    """It would fail for ever, so a person is told which topic and which limit."""
    bench, close = await kafka_bench(kafka_bootstrap, f"t{uuid.uuid4().hex[:10]}")
    try:
        with pytest.raises(Halted, match=r"max\.message\.bytes"):
            await bench.log.publish([Output("decisions", 1, b"k", b"x" * 2_500_000, ())], 10)
    finally:
        await close()


async def test_input_that_is_gone_halts_the_shard(kafka_bootstrap: str) -> None:
    """A position that the topic does not have means lost input, which nobody may skip silently."""
    bench, close = await kafka_bench(kafka_bootstrap, f"t{uuid.uuid4().hex[:10]}")
    try:
        await bench.produce("ad-requests", 1, [b"only"])
        with pytest.raises(Halted, match="ad-requests"):
            await fetched(bench.log, USER | {"ad-requests": 17}, 1)
    finally:
        await close()


@pytest.mark.slow
async def test_a_ledger_that_somebody_had_compacted_halts_the_shard(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    """Compaction takes blocks, which have no keys, and the partition still begins at 0: a fold from there must not take
    the rest for a ledger in which nothing ever counted."""
    bench, close = await kafka_bench(kafka_bootstrap, topic_prefix)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        for number in range(3):
            await bench.log.append(b"block %d" % number, 10)
        ledger = topics.full_name(topic_prefix, topics.LEDGER)
        mistake = {"cleanup.policy": "compact", "segment.ms": "10", "min.cleanable.dirty.ratio": "0.01"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, ledger, mistake)])
        await asyncio.sleep(0.1)
        await bench.produce(topics.LEDGER, 1, [b"rolls the segment", b"stays"])

        async def read() -> str:
            try:
                await bench.log.read_ledger(0, 100_000)
            except Halted as halted:
                return halted.reason
            return ""

        async with asyncio.timeout(90):
            while (reason := await read()) != "ledger_cut":
                assert not reason
                await asyncio.sleep(0.5)
    finally:
        await admin.close()
        await close()


async def test_topics_are_created_once_and_rightly(kafka_bootstrap: str) -> None:
    """Creation is repeatable, gives the settings that `check` asks for, and refuses another partition count."""
    connection, prefix = KafkaConnection(kafka_bootstrap), f"t{uuid.uuid4().hex[:10]}"
    with pytest.raises(NoTopics, match="topics create"):
        await partition_count(connection, prefix)
    assert len(await create_topics(connection, prefix, 3)) == len(topics.ALL_TOPICS)
    assert await create_topics(connection, prefix, 3) == []
    assert await partition_count(connection, prefix) == 3
    findings = check_topics(await describe_topics(connection, prefix))
    assert [finding for finding in findings if finding.level == "error"] == []
    with pytest.raises(Exception, match="ask for 3"):
        await create_topics(connection, prefix, 4)


async def test_more_replicas_than_brokers_are_refused(kafka_bootstrap: str) -> None:
    """Where more replicas are asked for than there are brokers yet, no topic is made with fewer."""
    connection, prefix = KafkaConnection(kafka_bootstrap), f"t{uuid.uuid4().hex[:10]}"
    with pytest.raises(BadSettings, match=r"refused to create .*replication"):
        await create_topics(connection, prefix, 2, 99)
    assert await describe_topics(connection, prefix) == {}


async def test_topics_that_disagree_are_named(kafka_bootstrap: str) -> None:
    """Partition counts that differ are an error that says which, and what to do."""
    connection, prefix = KafkaConnection(kafka_bootstrap), f"t{uuid.uuid4().hex[:10]}"
    await create_topics(connection, prefix, 2)
    found = await describe_topics(connection, prefix)
    found["impressions"] = type(found["impressions"])(
        f"{prefix}.impressions", 3, 1, found["impressions"].config
    )
    worst = check_topics(found)[0]
    assert worst.level == "error"
    assert f"{prefix}.impressions" in worst.message
    assert "--partitions" in worst.mend


async def until(ready: Callable[[], bool]) -> None:
    """Waits until it is so, within a bound."""
    for _ in range(300):
        if ready():
            return
        await asyncio.sleep(0.1)
    pytest.fail("it did not come about within 30 s")


async def test_a_hung_broker_is_given_up_by_the_deadline(own_kafka: servers.LocalKafka) -> None:
    """Appends, publishes, commits and reads end within their bounds while the broker hangs, and the inputs know that
    they are not answered; afterwards the log goes on, and what was given up may have landed."""
    bench, close = await kafka_bench(own_kafka.bootstrap, "hung")
    assert isinstance(bench.log, KafkaShardLog)
    inputs = bench.log._inputs
    assert inputs is not None
    try:
        assert await bench.log.append(b"before", 10) == 0
        await fetched(bench.log, USER, 0)
        assert inputs.silent_s < 2
        own_kafka.brokers[0].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(AppendUnknown):
            await bench.log.append(b"given up", 1)
        with pytest.raises(Unavailable):
            await bench.log.publish([Output("decisions", 1, b"k", b"v", ())], 1)
        for _ in range(2):
            await inputs.commit({("ad-requests", 1): 1})
        assert time.monotonic() - began < 25
        await until(lambda: inputs.silent_s > 3)
        own_kafka.brokers[0].send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            while True:
                try:
                    after = await bench.log.append(b"after", 10)
                    break
                except AppendUnknown:
                    continue
        await until(lambda: inputs.silent_s < 1 and inputs._committing is None)
        entries, end = await bench.log.read_ledger(0, 100_000)
        assert entries[after].value == b"after"
        assert end >= after + 1
        assert {entry.value for entry in entries} <= {b"before", b"given up", b"after"}
    finally:
        await close()
