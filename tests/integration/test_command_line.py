"""The command line against real servers and a real worker: a deployment from nothing to a replayed history."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from deployments import PATIENCE_S, PROGRAM, Deployment, until

from adgovernor import subscribe
from adgovernor.app.starts import now
from adgovernor.audit.history import KafkaHistory
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.requests import AdRequest
from adgovernor.publish import Publisher
from adgovernor.publish.loadgen import Traffic, ad_requests, campaign_commands
from adgovernor.runtime.topics_admin import create_topics

pytestmark = pytest.mark.servers


@pytest.fixture
def deployment(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> Deployment:
    """A deployment with nothing in it."""
    # Keys in Redis carry the prefix, so that both fixtures clean up behind the same word.
    settings = {"KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap, "REDIS__URL": redis_url}
    return Deployment(f"{topic_prefix}.{redis_namespace}", tmp_path, settings)


@pytest.fixture
def worker(deployment: Deployment) -> Iterator[str]:
    """The address of a running worker's metrics, once it is ready."""
    created = deployment.json("topics", "create", "--partitions", "2")
    assert len(created["created"]) > 20
    with deployment.process("worker", "run", starts='"worker starts"') as (_, base):
        until(lambda: _status(base + "/readyz") == 200, "readiness")
        yield base


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _file(folder: Path, name: str, lines: list[bytes]) -> str:
    path = folder / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def _request(number: int, campaign: str = "spring", user: str = "u1") -> bytes:
    return json.dumps(
        {
            "request_id": f"r{number}",
            "time_ms": int(time.time() * 1000),
            "user_id": user,
            "candidates": [{"campaign_id": campaign, "creative_id": "k"}],
        }
    ).encode()


