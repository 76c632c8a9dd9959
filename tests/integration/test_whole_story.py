"""The promise as a whole, on a real Kafka and a real Redis: a hundred thousand mixed events, workers killed and
stopped, Redis emptied; afterwards every number agrees, and the audit says so.

How many events: ADGOVERNOR_TEST_EVENTS.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis
from tests.simulation.audit_chain import Findings
from tests.simulation.audit_users import UserAudit

from adgovernor.app.demo_workers import Workers
from adgovernor.audit.apart import Apart, Source
from adgovernor.audit.history import FolderHistory, KafkaHistory, copy
from adgovernor.audit.report import Report
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import BudgetExhausted, MoneyCommand
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.ledger import parse_block
from adgovernor.contracts.routing import partition_of
from adgovernor.core.rules import Rules
from adgovernor.publish import Publisher
from adgovernor.publish.loadgen import Traffic, ad_requests, campaign_commands, follow_ups, publish_messages
from adgovernor.runtime.topics_admin import create_topics
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig
from adgovernor.subscribe import Subscriber

EVENTS = int(os.environ.get("ADGOVERNOR_TEST_EVENTS", "100000"))
PARTITIONS = 8
REQUESTS_PER_S = 2_000
SESSION_MS = 3_000
DEADLINE_S = 600

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1500)]


class Story:
    """One deployment with its traffic; `decisions` are what a subscriber saw, in its order."""

    def __init__(self, kafka: str, redis: str, prefix: str) -> None:
        self.kafka = KafkaConnection(kafka)
        self.redis = redis
        self.prefix = prefix
        self.decisions: dict[str, list[Decision]] = defaultdict(list)
        self.published = 0
        self.followed = 0
        self.traffic = Traffic(
            seed=random.SystemRandom().randrange(10**6),
            start_ms=int(time.time() * 1000),
            requests_per_s=REQUESTS_PER_S,
            users=5_000,
            budget_impressions=max(20, EVENTS // 250),
            repeated_percent=20,
            out_of_order_percent=10,
            poison_percent=1,
            late_percent=1,
            late_impression_percent=2,
            shown_after_ms=2_000,
        )

    def environment(self) -> dict[str, str]:
        return {
            "ADGOVERNOR_PREFIX": self.prefix,
            "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "ADGOVERNOR_REDIS__URL": self.redis,
            "ADGOVERNOR_SESSION_TIMEOUT_MS": str(SESSION_MS),
            "ADGOVERNOR_LOG_LEVEL": "warning",
        }

    async def subscribe(self, publisher: Publisher) -> None:
        """Takes decisions through the SDK, and shows what they won."""
        reader: Subscriber[Decision] = Subscriber(self.kafka, topics.DECISIONS, prefix=self.prefix)
        async with reader:
            async for decision in reader:
                self.decisions[decision.shard].append(decision)
                shown = follow_ups(self.traffic, decision)
                if shown:
                    await publish_messages(publisher, shown)
                    self.followed += len(shown)

    async def top_up(self, publisher: Publisher) -> None:
        """Gives every exhausted campaign money again, once, so that episodes follow each other."""
        reader: Subscriber[BudgetExhausted] = Subscriber(
            self.kafka, topics.BUDGET_EXHAUSTED, prefix=self.prefix
        )
        async with reader:
            async for event in reader:
                if event.episode < 3:
                    await publisher.command(
                        MoneyCommand(
                            command="top-up",
                            command_id=f"again-{event.campaign_id}-{event.episode}",
                            account_id=event.account_id,
                            campaign_id=event.campaign_id,
                            amount_micros=200_000,
                        )
                    )

    async def requests(self, publisher: Publisher) -> None:
        """Asks, at most `REQUESTS_PER_S` and never far ahead of the decisions, so that impressions keep pace on a
        slow machine too."""
        stream = ad_requests(self.traffic)
        while self.published + self.followed < EVENTS:
            chunk = list(islice(stream, REQUESTS_PER_S // 8))
            await publish_messages(publisher, chunk, per_s=REQUESTS_PER_S)
            self.published += len(chunk)
            # A fifth are repetitions and poison, which no decision answers.
            while 0.75 * self.published - sum(map(len, self.decisions.values())) > 4 * REQUESTS_PER_S:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def progress(self) -> float:
        return (self.published + self.followed) / EVENTS

    async def reached(self, part: float) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.progress() < part:  # noqa: ASYNC110 - a count that two tasks raise
                await asyncio.sleep(0.1)


@pytest.fixture
async def story(kafka_bootstrap: str, redis_url: str, topic_prefix: str) -> Story:
    story = Story(kafka_bootstrap, redis_url, topic_prefix)
    await create_topics(story.kafka, story.prefix, PARTITIONS)
    return story


async def prove(story: Story) -> Report:
    """The audit beside the running workers, once nothing is left to handle."""
    source = Source(story.prefix, story.kafka, redis=RedisConfig.from_url(story.redis))
    async with asyncio.timeout(DEADLINE_S), source.opened() as (history, store):
        while True:
            report = await audit(history, story.prefix, store, apart=Apart(source, 2))
            if not any("not handled" in note or "under way" in note for note in report.notes):
                return report
            await asyncio.sleep(1)


async def test_a_hundred_thousand_events_and_everything_that_can_fail(story: Story, tmp_path: Path) -> None:
    """Two workers, one killed and started again, the other stopped beyond its session and continued, Redis emptied:
    one record an input, every cent in its place, no cap broken, one pause an episode, each decision seen once."""
    async with (
        Publisher(story.kafka, prefix=story.prefix) as publisher,
        Workers(story.environment()) as workers,
    ):
        first, second = await workers.start(), await workers.start()
        for command in campaign_commands(story.traffic):
            await publisher.command(command)
        await campaigns_known(story)
        story.traffic = replace(story.traffic, start_ms=int(time.time() * 1000))
        background = [
            asyncio.create_task(story.subscribe(publisher)),
            asyncio.create_task(story.top_up(publisher)),
            asyncio.create_task(story.requests(publisher)),
        ]
        for part, act in (
            (0.3, lambda: workers.kill(first)),
            (0.45, workers.start),
            (0.6, lambda: stop_for(workers.pid(second), 3 * SESSION_MS / 1000)),
            (0.8, lambda: empty(story)),
        ):
            waiting = asyncio.create_task(story.reached(part))
            done, _ = await asyncio.wait([waiting, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await act()
        await background[2]
        report = await prove(story)
        seen = await everything_seen(story, report)
        for task in background[:2]:
            task.cancel()
        await asyncio.gather(*background[:2], return_exceptions=True)
    tell(story, report)
    assert report.green, report.findings[:10]
    assert report.counted["inputs"] > EVENTS
    assert seen == report.counted["outputs on decisions"]
    in_order(story)
    async with KafkaHistory(story.kafka, story.prefix) as history:
        await copy(history, tmp_path)
    pauses_follow_resumes(tmp_path)
    caps_hold(tmp_path)
    await one_changed_byte_is_red(story, tmp_path)


async def campaigns_known(story: Story) -> None:
    """Until the treasuries have told every user shard of every campaign."""
    store = RedisStore(RedisConfig.from_url(story.redis), story.prefix)
    try:
        async with asyncio.timeout(120):
            for partition in range(PARTITIONS):
                known = 0
                while known < story.traffic.campaigns:
                    _, buckets = await store.read_buckets(topics.user_shard(partition), ["campaigns"])
                    known = len(buckets.get("campaigns", ()))
                    await asyncio.sleep(0.1)
    finally:
        await store.close()


def tell(story: Story, report: Report) -> None:
    """What happened, for whoever reads a failure."""
    codes: Counter[str] = Counter()
    for decision in (decision for decisions in story.decisions.values() for decision in decisions):
        codes.update(slot.no_fill or "filled" for slot in decision.slots)
        codes.update(reason.code for loser in decision.losers for reason in loser.reasons)
    print(dict(codes))
    print(report.counted)
    for name, row in sorted(report.campaigns.items()):
        print(name, row)


async def stop_for(pid: int, seconds: float) -> None:
    """A worker that hangs for longer than its session and then goes on as if nothing had happened."""
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


async def empty(story: Story) -> None:
    """All keys of the deployment vanish at one moment, as FLUSHALL does on a server that others do not share."""
    client = Redis.from_url(story.redis)
    try:
        keys = [key async for key in client.scan_iter(match=f"*{story.prefix}*", count=1000)]
        assert await client.unlink(*keys) == len(keys)
    finally:
        await client.aclose()


async def everything_seen(story: Story, report: Report) -> int:
    """How many decisions the subscriber saw, once it has seen all that the ledger holds."""
    expected = report.counted["outputs on decisions"]
    async with asyncio.timeout(60):
        while sum(map(len, story.decisions.values())) < expected:  # noqa: ASYNC110 - the subscriber's own task
            await asyncio.sleep(0.1)
    return sum(map(len, story.decisions.values()))


def in_order(story: Story) -> None:
    """Each decision once, numbered without a gap, in the ledger's order."""
    for decisions in story.decisions.values():
        assert [decision.dn for decision in decisions] == list(range(1, len(decisions) + 1))
        places = [(decision.height, decision.index) for decision in decisions]
        assert places == sorted(places)
    names = [decision.decision_id for decisions in story.decisions.values() for decision in decisions]
    assert len(names) == len(set(names))


