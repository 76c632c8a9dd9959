"""The main job end to end: requests in Kafka become decisions in Kafka, with their state in Redis.

Two workers on 8 partitions are stopped (SIGSTOP), the load is published, and the workers are continued: the clock
runs from there to the last decision on its topic and the last block in Redis. Requests have five candidates with two
caps each. Latency is measured apart, at a tenth of the measured rate. ``pass-through`` is the yardstick: the same
input read and appended unchanged, in the same run.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.bench import _load, pass_through

from adgovernor.contracts import topics
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

NEEDS_SERVERS = True

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "300000"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "2"))
LATENCY_S = 10
_DEADLINE_S = 300


async def run() -> dict[str, Any]:
    """Requests a second, microseconds a stage, latency, bytes of Redis, and the yardstick."""
    with tempfile.TemporaryFile() as log:
        async with _load.deployment() as prefix:
            try:
                figures = await _measure(prefix, log)
            except BaseException:
                log.seek(0)
                print(log.read()[-4000:].decode(errors="replace"))
                raise
    figures["raw_per_s"] = (await pass_through.run())["raw_per_s"]
    figures["of_pass_through"] = round(figures["requests_per_s"] / figures["raw_per_s"], 3)
    return figures


async def _measure(prefix: str, log: Any) -> dict[str, Any]:
    store = RedisStore(RedisConfig.from_url(_load.addresses()[1]), prefix)
    now_ms = int(time.time() * 1000)
    await _load.publish(_load.topic(prefix, topics.CAMPAIGNS), _load.campaigns(now_ms))
    before = await _redis_bytes()
    try:
        with _load.workers(prefix, WORKERS, log) as running:
            async with _load.Ends(_load.topic(prefix, topics.DECISIONS)) as decisions:
                await _settled(store, prefix)
                took_s = await _drain(prefix, running, decisions, store)
                stages = _stages(running)
                used = await _redis_bytes() - before
                counters, people = await _counters(store)
                rate = REQUESTS / took_s
                latency = await _latency(prefix, int(rate / 10))
        return {
            "requests_per_s": round(rate),
            "requests": REQUESTS,
            "workers": WORKERS,
            "seconds": round(took_s, 2),
            **stages,
            **latency,
            "redis_bytes_per_counter": round(used / max(1, counters), 1),
            "redis_bytes_per_person": round(used / max(1, people), 1),
            "people": people,
        }
    finally:
        for shard in _shards():
            await store.drop(shard)
        await store.close()


def _shards() -> list[str]:
    return [name(p) for p in range(_load.PARTITIONS) for name in (topics.user_shard, topics.treasury_shard)]


async def _settled(store: RedisStore, prefix: str) -> None:
    """Until every user shard knows every campaign."""

    async def told() -> bool:
        for partition in range(_load.PARTITIONS):
            _, buckets = await store.read_buckets(topics.user_shard(partition), ["campaigns"])
            if len(buckets["campaigns"]) < _load.CAMPAIGNS:
                return False
        return True

    await _load.until(told, 0.2, 60)


async def _drain(
    prefix: str,
    running: Sequence[_load.WorkerProcess],
    decisions: _load.Ends,
    store: RedisStore,
) -> float:
    for worker in running:
        worker.signal(signal.SIGSTOP)
    # Made while the workers stand still, so that no watermark passes the requests' times before they are read.
    load = _load.requests(REQUESTS, int(time.time() * 1000), 20)
    await _load.publish(_load.topic(prefix, topics.AD_REQUESTS), load)
    began = time.perf_counter()
    for worker in running:
        worker.signal(signal.SIGCONT)

    async def decided() -> bool:
        return await decisions.total() >= REQUESTS

    async def written() -> bool:
        return await _handled(store) >= REQUESTS

    await _load.until(decided, 0.1, _DEADLINE_S)
    await _load.until(written, 0.02, _DEADLINE_S)
    return time.perf_counter() - began


async def _handled(store: RedisStore) -> int:
    total = 0
    for partition in range(_load.PARTITIONS):
        meta = await store.read_meta(topics.user_shard(partition))
        if meta is not None:
            total += int(orjson.loads(meta.spine)["positions"][topics.AD_REQUESTS])
    return total


def _stages(running: Sequence[_load.WorkerProcess]) -> dict[str, Any]:
    """Microseconds an event that a worker spends in each stage, from its own metrics."""
    texts = [worker.get("/metrics")[1].decode() for worker in running]

    def total(name: str) -> float:
        pattern = re.compile(rf"^{re.escape(name)} ([0-9.e+-]+)$", re.M)
        return sum(float(found) for text in texts for found in pattern.findall(text))

    stages = {
        "cold_read": 'adgovernor_stage_seconds_sum{stage="read"}',
        "decide_and_encode": 'adgovernor_stage_seconds_sum{stage="decide"}',
        "append": 'adgovernor_stage_seconds_sum{stage="append"}',
        "publish": "adgovernor_publish_seconds_sum",
        "store_write": "adgovernor_store_write_seconds_sum",
    }
    figures: dict[str, Any] = {
        f"{stage}_us": round(1e6 * total(name) / REQUESTS, 1) for stage, name in stages.items()
    }
    figures["cpu_us"] = round(1e6 * total("process_cpu_seconds_total") / REQUESTS, 1)
    figures["ledger_bytes_per_request"] = round(total("adgovernor_ledger_bytes_total") / REQUESTS)
    figures["events_per_block"] = round(
        total("adgovernor_block_events_sum") / max(1, total("adgovernor_block_events_count")), 1
    )
    return figures


async def _redis_bytes() -> int:
    from redis.asyncio import Redis

    client = Redis.from_url(_load.addresses()[1])
    try:
        return int((await client.info("memory"))["used_memory"])
    finally:
        await client.aclose()


async def _counters(store: RedisStore) -> tuple[int, int]:
    """How many capped counters (person and campaign, person and creative) Redis holds, and how many people."""
    counters = people = 0
    for partition in range(_load.PARTITIONS):
        _, buckets = await store.read_buckets(topics.user_shard(partition), ["users"])
        people += len(buckets["users"])
        for value in buckets["users"].values():
            rows = orjson.loads(value).get("s", ())
            counters += len({row[3] for row in rows}) + len({row[4] for row in rows})
    return counters, people


async def _latency(prefix: str, rate: int) -> dict[str, Any]:
    """From the publish to the decision's arrival at a reader, in milliseconds, at ``rate`` requests a second."""
    kafka = _load.addresses()[0]
    step_s = 0.01
    load = _load.requests(rate * LATENCY_S, int(time.time() * 1000), max(1, rate // 1000), seed=2)
    rows = [(p, key, value) for p, messages in load.items() for key, value in messages]
    rows.sort(key=lambda row: orjson.loads(row[2])["request_id"])
    places = [
        TopicPartition(_load.topic(prefix, topics.DECISIONS), partition)
        for partition in range(_load.PARTITIONS)
    ]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, fetch_max_wait_ms=10)
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    await consumer.start()
    await producer.start()
    sent: dict[str, float] = {}
    latencies: list[float] = []

    async def receive() -> None:
        while len(latencies) < len(rows):
            found = await consumer.getmany(timeout_ms=20)
            now = time.perf_counter()
            for messages in found.values():
                for message in messages:
                    assert message.value is not None
                    name = message.value[16 : message.value.index(b'"', 17)].strip(b'"').decode()
                    if name in sent:
                        latencies.append(now - sent.pop(name))

    try:
        consumer.assign(places)
        await consumer.seek_to_end(*places)
        receiving = asyncio.create_task(receive())
        began = time.perf_counter()
        per_step = max(1, round(rate * step_s))
        for number, start in enumerate(range(0, len(rows), per_step)):
            await asyncio.sleep(max(0.0, began + number * step_s - time.perf_counter()))
            now_ms = int(time.time() * 1000)
            for partition, key, value in rows[start : start + per_step]:
                request = orjson.loads(value)
                request["time_ms"] = now_ms
                sent[request["request_id"]] = time.perf_counter()
                await producer.send(
                    _load.topic(prefix, topics.AD_REQUESTS),
                    orjson.dumps(request),
                    key=key,
                    partition=partition,
                )
        async with asyncio.timeout(60):
            await receiving
    finally:
        await producer.stop()
        await consumer.stop()
    cuts = quantiles(latencies, n=100)
    return {
        "latency_rate_per_s": rate,
        "latency_p50_ms": round(cuts[49] * 1000, 1),
        "latency_p99_ms": round(cuts[98] * 1000, 1),
    }
