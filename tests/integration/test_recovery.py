"""A ledger that is gone from a real broker: the shard halts, a person accepts the loss, and the deployment goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from forked import run_program

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]
_WAIT_S = 60.0


class Site:
    """A deployment that commands are given to as a person gives them, and its worker."""

    def __init__(self, prefix: str, bootstrap: str, redis_url: str, folder: Path) -> None:
        self.prefix = prefix
        self.bootstrap = bootstrap
        self.folder = folder
        self.log = folder / "worker.log"
        self.worker: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ADGOVERNOR_")},
            "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "ADGOVERNOR_REDIS__URL": redis_url,
            "ADGOVERNOR_PREFIX": prefix,
            "ADGOVERNOR_METRICS_HOST": "127.0.0.1",
            "ADGOVERNOR_METRICS_PORT": "0",
            "PYTHONUNBUFFERED": "1",
        }

    def command(self, *arguments: str, stdin: str = "") -> Any:
        """A command's JSON document."""
        done = run_program(
            "adgovernor.app.cli",
            [*arguments, "--json"],
            environment=self.environment,
            folder=self.folder,
            stdin=stdin.encode(),
        )
        assert done.returncode == 0, (arguments, done.stdout.decode(), done.stderr.decode())
        return json.loads(done.stdout)

    def campaigns(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.command("campaigns", "list")
        return found

    def start(self) -> None:
        with self.log.open("wb") as file:
            self.worker = subprocess.Popen(
                [sys.executable, "-m", "adgovernor.app.cli", "run"],
                env=self.environment,
                cwd=self.folder,
                stdout=file,
                stderr=file,
            )

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.send_signal(signal.SIGTERM)
            self.worker.wait(30)
            self.worker = None

    def serve(self, user: str) -> None:
        """Publishes requests until an ad is reserved: the first ones may come before the money."""

        def served() -> Any:
            body = {
                "request_id": f"{user}-{time.monotonic_ns()}",
                "time_ms": time.time_ns() // 1_000_000,
                "user_id": user,
                "candidates": [{"campaign_id": "c1", "creative_id": "x"}],
            }
            self.command("publish", "ad-requests", "-", stdin=json.dumps(body) + "\n")
            return self.command("state", "user", user)["servings"]

        until(served, f"an ad for {user}")

    async def lose(self, topic: str) -> None:
        """The topic is gone, and made anew without anything in it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([f"{self.prefix}.{topic}"])
        finally:
            await admin.close()
        until(lambda: self.command("topics", "create", "--partitions", "1")["created"], f"a new {topic}")


def until(ready: Callable[[], Any], what: str) -> None:
    """Asks again until there is an answer, within a bound."""
    deadline = time.monotonic() + _WAIT_S
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come about within {_WAIT_S} s"
        time.sleep(0.3)


async def test_a_treasury_goes_on_without_its_ledger(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, redis_namespace: str, tmp_path: Path
) -> None:
    """A treasury whose ledger is gone halts; recovered, it decides its commands again behind what it had sent, ads are
    served, what it sent can be sent again, and an audit finds every cent or says whose loss was accepted."""
    site = Site(f"{topic_prefix}.{redis_namespace}", kafka_bootstrap, redis_url, tmp_path)
    site.command("topics", "create", "--partitions", "1")
    try:
        site.start()
        campaign = {"campaign_id": "c1", "account_id": "a1", "budget_micros": 100_000, "price_micros": 1_000}
        (tmp_path / "campaigns.json").write_text(json.dumps([campaign]))
        site.command("campaigns", "apply", "campaigns.json")
        site.serve("r1")
        site.stop()

        await site.lose("treasury-ledger")
        site.start()
        until(lambda: "ledger_truncated" in site.log.read_text(), "the halt")
        site.stop()
        told = site.command("recover", "t0", "--accept-loss", "--why", "the disk was lost")
        assert told["epoch"] == 1
        assert told["next_dn"]["campaign-changes"] == 2

        site.start()
        until(lambda: any(one["campaign_id"] == "c1" for one in site.campaigns()), "the campaign")
        site.serve("r2")
        assert site.command("resend", "t0")["messages"] > 0
        site.serve("r3")
        site.stop()
        report = site.command("audit")
        assert report["green"]
        assert any("a person accepted a loss here (epoch 1)" in note for note in report["notes"])
    finally:
        site.stop()
