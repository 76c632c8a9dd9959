"""A deployment of one partition that loses parts of Kafka: a person's commands, its worker, and its losses."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from deployments import Deployment, until

from adgovernor.audit.history import KafkaHistory


class Site:
    """A deployment that commands are given to as a person gives them, and its worker."""

    def __init__(
        self, prefix: str, bootstrap: str, redis_url: str, folder: Path, *, sealed: bool = False
    ) -> None:
        self.deployment = Deployment(
            prefix,
            folder,
            {
                "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
                "REDIS__URL": redis_url,
                "RULES": json.dumps({"sealing": sealed}),
            },
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

    def begin(self, **more: Any) -> None:
        """Starts with one campaign that has money."""
        self.start()
        campaign = {"campaign_id": "c1", "account_id": "a1", "budget_micros": 100_000, "price_micros": 1_000}
        campaign |= more
        (self.deployment.folder / "campaigns.json").write_text(json.dumps([campaign]))
        self.command("campaigns", "apply", "campaigns.json")

    def ask(self, user: str) -> str:
        """Publishes one request; its id."""
        name = f"{user}-{time.monotonic_ns()}"
        body = {
            "request_id": name,
            "time_ms": time.time_ns() // 1_000_000,
            "user_id": user,
            "candidates": [{"campaign_id": "c1", "creative_id": "x"}],
        }
        self.command("publish", "ad-requests", "-", stdin=json.dumps(body).encode())
        return name

    def decisions(self) -> list[Any]:
        """All that a reader sees, each once and in order."""
        return self.deployment.lines("watch", "decisions", "--from-start", "--until-end")

    def answer(self, request: str) -> bool:
        """Waits for the decision on a request: whether an ad was served."""

        def decided() -> list[bool] | None:
            said = (one for one in self.decisions() if one["decision_id"] == request)
            return [_won(one) for one in said] or None

        (won,) = until(decided, f"a decision on {request}")
        return won

    def show(self, user: str) -> None:
        """Publishes that the ad was shown that this person was served."""
        (decision,) = (one for one in self.decisions() if one["routing_id"] == user and _won(one))
        shown = {name: decision[name] for name in ("decision_id", "routing_id", "time_ms")}
        self.command("publish", "impressions", "-", stdin=json.dumps(shown).encode())

    def serve(self, user: str) -> None:
        """Publishes requests until an ad is reserved: the first ones may come before the money."""

        def served() -> Any:
            self.ask(user)
            # Before the worker has its shard, nothing is known of anybody.
            code, out, _ = self.deployment.said("state", "user", user, "--json")
            return code == 0 and json.loads(out)["servings"]

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

    async def messages(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        """Keys and values of all that a topic has."""
        async with KafkaHistory(self.bootstrap, self.prefix) as history:
            return [(one.key, one.value) async for one in history.messages(topic, 0)]

    async def lose_tail(self, topic: str, keep: int) -> None:
        """The topic is gone, and a copy that had only its first messages is in its place."""
        kept = (await self.messages(topic))[:keep]
        await self.lose(topic)
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all") as producer:
            for offset, (key, value) in enumerate(kept):
                landed = await producer.send_and_wait(f"{self.prefix}.{topic}", value, key, partition=0)
                assert landed.offset == offset


def _won(decision: dict[str, Any]) -> bool:
    return "winner" in decision["slots"][0]