def rows(folder: Path, topic: str) -> list[dict[str, object]]:
    """The bodies on a copied topic that a reader who keeps one number a partition takes."""
    taken = []
    for partition in range(PARTITIONS):
        last = 0
        for line in (folder / topic / f"{partition}.jsonl").read_bytes().splitlines():
            body = orjson.loads(orjson.loads(line)["value"])
            if body["dn"] == last + 1:
                last += 1
                taken.append(body)
    return taken


def pauses_follow_resumes(folder: Path) -> None:
    """For each campaign: one pause an episode, a resume between two, one exhaustion for each exhausted pause."""
    paused, resumed = rows(folder, topics.CAMPAIGN_PAUSED), rows(folder, topics.CAMPAIGN_RESUMED)
    pauses = [(body["campaign_id"], body["episode"]) for body in paused]
    resumes = [(body["campaign_id"], body["episode"]) for body in resumed]
    exhausted = [(body["campaign_id"], body["episode"]) for body in rows(folder, topics.BUDGET_EXHAUSTED)]
    assert len(pauses) == len(set(pauses))
    assert len(resumes) == len(set(resumes))
    assert len(exhausted) == len(set(exhausted))
    assert set(exhausted) <= set(pauses)
    assert all((name, int(str(episode)) - 1) in set(pauses) for name, episode in resumes)
    assert exhausted, "the story needs campaigns that run dry"