def test_a_deployment_from_nothing(deployment: Deployment, worker: str) -> None:
    """Campaigns are applied, requests decided and shown, caps and money seen, commands answered, and the recorded
    history is replayed into another deployment."""
    assert {one["level"] for one in deployment.json("check")} <= {"ok", "warning"}

    campaigns = [
        {"account_id": "acme", "time_zone": "Europe/Berlin"},
        {
            "campaign_id": "spring",
            "account_id": "acme",
            "currency": "EUR",
            "budget_micros": 1_000_000,
            "price_micros": 1_000,
            "caps": [{"window": "day", "limit": 2}],
        },
        {"campaign_id": "bad", "account_id": "acme", "budget_micros": -1},
    ]
    file = _file(deployment.folder, "c.jsonl", [json.dumps(row).encode() for row in campaigns])
    applied = deployment.json("campaigns", "apply", file, code=1)
    assert [row["outcome"] for row in applied["commands"]] == ["accepted", "accepted"]
    assert "line 3" in applied["bad"][0]

    def leased() -> bool:
        shown = deployment.json("campaigns", "show", "spring")
        return len(shown["shards"]) == 2 and not shown["in_flight_micros"]

    until(leased, "the first leases")

    requests = [_request(number) for number in range(4)]
    file = _file(deployment.folder, "r.jsonl", [*requests, b"no json", requests[0]])
    published = deployment.json("publish", "ad-requests", file, code=1)
    assert (published["published"], published["bad_lines"][0]["line"]) == (5, 5)
    decisions = deployment.lines("watch", "decisions", "--from-start", "--limit", "4")
    assert [("winner" in d["slots"][0]) for d in decisions] == [True, True, False, False]
    assert decisions[3]["losers"][0]["reasons"][0]["code"] == "capped"
    assert decisions[0]["routing_id"] == "u1"

    shown = [
        json.dumps(
            {
                "decision_id": d["decision_id"],
                "slot": 0,
                "routing_id": d["routing_id"],
                "time_ms": d["time_ms"] + 5,
                "type": "impression",
            }
        ).encode()
        for d in decisions[:2]
    ]
    deployment.run("publish", "impressions", "-", stdin=b"\n".join(shown))

    def spent() -> Any:
        row = deployment.json("campaigns", "list")[0]
        return row if row["spent_micros"] else None

    row = until(spent, "spend")
    assert (row["spent_micros"], row["topped_up_micros"], row["status"]) == (2_000, 1_000_000, "active")
    person = deployment.json("state", "user", "u1")
    assert [(cap["used"], cap["left"]) for cap in person["caps"]] == [(2, 0)]
    assert deployment.json("state", "shard", person["shard"])["positions"]["ad-requests"] >= 5

    pod = json.loads(_request(9, user="u2")) | {"slots": 2, "session_id": "stream"}
    deployment.run("publish", "ad-requests", "-", stdin=json.dumps(pod).encode())
    (created,) = deployment.lines("watch", "pods", "--from-start", "--limit", "1")
    assert (created["type"], created["pod_id"], created["filled"]) == ("pod-created", "r9", 1)
    stream = until(
        lambda: deployment.json("state", "session", "stream", "--user", "u2")["pods"], "the stream's state"
    )
    assert (stream[0]["state"], stream[0]["unfilled"]) == ("open", 1)
    assert "r9" in deployment.run("state", "session", "stream", "--user", "u2")

    up = deployment.json("campaigns", "top-up", "spring", "1.5", "--command-id", "t1")
    assert (up["outcome"], up["topped_up_micros"]) == ("accepted", 2_500_000)
    again = deployment.json("campaigns", "top-up", "spring", "1.5", "--command-id", "t1", code=1)
    assert (again["outcome"], again["reason"]) == ("refused", "duplicate")
    account = {"account_id": "above", "time_zone": "UTC", "currency": "EUR", "budget_micros": 1_000_000}
    deployment.run(
        "campaigns", "apply", _file(deployment.folder, "above.jsonl", [json.dumps(account).encode()])
    )
    assert deployment.json("accounts", "top-up", "above", "2.5")["topped_up_micros"] == 3_500_000
    assert deployment.json("accounts", "credit", "above", "1")["topped_up_micros"] == 4_500_000
    assert deployment.json("accounts", "decrease", "above", "4")["topped_up_micros"] == 500_000
    row = until(
        lambda: [
            one
            for one in deployment.json("accounts", "list")
            if one["account_id"] == "above" and one["left_micros"] == 500_000
        ],
        "the account's state",
    )[0]
    assert (row["topped_up_micros"], row["leased_micros"], row["currency"]) == (500_000, 0, "EUR")
    assert deployment.json("accounts", "decrease", "above", "9", code=1)["outcome"] == "refused"
    assert deployment.json("campaigns", "pause", "spring")["outcome"] == "accepted"
    (paused,) = deployment.lines("watch", "campaign-paused", "--from-start", "--limit", "1")
    assert (paused["type"], paused["reasons"]) == ("campaign-paused", ["manual"])
    assert deployment.lines("watch", "decisions", "--until-end") == []

    with urllib.request.urlopen(worker + "/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'adgovernor_decisions_total{outcome="filled"} 2.0' in metrics
    assert 'adgovernor_spent_micros_total{currency="EUR"} 2000.0' in metrics
    assert _status(worker + "/healthz") == 200

    # The replayed inputs are those that were taken, at their own partitions, and only into an empty deployment.
    other = deployment.prefix + "-again"
    replayed = deployment.json("replay", other)
    assert replayed["published"] == {"ad-requests": 6, "campaigns": 10, "impressions": 2}
    deployment.run("replay", other, code=2)


def test_an_interrupted_publish_says_how_to_go_on(deployment: Deployment) -> None:
    """Ctrl-C ends a publish at once, also while its pipe is silent, and names the line from which to go on."""
    deployment.run("topics", "create", "--partitions", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", PROGRAM, "publish", "ad-requests", "-"],
        env=deployment.environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        for number in range(1_203):
            body = {"request_id": f"r{number}", "time_ms": 1_767_225_600_000, "user_id": f"user-{number}"}
            process.stdin.write(
                b"\n" if number == 7 else json.dumps({**body, "candidates": []}).encode() + b"\n"
            )
        process.stdin.flush()
        asyncio.run(_come(deployment, 1_202))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    found = re.search(
        rb"of 1203 lines read, (\d+) events are acknowledged.* line (\d+): tail -n \+(\d+) FILE", said
    )
    assert found is not None, said
    published, line, again = map(int, found.groups())
    # The last acknowledgements may have been on their way back. One of the first lines is blank.
    assert 1_000 <= published <= 1_202
    assert line == again
    assert published - 100 < line - 2 <= published


async def _come(deployment: Deployment, count: int) -> None:
    """Waits until so many requests are on their topic."""
    kafka = deployment.kafka
    name = topics.full_name(deployment.prefix, topics.AD_REQUESTS)
    async with (
        asyncio.timeout(PATIENCE_S),
        subscribe.PartitionReader(kafka, name, client_id="test") as reader,
    ):
        while sum((await reader.ends(reader.partitions())).values()) < count:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.1)


def test_dead_letters_are_listed_shown_and_replayed(deployment: Deployment, worker: str) -> None:
    """An input that is no event is a dead letter with its bytes untouched; replayed, it becomes another one."""
    poison = [message for message in _stream() if message.kind == "poison" and message.value]

    async def publish() -> None:
        bootstrap = deployment.kafka
        async with Publisher(bootstrap, prefix=deployment.prefix) as publisher:
            await publisher.raw("ad-requests", poison[0].key, b"\xff{", partition=1)

    asyncio.run(publish())

    def letters(count: int) -> Any:
        found = _letters(deployment)
        return found if len(found) == count else None

    (letter,) = until(lambda: letters(1), "a dead letter")
    assert (letter["partition"], letter["offset"], letter["value_b64"]) == (1, 0, "/3s=")
    assert letter["key"] == poison[0].key.decode()
    assert deployment.json("dlq", "show", "ad-requests", "1", "1") == letter
    assert deployment.json("dlq", "replay", "ad-requests", "--reason", "other")["published"] == 0
    assert deployment.json("dlq", "replay", "ad-requests")["published"] == 1
    until(lambda: letters(2), "the second dead letter")


def _stream() -> list[Any]:
    return list(islice(ad_requests(Traffic(poison_percent=50)), 50))


def _letters(deployment: Deployment) -> list[Any]:
    code, out, error = deployment.said("dlq", "list", "ad-requests", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == (1 if found else 0), error
    return found


def test_generated_campaigns_are_applied(deployment: Deployment, worker: str) -> None:
    """Every campaign of generated traffic is accepted, in one file of commands."""
    traffic = Traffic(campaigns=12, accounts=3)
    rows = [command.model_dump_json(exclude_none=True).encode() for command in campaign_commands(traffic)]
    applied = deployment.json("campaigns", "apply", _file(deployment.folder, "g.jsonl", rows))
    assert {row["outcome"] for row in applied["commands"]} == {"accepted"}
    assert len(applied["commands"]) == 15


def test_a_campaign_id_of_another_account_is_told(deployment: Deployment, worker: str) -> None:
    """Defining a campaign under an id that an account of another treasury holds ends with code 1 and says whose it is;
    the holder's own file is applied without a word, again and again."""
    rows = {
        name: b'{"campaign_id": "c1", "account_id": "%s", "price_micros": 1000, "budget_micros": 9000}' % name
        for name in (b"acme", b"buyer", b"clerk", b"dealer")
    }
    holder = _file(deployment.folder, "holder.jsonl", [rows.pop(b"acme")])
    for _ in range(2):
        assert [row["taken_by"] for row in deployment.json("campaigns", "apply", holder)["commands"]] == [
            None
        ]
    others = _file(deployment.folder, "others.jsonl", list(rows.values()))
    told = deployment.json("campaigns", "apply", others, code=1)["commands"]
    accepted = [row for row in told if row["outcome"] == "accepted"]
    # One of them at least has another treasury than acme; acme's own treasury refuses the id.
    assert accepted
    assert {row["taken_by"] for row in accepted} == {"acme"}


@pytest.mark.parametrize("with_store", [True, False])
async def test_a_subscriber_may_begin_now(deployment: Deployment, worker: str, with_store: bool) -> None:
    """A subscriber that starts where the topic is now gets what comes next alone, as store or ledger say."""
    kafka = deployment.kafka
    redis = deployment.redis if with_store else "redis://127.0.0.1:1"
    async with Publisher(kafka, prefix=deployment.prefix) as publisher:
        await publisher.ad_requests(AdRequest.model_validate_json(_request(n)) for n in range(5))
        async with subscribe.decisions(kafka, prefix=deployment.prefix) as decisions:
            before = {(await anext(aiter(decisions))).decision_id for _ in range(5)}
        start = await now(kafka, "decisions", prefix=deployment.prefix, redis=redis)
        await publisher.ad_request(AdRequest.model_validate_json(_request(5)))
    async with subscribe.decisions(kafka, prefix=deployment.prefix, start=start) as decisions:
        first = (await anext(aiter(decisions))).decision_id
    assert (before, first) == ({f"r{n}" for n in range(5)}, "r5")


async def test_a_replay_keeps_its_pace(deployment: Deployment, worker: str) -> None:
    """With --per-s inputs are published no faster, also to workers that have the new deployment's shards already."""
    kafka, other = deployment.kafka, deployment.prefix + "-again"
    async with Publisher(kafka, prefix=deployment.prefix) as publisher:
        await publisher.ad_requests(AdRequest.model_validate_json(_request(n)) for n in range(10))
        async with subscribe.decisions(kafka, prefix=deployment.prefix) as decisions:
            for _ in range(10):
                await anext(aiter(decisions))
    await create_topics(KafkaConnection(kafka), other, 2)
    async with Publisher(kafka, prefix=other) as publisher:
        # Stands for what a worker writes that has taken a shard over.
        await publisher.raw(topics.LEDGER, None, b"{}", partition=0)
    assert deployment.json("replay", other, "--per-s", "5")["published"] == {"ad-requests": 10}
    async with KafkaHistory(kafka, other) as history:
        times = [message.time_ms for p in (0, 1) async for message in history.messages(topics.AD_REQUESTS, p)]
    assert max(times) - min(times) > 9 / 5 * 1000 * 0.9
