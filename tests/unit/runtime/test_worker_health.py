"""What a worker says of itself before a server is asked."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka import TopicPartition

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.core.machine import Machine
from adgovernor.runtime.kafka_inputs import KafkaInputs
from adgovernor.runtime.kafka_reader import KafkaReaders
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.worker import Worker, WorkerSettings, _Running
from adgovernor.stores.memory import MemoryStore


def machine(shard: str) -> Machine:
    """No shard is started here."""
    raise AssertionError(shard)


@pytest.fixture
async def worker() -> Worker:
    """A worker that has nothing to do."""
    settings = WorkerSettings("p", "p.workers", 6_000)
    made = Worker(
        KafkaConnection("nowhere:1"),
        MemoryStore(),
        machine,
        settings,
        EngineSettings(prefix="p", partitions=2),
    )
    made._assigned = True
    return made


async def test_halted_shards_are_named_and_leave_a_worker_ready(worker: Worker) -> None:
    """A halted shard wants a person, not another worker; both probes say which it is."""
    worker._halted = {"u3": "its ledger lost its tail", "t1": "as well"}
    health = worker.health()
    assert (health.alive, health.ready, health.detail) == (True, True, "halted: t1, u3")
    assert health.shards["u3"] == "its ledger lost its tail"


@pytest.mark.parametrize(("silent_s", "ready"), [(9.0, True), (11.0, False)])
async def test_a_worker_that_kafka_does_not_answer_is_alive_and_not_ready(
    worker: Worker, silent_s: float, ready: bool
) -> None:
    """Reads that are not answered for ten seconds make a worker not ready; restarting it would not help."""
    worker._inputs = cast(KafkaInputs, SimpleNamespace(silent_s=silent_s))
    health = worker.health()
    assert (health.alive, health.ready) == (True, ready)
    assert ("Kafka has not answered" in health.detail) != ready


@pytest.mark.parametrize(("unacknowledged_s", "ready"), [(9.0, True), (11.0, False)])
async def test_a_worker_whose_blocks_are_not_acknowledged_is_alive_and_not_ready(
    worker: Worker, unacknowledged_s: float, ready: bool
) -> None:
    """Where too few replicas are there to take a block, while reads are answered, it is no fault of the worker's."""
    worker._running = {"u1": running(unacknowledged_s=unacknowledged_s)}
    health = worker.health()
    assert (health.alive, health.ready) == (True, ready)
    assert ("acknowledges nothing: u1" in health.detail) != ready


async def test_whoever_asked_hears_of_any_error_of_a_shared_read() -> None:
    """Tails are read together; an error that nobody foresaw reaches each who waits, and leaves none waiting."""

    class Broken(KafkaReaders):
        async def _tails(self, counts: object) -> dict[TopicPartition, list[object]]:
            raise LookupError("a bug")

    readers = Broken(KafkaConnection("nowhere:1"))
    asked = [asyncio.create_task(readers.tail("decisions", partition, 5)) for partition in range(2)]
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [repr(answer) for answer in answers] == ["LookupError('a bug')"] * 2
    await readers.close()


def running(*, ready: bool = True, idle_s: float = 0.0, unacknowledged_s: float = 0.0) -> _Running:
    """A shard's engine that has moved so long ago."""
    engine = SimpleNamespace(progress=1, ready=ready, unacknowledged_s=unacknowledged_s)
    return cast(_Running, SimpleNamespace(engine=engine, progress=1, moved_s=time.monotonic() - idle_s))


async def test_a_shard_that_does_not_move_makes_a_worker_dead(worker: Worker) -> None:
    """A shard without progress for a minute is stuck, which a restart mends; before that it may be waiting."""
    worker._running = {"u0": running(idle_s=61), "t0": running(idle_s=59)}
    health = worker.health()
    assert (health.alive, health.ready, health.detail) == (False, False, "no progress for 60 s: u0")
    worker._running["u0"].progress = 0  # It has moved since.
    assert worker.health().alive


async def test_a_worker_is_ready_once_all_its_shards_are(worker: Worker) -> None:
    """Until the group has decided and every shard is in memory the worker says what it waits for, halts or not."""
    worker._halted = {"u3": "its ledger lost its tail"}
    worker._running = {"u0": running(), "t0": running(ready=False)}
    health = worker.health()
    assert (health.alive, health.ready, health.detail) == (True, False, "taking over: t0")
    assert (health.shards["u0"], health.shards["t0"]) == ("running", "taking over")
    worker._assigned = False
    health = worker.health()
    assert (health.ready, health.detail) == (False, "the group has not decided yet")


async def test_a_halt_is_forgotten_with_its_shard(worker: Worker) -> None:
    """A halted shard that went to another worker is that one's to tell of, in metrics as well."""

    class Told(Observer):
        def halt_left(self, shard: str) -> None:
            left.append(shard)

    left: list[str] = []
    worker._observer = Told()
    worker._halted = {"u0": "its ledger lost its tail", "u1": "as well"}
    owned = {(topic, 0) for topic in topics.USER_INPUTS}
    worker._inputs = cast(KafkaInputs, SimpleNamespace(owned=owned, silent_s=0.0))
    await worker._reconcile()
    assert (worker.health().detail, left) == ("halted: u0", ["u1"])
