"""Faults drawn at random, one after the other, on a broker, a Redis and two workers that are real processes: killed,
stopped and continued, told to end, emptied, robbed of keys. Afterwards every number agrees, and the audit says so.
The second time the ledger is sealed, and people ask to be forgotten meanwhile.

For how long: ADGOVERNOR_TEST_CHAOS_S. Which faults: ADGOVERNOR_TEST_CHAOS_SEED; the same seed draws the same ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from at_work import SETTLED_S, AtWork, at_work, hang, kill
from redis.asyncio import Redis

import servers
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.runtime.topics_admin import create_topics

CHAOS_S = float(os.environ.get("ADGOVERNOR_TEST_CHAOS_S", "60"))
SEED = int(os.environ.get("ADGOVERNOR_TEST_CHAOS_SEED", "1"))
PARTITIONS = 4
PREFIX = "chaos"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(CHAOS_S + 3 * SETTLED_S)]


class Faults:
    """What can happen to a deployment at work."""

    def __init__(self, work: AtWork, kafka: servers.LocalKafka, redis: servers.LocalRedis) -> None:
        self.work = work
        self.rng = work.rng
        self.kafka = kafka
        self.redis = redis
        self.kinds = {
            "a worker is killed": self._kill_worker,
            "both workers are killed": self._kill_workers,
            "a worker is told to end": self._end_worker,
            "a worker hangs": self._hang_worker,
            "Redis is killed with all that it held": self._kill_redis,
            "Redis hangs": self._hang_redis,
            "Redis is emptied": self._empty_redis,
            "Redis loses some keys": self._rob_redis,
            "the broker is killed": self._kill_broker,
            "the broker hangs": self._hang_broker,
        }

    async def happen(self) -> None:
        """One after the other, in an order that the seed says; each kind before any comes again."""
        until = time.monotonic() + CHAOS_S
        while True:
            for name in self.rng.sample(sorted(self.kinds), len(self.kinds)):
                await asyncio.sleep(self.rng.uniform(1, 6))
                if time.monotonic() > until:
                    return
                print(f"{len(self.work.seen)} decisions seen: {name}")
                await self.kinds[name]()

    async def _kill_worker(self) -> None:
        self.rng.choice(self.work.workers).kill()

    async def _kill_workers(self) -> None:
        for worker in self.work.workers:
            worker.kill()

    async def _end_worker(self) -> None:
        self.rng.choice(self.work.workers).terminate()

    async def _hang_worker(self) -> None:
        worker = self.rng.choice(self.work.workers)
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(2, 8))
        worker.send_signal(signal.SIGCONT)

    async def _kill_redis(self) -> None:
        (process,) = self.redis.processes
        await kill(process)
        await asyncio.sleep(self.rng.uniform(0, 4))
        process.start()

    async def _hang_redis(self) -> None:
        await hang(self.redis.processes[0], self.rng.uniform(1, 7))

    async def _empty_redis(self) -> None:
        async with Redis.from_url(self.redis.url) as client:
            await client.flushall()

    async def _rob_redis(self) -> None:
        async with Redis.from_url(self.redis.url) as client:
            keys = sorted(await client.keys("*"))
            if keys:
                await client.delete(*self.rng.sample(keys, min(3, len(keys))))

    async def _kill_broker(self) -> None:
        await kill(self.kafka.brokers[0])
        await asyncio.sleep(self.rng.uniform(0, 4))
        await asyncio.to_thread(self.kafka.start_again, 0)

    async def _hang_broker(self) -> None:
        await hang(self.kafka.brokers[0], self.rng.uniform(1, 9))


@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
async def test_whatever_fails_every_number_agrees(
    own_kafka: servers.LocalKafka, own_redis: servers.LocalRedis, tmp_path: Path, sealed: bool
) -> None:
    """After faults of every kind, at random and one upon the other: one record an input, each decision once at its
    reader, every cent in its place, Redis the fold of the ledger, and both workers end well."""
    await create_topics(KafkaConnection(own_kafka.bootstrap), PREFIX, PARTITIONS)
    async with at_work(own_kafka.bootstrap, own_redis.url, PREFIX, tmp_path, SEED, sealed=sealed) as work:
        await work.run(Faults(work, own_kafka, own_redis).happen)
