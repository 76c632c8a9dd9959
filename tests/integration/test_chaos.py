"""Faults drawn at random, one after the other, on a broker, a Redis and two workers that are real processes: killed,
stopped and continued, told to end, emptied, robbed of keys. Afterwards every number agrees, and the audit says so.
The second time the ledger is sealed, and people ask to be forgotten meanwhile.

For how long: ADGOVERNOR_TEST_CHAOS_S. Which faults: ADGOVERNOR_TEST_CHAOS_SEED; the same seed draws the same ones.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

import servers
from adgovernor.audit.history import KafkaHistory
from adgovernor.audit.report import Report
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import AdGovernorError
from adgovernor.contracts.events import Erasure
from adgovernor.publish import Publisher
from adgovernor.publish.loadgen import Traffic, ad_requests, campaign_commands, follow_ups, publish_messages
from adgovernor.runtime.topics_admin import create_topics
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig
from adgovernor.subscribe import Subscriber

CHAOS_S = float(os.environ.get("ADGOVERNOR_TEST_CHAOS_S", "60"))
SEED = int(os.environ.get("ADGOVERNOR_TEST_CHAOS_SEED", "1"))
PARTITIONS = 4
PREFIX = "chaos"
REQUESTS_PER_S = 300
FORGOTTEN = 0.02
"""How many of those decided for ask to be forgotten."""
SETTLED_S = 300
PUBLISH_S = 60
ENDINGS = {0, 3, -signal.SIGKILL, -signal.SIGTERM}
"""Of workers: told to end, no server at the start, killed, told to end before it had begun."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(CHAOS_S + 3 * SETTLED_S)]