def caps_hold(folder: Path) -> None:
    """Judged by brute force over the copied ledger: no decision while a window that contains its time was full."""
    found = Findings()
    for partition in range(PARTITIONS):
        judge = UserAudit(
            topics.user_shard(partition),
            lambda routing: partition_of(routing.encode(), PARTITIONS),
            Rules(partitions=PARTITIONS),
            found,
        )
        height, chain = 0, ""
        for line in (folder / topics.LEDGER / f"{partition}.jsonl").read_bytes().splitlines():
            value = orjson.loads(line)["value"].encode()
            header = parse_block(value).header
            if (header.height, header.prev_chain) != (height + 1, chain):
                continue
            height, chain = header.height, parse_block(value).chain
            for record in orjson.loads(value)["records"]:
                judge.take(header.height, header.now_ms, record)
        print(f"u{partition}: {judge.late} late impressions, {judge.degraded} degraded decisions")
    assert not found.found, found.found[:10]


async def one_changed_byte_is_red(story: Story, folder: Path) -> None:
    """The copy with one digit changed is red, and the finding names the place."""
    path = folder / topics.LEDGER / "3.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = len(lines) // 2
    row = orjson.loads(lines[at])
    value: str = row["value"]
    digit = value.index('"now_ms":') + len('"now_ms":')
    row["value"] = value[:digit] + str((int(value[digit]) + 1) % 10) + value[digit + 1 :]
    lines[at] = orjson.dumps(row) + b"\n"
    path.write_bytes(b"".join(lines))
    report = await audit(FolderHistory(folder), story.prefix, None)
    assert not report.green
    assert any(
        finding.check == "chain" and f"ledger[3] offset {at}" in finding.place for finding in report.findings
    )
