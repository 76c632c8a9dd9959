"""The yardstick: the same requests read in batches and appended unchanged, acks=all, by two processes.

What a stream processor on this broker and these cores could do at most if it decided nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.bench import _load

from adgovernor.contracts import topics

NEEDS_SERVERS = True

REQUESTS = int(os.environ.get("BENCH_REQUESTS", "300000"))
PROCESSES = int(os.environ.get("BENCH_WORKERS", "2"))


async def run() -> dict[str, Any]:
    """Messages a second."""
    now_ms = int(time.time() * 1000)
    async with _load.deployment() as prefix:
        await _load.publish(
            _load.topic(prefix, topics.AD_REQUESTS), _load.requests(REQUESTS, now_ms, 20, seed=3)
        )
        running = [
            subprocess.Popen(  # noqa: ASYNC220 - nothing else runs meanwhile
                [sys.executable, "-m", "tests.bench.pass_through", prefix, str(n)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for n in range(PROCESSES)
        ]
        try:
            for process in running:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
            began = time.perf_counter()
            for process in running:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
            codes = [await asyncio.to_thread(process.wait, 300) for process in running]
            took_s = time.perf_counter() - began
        finally:
            for process in running:
                process.kill()
                process.wait()
    if any(codes):
        raise RuntimeError(f"a process failed: exit codes {codes}")
    return {"raw_per_s": round(REQUESTS / took_s), "seconds": round(took_s, 2)}


async def _copy(prefix: str, number: int) -> None:
    """Copies this process's share of the partitions, each until its end."""
    kafka = _load.addresses()[0]
    source, target = _load.topic(prefix, topics.AD_REQUESTS), _load.topic(prefix, topics.DECISIONS)
    places = [TopicPartition(source, p) for p in range(_load.PARTITIONS) if p % PROCESSES == number]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, max_partition_fetch_bytes=4 * 1024 * 1024)
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, enable_idempotence=True, acks="all", max_batch_size=1_000_000
    )
    await consumer.start()
    await producer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        left = sum((await consumer.end_offsets(places)).values())
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        pending: set[asyncio.Future[Any]] = set()
        while left:
            for place, messages in (await consumer.getmany(timeout_ms=200, max_records=2000)).items():
                left -= len(messages)
                batch = producer.create_batch()
                for message in messages:
                    if batch.append(timestamp=None, key=message.key, value=message.value) is None:
                        pending.add(await producer.send_batch(batch, target, partition=place.partition))
                        batch = producer.create_batch()
                        batch.append(timestamp=None, key=message.key, value=message.value)
                pending.add(await producer.send_batch(batch, target, partition=place.partition))
            pending = {future for future in pending if not future.done()}
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
        await consumer.stop()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_copy(sys.argv[1], int(sys.argv[2])))
