"""A worker that starts before its servers or topics do: it says that it waits, what for, and begins once they are
there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from at_work import kill, until

import servers
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.runtime.topics_admin import create_topics
from supervised import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Start = Callable[..., "Starting"]


class Starting:
    """A worker and what it answers to probes."""

    def __init__(self, folder: Path, **settings: str) -> None:
        (self.port,) = free_ports(1)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ADGOVERNOR_")}
        self.log = folder / f"worker-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "adgovernor.app.cli", "run", "--metrics-port", str(self.port)],
                env=plain | {f"ADGOVERNOR_{name}": value for name, value in settings.items()},
                stdout=log,
                stderr=log,
            )

    async def asked(self, path: str) -> tuple[int, dict[str, Any]]:
        """What the worker answers; 0 where it does not listen yet."""
        async with httpx.AsyncClient() as client:
            try:
                answer = await client.get(f"http://127.0.0.1:{self.port}{path}")
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                return 0, {}
        return answer.status_code, answer.json()

    async def unready_because(self, word: str) -> None:
        """Until it says that it is alive and not ready, and names this."""

        async def so() -> bool:
            code, told = await self.asked("/readyz")
            return code == 503 and word in told["detail"]

        await until(so, f"/readyz names {word}")
        assert (await self.asked("/healthz"))[0] == 200

    async def works(self) -> None:
        """Until it says that it is ready."""

        async def so() -> bool:
            return (await self.asked("/readyz"))[0] == 200

        await until(so, "the worker is ready")


@pytest.fixture
def start(own_kafka: servers.LocalKafka, own_redis: servers.LocalRedis, tmp_path: Path) -> Iterator[Start]:
    """Starts workers on servers of the test's own; they end with the test."""
    started: list[Starting] = []

    def make(**more: str) -> Starting:
        started.append(
            Starting(
                tmp_path,
                KAFKA__BOOTSTRAP_SERVERS=own_kafka.bootstrap,
                REDIS__URL=own_redis.url,
                PREFIX="early",
                **more,
            )
        )
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.wait()


async def test_a_worker_waits_for_servers_that_come_up_slowly(
    start: Start, own_kafka: servers.LocalKafka, own_redis: servers.LocalRedis
) -> None:
    """Without Kafka and Redis a worker is alive and not ready, and says why; it ends well when told to, with code 3
    when its time is up, and works once both are there."""
    await create_topics(KafkaConnection(own_kafka.bootstrap), "early", 1)
    (redis,), (broker,) = own_redis.processes, own_kafka.brokers
    await kill(redis)
    await kill(broker)
    impatient, patient, told = start(START_WAIT_S="0"), start(), start()
    await told.unready_because(own_kafka.bootstrap)
    told.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(told.process.wait, 30) == 0
    assert await asyncio.to_thread(impatient.process.wait, 60) == 3
    await patient.unready_because(own_kafka.bootstrap)
    await asyncio.to_thread(own_kafka.start_again, 0)
    await patient.unready_because("Redis at ")
    redis.start()

    await patient.works()
    patient.process.terminate()
    assert await asyncio.to_thread(patient.process.wait, 60) == 0


async def test_a_worker_waits_for_topics_that_are_still_to_be_created(
    start: Start, own_kafka: servers.LocalKafka
) -> None:
    """Where workers are started beside what creates their topics, they wait for these, say so once, and end with code 2
    when their time is up."""
    impatient, patient = start(START_WAIT_S="0"), start(LOG_FORMAT="json")
    assert await asyncio.to_thread(impatient.process.wait, 60) == 2
    assert "topics do not exist" in impatient.log.read_text()
    await patient.unready_because("topics do not exist")
    await create_topics(KafkaConnection(own_kafka.bootstrap), "early", 1)
    await patient.works()
    patient.process.terminate()
    assert await asyncio.to_thread(patient.process.wait, 60) == 0
    said = [json.loads(line) for line in patient.log.read_text().splitlines()]
    (waited,) = [line for line in said if line["event"] == "waiting for the topics"]
    assert "adgovernor topics create" in waited["why"]
