"""What production does to brokers of which there are three: restarted one by one, a leader killed or hung, most of them
gone. Two workers go on, and every number agrees.

Who is hit, and when: ADGOVERNOR_TEST_CHAOS_SEED; the same seed draws the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from at_work import SETTLED_S, SOON_S, AtWork, at_work, hang, kill, until
from forked import run_program

import servers
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.runtime.topics_admin import check_replicas, check_topics, create_topics, describe_topics

SEED = int(os.environ.get("ADGOVERNOR_TEST_CHAOS_SEED", "1"))
PARTITIONS = 2

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(3 * SETTLED_S)]


class Brokers:
    """What can happen to three brokers under a deployment at work."""

    def __init__(self, work: AtWork, kafka: servers.LocalKafka) -> None:
        self.work = work
        self.rng = work.rng
        self.kafka = kafka

    async def happen(self) -> None:
        """All of it, one after the other; what was acknowledged before is still there after each."""
        for fault in (self.restarted, self.leader_killed, self.leader_hung, self.most_gone):
            await self.work.more_seen(200)
            print(f"{len(self.work.seen)} decisions seen: {fault.__name__}")
            await fault()
            await self.whole()
        await self.work.more_seen(200)

    async def restarted(self) -> None:
        """One broker after the other is told to end and started again once it has, as an upgrade does it."""
        for broker in self.rng.sample(range(3), 3):
            self.kafka.brokers[broker].send_signal(signal.SIGTERM)
            await asyncio.to_thread(self.kafka.brokers[broker].wait_dead, SOON_S)
            await self.back(broker)
            await self.whole()

    async def leader_killed(self) -> None:
        """The leader of a ledger's partition dies; the two others decide without it before it comes back, and answer
        about topics also while they still take it for one of them."""
        broker = await self.leader()
        await kill(self.kafka.brokers[broker])
        for _ in range(10):
            await describe_topics(self.work.connection, self.work.prefix)
        await self.work.more_seen(200)
        found = await describe_topics(self.work.connection, self.work.prefix)
        assert [finding.level for finding in check_replicas(found)] == ["warning"]
        await self.back(broker)

    async def leader_hung(self) -> None:
        """The leader hangs until another was made leader, and goes on as if it still were."""
        await hang(self.kafka.brokers[await self.leader()], self.rng.uniform(8, 10))

    async def most_gone(self) -> None:
        """One of three is left: nothing is acknowledged until another is back."""
        gone = self.rng.sample(range(3), 2)
        for broker in gone:
            self.kafka.brokers[broker].send_signal(signal.SIGKILL)
        for broker in gone:
            await asyncio.to_thread(self.kafka.brokers[broker].wait_dead)
        # What was acknowledged before is heard of first.
        await asyncio.sleep(1)
        before = len(self.work.asked)
        told = await asyncio.to_thread(self.check)
        assert ("kafka", "error") in {(one["where"], one["level"]) for one in told}, told

        async def unready() -> bool:
            return await self.work.probed("/readyz") == [503, 503]

        await until(unready, "both workers say that they are not ready")
        assert await self.work.probed("/healthz") == [200, 200]
        assert len(self.work.asked) == before, "requests were acknowledged by one replica of three"
        await asyncio.gather(*map(self.back, gone))

    def check(self) -> list[dict[str, str]]:
        """What `adgovernor check` finds while Kafka cannot be used."""
        options = (
            "--prefix",
            self.work.prefix,
            "--kafka",
            self.work.bootstrap,
            "--redis",
            self.work.redis_url,
        )
        done = run_program("adgovernor.app.cli", (*options, "check", "--json"))
        assert done.returncode == 3, done
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    async def back(self, broker: int) -> None:
        """Starts a broker again, and waits until it serves."""
        await asyncio.to_thread(self.kafka.start_again, broker)

    async def leader(self) -> int:
        """Who leads one of the ledger's partitions: its place among the brokers."""
        partition = self.rng.randrange(PARTITIONS)
        name = topics.full_name(self.work.prefix, topics.LEDGER)
        async with admin(self.work.connection) as client:
            (told,) = await client.describe_topics([name])
        return next(int(one["leader"]) - 1 for one in told["partitions"] if one["partition"] == partition)

    async def whole(self) -> None:
        """Until every partition has all its replicas in sync: only then may the next broker go."""

        async def in_sync() -> bool:
            found = await describe_topics(self.work.connection, self.work.prefix)
            return all(set(state.in_sync) == {3} for state in found.values())

        await until(in_sync, "all replicas in sync")


@asynccontextmanager
async def admin(connection: KafkaConnection) -> AsyncIterator[Any]:
    """A client for what the product does not ask."""
    client = AIOKafkaAdminClient(**connection.client_options())
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def test_three_brokers_restarted_killed_hung_and_gone(
    own_brokers: servers.LocalKafka, own_redis: servers.LocalRedis, tmp_path: Path
) -> None:
    """Topics of three replicas, of which two acknowledge: through a rolling restart, a killed and a hung leader and the
    loss of two of three nothing acknowledged is lost, and each decision is said once."""
    connection = KafkaConnection(own_brokers.bootstrap)
    await create_topics(connection, "cluster", PARTITIONS)
    found = await describe_topics(connection, "cluster")
    assert {state.replication for state in found.values()} == {3}
    assert {state.config["min.insync.replicas"] for state in found.values()} == {"2"}
    assert [finding.level for finding in check_topics(found)] == ["ok"]
    async with at_work(own_brokers.bootstrap, own_redis.url, "cluster", tmp_path, SEED, 100) as work:
        await work.run(Brokers(work, own_brokers).happen)
