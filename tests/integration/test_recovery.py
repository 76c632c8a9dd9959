"""A ledger that is gone from a real broker: the shard halts, a person accepts the loss, and the deployment goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from deployments import Deployment, until

from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


class Site:
    """A deployment that commands are given to as a person gives them, and its worker."""

    def __init__(self, prefix: str, bootstrap: str, redis_url: str, folder: Path) -> None:
        self.deployment = Deployment(
            prefix, folder, {"KAFKA__BOOTSTRAP_SERVERS": bootstrap, "REDIS__URL": redis_url}
        )
        self.prefix = prefix
        self.bootstrap = bootstrap
        self.command = self.deployment.json
        self.worker: subprocess.Popen[bytes] | None = None

    def said(self, *arguments: str) -> tuple[int, str]:
        """A command's exit code, and all that it says."""
        code, out, error = self.deployment.said(*arguments)
        return code, out + error

    def log(self) -> str:
        """What the worker has said."""
        return self.deployment.log("worker")

    def start(self) -> None:
        self.worker = self.deployment.start("worker", "run")

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.send_signal(signal.SIGTERM)
            self.worker.wait(30)
            self.worker = None

    def begin(self) -> None:
        """Starts with one campaign that has money."""
        self.start()
        campaign = {"campaign_id": "c1", "account_id": "a1", "budget_micros": 100_000, "price_micros": 1_000}
        (self.deployment.folder / "campaigns.json").write_text(json.dumps([campaign]))
        self.command("campaigns", "apply", "campaigns.json")

    def serve(self, user: str) -> None:
        """Publishes requests until an ad is reserved: the first ones may come before the money."""

        def served() -> Any:
            body = {
                "request_id": f"{user}-{time.monotonic_ns()}",
                "time_ms": time.time_ns() // 1_000_000,
                "user_id": user,
                "candidates": [{"campaign_id": "c1", "creative_id": "x"}],
            }
            self.command("publish", "ad-requests", "-", stdin=json.dumps(body).encode())
            return self.command("state", "user", user)["servings"]

        until(served, f"an ad for {user}")

    async def delete(self, topic: str, before: int) -> None:
        """The first messages of a topic are gone, as with retention."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            place = TopicPartition(f"{self.prefix}.{topic}", 0)
            await admin.delete_records({place: RecordsToDelete(before_offset=before)})
        finally:
            await admin.close()

    async def lose(self, topic: str) -> None:
        """The topic is gone, and made anew without anything in it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([f"{self.prefix}.{topic}"])
        finally:
            await admin.close()
        until(lambda: self.command("topics", "create", "--partitions", "1")["created"], f"a new {topic}")


async def test_a_treasury_goes_on_without_its_ledger(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> None:
    """A treasury whose ledger is gone halts; recovered, it decides its commands again behind what it had sent, ads are
    served, what it sent can be sent again, and an audit finds every cent or says whose loss was accepted."""
    site = Site(f"{topic_prefix}.{redis_namespace}", kafka_bootstrap, redis_url, tmp_path)
    site.command("topics", "create", "--partitions", "1")
    try:
        site.begin()
        site.serve("r1")
        site.stop()

        await site.lose("treasury-ledger")
        site.start()
        until(lambda: "ledger_truncated" in site.log(), "the halt")
        site.stop()
        told = site.command("recover", "t0", "--accept-loss", "--why", "the disk was lost")
        assert told["epoch"] == 1
        assert told["next_dn"]["campaign-changes"] == 2

        site.start()
        until(
            lambda: any(one["campaign_id"] == "c1" for one in site.command("campaigns", "list")),
            "the campaign",
        )
        site.serve("r2")
        assert site.command("resend", "t0")["messages"] > 0
        site.serve("r3")
        site.stop()
        report = site.command("audit")
        assert report["green"]
        assert any("a person accepted a loss here (epoch 1)" in note for note in report["notes"])
    finally:
        site.stop()


async def test_a_ledger_without_its_beginning_is_named_by_all_who_need_it(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> None:
    """A shard goes on without its ledger's beginning as long as Redis has its state, and halts for that reason where it
    has not; check, state, audit and replay say what is gone, and watch begins with what is left of its topic."""
    site = Site(f"{topic_prefix}.{redis_namespace}", kafka_bootstrap, redis_url, tmp_path)
    site.command("topics", "create", "--partitions", "1")
    store = RedisStore(RedisConfig.from_url(redis_url), site.prefix)
    try:
        site.begin()
        site.serve("r1")
        site.serve("r2")
        site.stop()
        code, said = site.said("recover", "u0", "--accept-loss", "--why", "a mistake")
        assert (code, "agree with its ledger" in said) == (2, True), said

        await site.delete("ledger", 3)
        await site.delete("decisions", 1)
        code, said = site.said("watch", "decisions", "--from-start", "--until-end")
        first, told = said.splitlines()[0], "decisions[0] begins with number 2 (offset 1)"
        assert (code, json.loads(first)["dn"], told in said) == (0, 2, True), said

        site.start()
        site.serve("r3")
        site.stop()
        gone = f"{site.prefix}.ledger[0] begins at offset 3"
        for expected, *arguments in ((1, "check"), (0, "state", "shard", "u0"), (2, "replay", "elsewhere")):
            code, said = site.said(*map(str, arguments))
            assert (code, gone in " ".join(said.split())) == (expected, True), (arguments, said)
        code, said = site.said("audit", "--json")
        findings = json.loads(said)["findings"]
        assert (code, [finding["place"] for finding in findings]) == (1, ["ledger[0]"]), said

        await store.drop("u0")
        site.start()
        until(lambda: "ledger_cut" in site.log(), "the halt")
    finally:
        site.stop()
        await store.close()