class Chaos:
    """A deployment at work, and what can happen to it."""

    def __init__(
        self, kafka: servers.LocalKafka, redis: servers.LocalRedis, folder: Path, *, sealed: bool
    ) -> None:
        self.sealed = sealed
        self.rng = random.Random(SEED)
        self.kafka = kafka
        self.redis = redis
        self.connection = KafkaConnection(kafka.bootstrap)
        self.traffic = Traffic(
            seed=SEED,
            campaigns=30,
            users=2_000,
            budget_impressions=400,
            start_ms=int(time.time() * 1000),
            requests_per_s=REQUESTS_PER_S,
            repeated_percent=5,
            out_of_order_percent=5,
            late_percent=1,
            poison_percent=1,
            late_impression_percent=5,
            shown_after_ms=3_000,
        )
        self.stopping = False
        self.seen: Counter[tuple[str, int, int]] = Counter()
        """Decisions by their record."""
        self.ids: set[str] = set()
        self._log = folder / "workers.log"
        self.workers = [self._start(), self._start()]
        self.faults = {
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

    # --- Workers ----------------------------------------------------------------------------------------------

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "adgovernor.app.cli", "run", "--metrics-port", "0"],
                env={
                    **os.environ,
                    "ADGOVERNOR_PREFIX": PREFIX,
                    "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap,
                    "ADGOVERNOR_REDIS__URL": self.redis.url,
                    "ADGOVERNOR_SESSION_TIMEOUT_MS": "3000",
                    "ADGOVERNOR_LOG_LEVEL": "warning",
                    "ADGOVERNOR_RULES": orjson.dumps({"sealing": self.sealed}).decode(),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def supervise(self) -> None:
        """Starts a worker that has ended again, as whatever runs workers does."""
        while True:
            for number, worker in enumerate(self.workers):
                if worker.poll() is not None:
                    tail = self._log.read_text(errors="replace")[-3_000:]
                    assert worker.returncode in ENDINGS, f"a worker ended with {worker.returncode}:\n{tail}"
                    self.workers[number] = self._start()
            await asyncio.sleep(0.5)

    def end(self) -> list[int]:
        """Tells all workers to end; their exit codes."""
        for worker in self.workers:
            worker.terminate()
        return [worker.wait(60) for worker in self.workers]

    # --- Faults -----------------------------------------------------------------------------------------------

    async def _kill_worker(self) -> None:
        self.rng.choice(self.workers).kill()

    async def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.kill()

    async def _end_worker(self) -> None:
        self.rng.choice(self.workers).terminate()

    async def _hang_worker(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(2, 8))
        worker.send_signal(signal.SIGCONT)

    async def _kill_redis(self) -> None:
        (process,) = self.redis.processes
        process.send_signal(signal.SIGKILL)
        process.wait_dead()
        await asyncio.sleep(self.rng.uniform(0, 4))
        process.start()

    async def _hang_redis(self) -> None:
        await self._hang(self.redis.processes[0], 7)

    async def _empty_redis(self) -> None:
        async with Redis.from_url(self.redis.url) as client:
            await client.flushall()

    async def _rob_redis(self) -> None:
        async with Redis.from_url(self.redis.url) as client:
            keys = sorted(await client.keys("*"))
            if keys:
                await client.delete(*self.rng.sample(keys, min(3, len(keys))))

    async def _kill_broker(self) -> None:
        (process,) = self.kafka.brokers
        process.send_signal(signal.SIGKILL)
        process.wait_dead()
        await asyncio.sleep(self.rng.uniform(0, 4))
        await asyncio.to_thread(self.kafka.start_again, 0)

    async def _hang_broker(self) -> None:
        await self._hang(self.kafka.brokers[0], 9)

    async def _hang(self, process: servers.Supervised, most_s: float) -> None:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(1, most_s))
        process.send_signal(signal.SIGCONT)

    # --- Traffic ----------------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Publishes requests until told to stop; what was not acknowledged is published again."""
        stream = ad_requests(self.traffic)
        async with Publisher(self.connection, prefix=PREFIX, deadline_s=PUBLISH_S) as publisher:
            await publisher.commands(campaign_commands(self.traffic))
            while not self.stopping:
                chunk = list(islice(stream, REQUESTS_PER_S // 5))
                while True:
                    try:
                        await publish_messages(publisher, chunk, per_s=REQUESTS_PER_S)
                        break
                    except AdGovernorError as error:
                        print("publishing again:", error)

    async def show(self) -> None:
        """Shows what decisions won. Whatever ends the reading, it goes on where it was."""
        reader: Subscriber[Decision] | None = None
        start = None
        async with Publisher(self.connection, prefix=PREFIX, deadline_s=PUBLISH_S) as publisher:
            while True:
                try:
                    reader = Subscriber(self.connection, topics.DECISIONS, prefix=PREFIX, start=start)
                    async with reader:
                        async for decision in reader:
                            self.seen[decision.shard, decision.height, decision.index] += 1
                            self.ids.add(decision.decision_id)
                            start = reader.positions()
                            await publish_messages(publisher, follow_ups(self.traffic, decision))
                            if self.sealed and self.rng.random() < FORGOTTEN:
                                await publisher.user_event(erasure(decision))
                except AdGovernorError as error:
                    print("reading on:", error)
                    await asyncio.sleep(1)


def erasure(decision: Decision) -> Erasure:
    """Whom a decision was for asks to be forgotten."""
    now_ms = int(time.time() * 1000)
    return Erasure(type="erasure", routing_id=decision.routing_id, time_ms=now_ms)


@pytest.fixture(params=[False, True], ids=["open", "sealed"])
async def chaos(
    request: pytest.FixtureRequest,
    own_kafka: servers.LocalKafka,
    own_redis: servers.LocalRedis,
    tmp_path: Path,
) -> AsyncIterator[Chaos]:
    await create_topics(KafkaConnection(own_kafka.bootstrap), PREFIX, PARTITIONS)
    chaos = Chaos(own_kafka, own_redis, tmp_path, sealed=request.param)
    yield chaos
    for worker in chaos.workers:
        worker.kill()
        worker.wait()


async def test_whatever_fails_every_number_agrees(chaos: Chaos) -> None:
    """After faults of every kind, at random and one upon the other: one record an input, each decision once at its
    reader, every cent in its place, Redis the fold of the ledger, and both workers end well."""
    background = [asyncio.create_task(act()) for act in (chaos.supervise, chaos.ask, chaos.show)]
    faults = asyncio.create_task(run_faults(chaos))
    done, _ = await asyncio.wait([*background, faults], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    chaos.stopping = True
    await background[1]
    report = await prove(chaos)
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    print(report.counted)
    assert report.green, report.findings[:10]
    assert ("keys ended by erasures" in report.counted) == chaos.sealed
    assert set(chaos.seen.values()) == {1}
    # Nobody remembers that somebody who was forgotten has asked before.
    assert len(chaos.ids) == len(chaos.seen) or chaos.sealed
    assert len(chaos.seen) == report.counted["outputs on decisions"]
    assert chaos.end() == [0, 0]


async def run_faults(chaos: Chaos) -> None:
    """One fault after the other, in an order that the seed says; each kind before any comes again."""
    until = time.monotonic() + CHAOS_S
    while True:
        for name in chaos.rng.sample(sorted(chaos.faults), len(chaos.faults)):
            await asyncio.sleep(chaos.rng.uniform(1, 6))
            if time.monotonic() > until:
                return
            print(f"{len(chaos.seen)} decisions seen: {name}")
            await chaos.faults[name]()


async def prove(chaos: Chaos) -> Report:
    """The audit beside the running workers, once all is handled, said and seen."""
    store = RedisStore(RedisConfig.from_url(chaos.redis.url), PREFIX)
    try:
        async with asyncio.timeout(SETTLED_S), KafkaHistory(chaos.connection, PREFIX) as history:
            while True:
                report = await audit(history, PREFIX, store)
                waiting = any("not " in note or "under way" in note for note in report.notes)
                seen_all = len(chaos.seen) >= report.counted["outputs on decisions"]
                if not report.green or (seen_all and not waiting):
                    return report
                await asyncio.sleep(2)
    finally:
        await store.close()
