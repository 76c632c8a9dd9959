"""What a worker and its topics say of themselves before a server is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.core.machine import Machine
from adgovernor.runtime.kafka_inputs import KafkaInputs
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.topics_admin import TopicState, check_topics, topic_config
from adgovernor.runtime.worker import Worker, WorkerSettings
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


@pytest.mark.parametrize(
    ("missing", "mend"), [(topics.LEDGER, "held money"), (topics.DECISIONS, "adgovernor topics create")]
)
def test_a_ledger_that_is_gone_is_not_simply_made_anew(missing: str, mend: str) -> None:
    """Of a deployment's topics a missing ledger is a loss to look into; any other is created."""
    there = {
        name: TopicState(f"p.{name}", 2, 3, topic_config(name, 3))
        for name in topics.ALL_TOPICS
        if name != missing
    }
    worst = check_topics(there)[0]
    assert (worst.level, mend in worst.mend) == ("error", True), worst
