"""A sealed deployment on a real Kafka and a real Redis: people are forgotten, and every number still agrees."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from adgovernor.audit.history import KafkaHistory
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Campaign, Cap, UpsertCampaign
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.events import Impression
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.core.machine import Machine
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.publish import Publisher
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.topics_admin import create_topics, describe_topics
from adgovernor.runtime.worker import Worker, WorkerSettings
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig
from adgovernor.subscribe import Subscriber

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PARTITIONS = 2
PEOPLE = 12
FORGOTTEN = ("viewer-2", "viewer-5", "viewer-7")
WAIT_S = 40


def machine(shard: str) -> Machine:
    rules = Rules(partitions=PARTITIONS, sealing=True)
    return machine_of(shard, rules)


@asynccontextmanager
async def working(connection: KafkaConnection, prefix: str, redis: str) -> AsyncIterator[Worker]:
    """A worker that runs meanwhile."""
    store = RedisStore(RedisConfig.from_url(redis), prefix)
    worker = Worker(
        connection,
        store,
        machine,
        WorkerSettings(prefix, sealing=True),
        EngineSettings(prefix, PARTITIONS, keep_states=4, max_events=8),
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task
        await store.close()


async def ask(publisher: Publisher, names: list[str], users: list[str]) -> None:
    """Requests that say much of the people who made them."""
    for name, user in zip(names, users, strict=True):
        await publisher.ad_request(
            AdRequest(
                request_id=name,
                time_ms=int(time.time() * 1000),
                user_id=user,
                device_id=f"phone-of-{user}",
                session_id=f"visit-of-{user}",
                metadata={"page": f"page-of-{user}"},
                candidates=(Candidate(campaign_id="c1", creative_id="x"),),
            )
        )


async def until_defined(redis: str, prefix: str) -> None:
    """Until every user shard has the campaign, and with it a first lease."""
    store = RedisStore(RedisConfig.from_url(redis), prefix)
    async with asyncio.timeout(WAIT_S):
        for partition in range(PARTITIONS):
            while (await store.read_fields(topics.user_shard(partition), "campaigns", ["c1"]))[1] == [None]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    await store.close()


async def keys_there(history: KafkaHistory) -> tuple[int, int]:
    """How many keys the topic has by the last word on each, and how many were ended."""
    last: dict[bytes | None, bool] = {}
    for partition in range(PARTITIONS):
        async for message in history.messages(topics.PERSON_KEYS, partition):
            last[message.key] = message.value is not None
    return sum(last.values()), len(last) - sum(last.values())


async def test_people_are_forgotten_and_the_money_agrees(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str
) -> None:
    """Erased people are nowhere in ledger and store, their keys are ended, and totals agree, also after Redis is
    emptied and rebuilt by another worker."""
    prefix = f"{topic_prefix}.{redis_namespace}"
    connection = KafkaConnection(kafka_bootstrap)
    await create_topics(connection, prefix, PARTITIONS)
    config = (await describe_topics(connection, prefix))[topics.PERSON_KEYS].config
    assert config["cleanup.policy"] == "compact"
    users = [f"viewer-{n}" for n in range(PEOPLE)]
    redis = Redis.from_url(redis_url)
    async with (
        asyncio.timeout(5 * WAIT_S),
        KafkaHistory(connection, prefix) as history,
        Publisher(connection, prefix=prefix) as publisher,
        Subscriber[Decision](connection, topics.DECISIONS, prefix=prefix) as decisions,
    ):
        stream = aiter(decisions)

        async def decided(count: int) -> dict[str, Decision]:
            async with asyncio.timeout(WAIT_S):
                found = [await anext(stream) for _ in range(count)]
            return {one.decision_id: one for one in found}

        async with working(connection, prefix, redis_url):
            await publisher.command(
                UpsertCampaign(
                    command="upsert",
                    command_id="define",
                    account_id="a1",
                    campaign=Campaign(
                        campaign_id="c1",
                        account_id="a1",
                        budget_micros=10**9,
                        price_micros=1000,
                        caps=(Cap(window="lifetime", limit=1),),
                    ),
                )
            )
            await until_defined(redis_url, prefix)
            await ask(publisher, [f"r-{user}" for user in users], users)
            first = await decided(PEOPLE)
            assert all(one.slots[0].winner is not None for one in first.values())
            await publisher.impressions(
                Impression(
                    decision_id=one.decision_id, routing_id=one.routing_id, time_ms=int(time.time() * 1000)
                )
                for one in first.values()
            )
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "adgovernor.app.cli", "people", "erase", *FORGOTTEN],
                env={
                    **os.environ,
                    "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
                    "ADGOVERNOR_PREFIX": prefix,
                },
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            async with asyncio.timeout(WAIT_S):
                while await keys_there(history) != (PEOPLE - len(FORGOTTEN), len(FORGOTTEN)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

        store = RedisStore(RedisConfig.from_url(redis_url), prefix)
        report = await audit(history, prefix, store)
        assert report.green, report.findings
        assert report.counted["records of erased people"] == 3 * len(FORGOTTEN)
        assert report.counted["keys ended by erasures"] == len(FORGOTTEN)
        before = report.campaigns["c1"]
        assert before["spent_micros"] == PEOPLE * 1000

        ledger = b""
        for partition in range(PARTITIONS):
            async for message in history.messages(topics.LEDGER, partition):
                ledger += message.value or b""
        # A request's id is its publisher's, and stays with the money; all else that names somebody is sealed.
        for user in users:
            ledger = ledger.replace(f"r-{user}".encode(), b"")
        assert b"viewer" not in ledger
        kept = [key async for key in redis.scan_iter(match=f"*{prefix}*")]
        stored = b"".join([await redis.dump(key) or b"" for key in kept])
        assert kept
        assert not any(f"of-{user}".encode() in stored for user in FORGOTTEN)
        for shard in range(PARTITIONS):
            _, fields = await store.read_buckets(topics.user_shard(shard), ("users", "keys"))
            assert not fields["users"].keys() & set(FORGOTTEN)
            assert not fields["keys"].keys() & set(FORGOTTEN)

        await redis.delete(*kept)
        async with working(connection, prefix, redis_url):
            await ask(publisher, ["again-2", "again-3"], ["viewer-2", "viewer-3"])
            second = await decided(2)
            assert second["again-2"].slots[0].winner is not None, "a stranger now"
            assert second["again-3"].slots[0].winner is None, "the cap holds"
        report = await audit(history, prefix, store)
        assert report.green, report.findings
        assert report.campaigns["c1"]["spent_micros"] == before["spent_micros"]
        assert report.campaigns["c1"]["topped_up_micros"] == before["topped_up_micros"]
        await store.close()
    await redis.aclose()
