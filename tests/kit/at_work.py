"""A deployment at work while a test breaks its servers: workers that are processes and are started again when they end,
somebody who asks for ads, somebody who shows what was decided; and the proof that every number agrees afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import orjson

import servers
from adgovernor.audit.history import KafkaHistory
from adgovernor.audit.report import Report
from adgovernor.audit.verify import audit
from adgovernor.contracts import topics
from adgovernor.contracts.connections import KafkaConnection
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import AdGovernorError
from adgovernor.contracts.events import Erasure
from adgovernor.publish import Publisher
from adgovernor.publish.loadgen import Traffic, ad_requests, campaign_commands, follow_ups, publish_messages
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig
from adgovernor.subscribe import Subscriber
from supervised import free_ports

SETTLED_S = 300
SOON_S = 90.0
"""For what comes at once on an idle machine."""
PUBLISH_S = 60
FORGOTTEN = 0.02
"""How many of those decided for ask to be forgotten, where the ledger is sealed."""
ENDINGS = {0, 3, -signal.SIGKILL, -signal.SIGTERM}
"""Of workers: told to end, no server at the start, killed, told to end before it had begun."""


class AtWork:
    """Two workers and their traffic, on servers that a test breaks."""

    def __init__(
        self,
        bootstrap: str,
        redis_url: str,
        prefix: str,
        folder: Path,
        seed: int,
        requests_per_s: int,
        *,
        sealed: bool,
    ) -> None:
        self.rng = random.Random(seed)
        self.sealed = sealed
        self.prefix = prefix
        self.bootstrap = bootstrap
        self.redis_url = redis_url
        self.connection = KafkaConnection(bootstrap)
        self.traffic = Traffic(
            seed=seed,
            campaigns=30,
            users=2_000,
            budget_impressions=400,
            start_ms=int(time.time() * 1000),
            requests_per_s=requests_per_s,
            repeated_percent=5,
            out_of_order_percent=5,
            late_percent=1,
            poison_percent=1,
            late_impression_percent=5,
            shown_after_ms=3_000,
        )
        self.seen: Counter[tuple[str, int, int]] = Counter()
        """How often each decision was seen by its reader, by its record."""
        self.ids: Counter[str] = Counter()
        """How often each request was decided on knowing its person, by its id: not `degraded`."""
        self.asked: set[str] = set()
        """Requests that were acknowledged, by id."""
        self.log = folder / "workers.log"
        self.ports = [0, 0]
        """Where each worker answers probes."""
        self.workers = [self._start(number) for number in range(2)]
        self._stopping = False

    # --- Workers ----------------------------------------------------------------------------------------------

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        (self.ports[number],) = free_ports(1)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "adgovernor.app.cli",
                    "run",
                    "--metrics-port",
                    str(self.ports[number]),
                ],
                env={
                    **os.environ,
                    "ADGOVERNOR_PREFIX": self.prefix,
                    "ADGOVERNOR_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
                    "ADGOVERNOR_REDIS__URL": self.redis_url,
                    "ADGOVERNOR_SESSION_TIMEOUT_MS": "3000",
                    "ADGOVERNOR_LOG_LEVEL": "warning",
                    "ADGOVERNOR_RULES": orjson.dumps({"sealing": self.sealed}).decode(),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _supervise(self) -> None:
        """Starts a worker that has ended again, as whatever runs workers does."""
        while True:
            for number, worker in enumerate(self.workers):
                if worker.poll() is not None:
                    tail = self.log.read_text(errors="replace")[-3_000:]
                    assert worker.returncode in ENDINGS, f"a worker ended with {worker.returncode}:\n{tail}"
                    self.workers[number] = self._start(number)
            await asyncio.sleep(0.5)

    async def probed(self, path: str) -> list[int]:
        """With which codes the workers answer a probe; 0 where one does not listen."""
        codes = []
        async with httpx.AsyncClient(timeout=10) as client:
            for port in self.ports:
                try:
                    codes.append((await client.get(f"http://127.0.0.1:{port}{path}")).status_code)
                except httpx.TransportError:
                    codes.append(0)
        return codes

    def end(self) -> list[int]:
        """Tells all workers to end; their exit codes."""
        for worker in self.workers:
            worker.terminate()
        return [worker.wait(60) for worker in self.workers]

    def kill(self) -> None:
        """Ends what is left of the workers."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    # --- Traffic ----------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        """Publishes requests until told to stop; what was not acknowledged is published again."""
        stream = ad_requests(self.traffic)
        async with Publisher(self.connection, prefix=self.prefix, deadline_s=PUBLISH_S) as publisher:
            await publisher.commands(campaign_commands(self.traffic))
            per_s = int(self.traffic.requests_per_s)
            while not self._stopping:
                chunk = list(islice(stream, per_s // 5))
                while True:
                    try:
                        await publish_messages(publisher, chunk, per_s=per_s)
                        break
                    except AdGovernorError as error:
                        print("publishing again:", error)
                self.asked |= {message.event_id for message in chunk if message.kind != "poison"}

    async def _show(self) -> None:
        """Shows what decisions won. Whatever ends the reading, it goes on where it was."""
        start, forgetting = None, random.Random(self.traffic.seed)
        async with Publisher(self.connection, prefix=self.prefix, deadline_s=PUBLISH_S) as publisher:
            while True:
                try:
                    reader: Subscriber[Decision] = Subscriber(
                        self.connection, topics.DECISIONS, prefix=self.prefix, start=start
                    )
                    async with reader:
                        async for batch in reader.batches():
                            self.seen.update((said.shard, said.height, said.index) for said in batch)
                            for said in batch:
                                self.ids[said.decision_id] += not said.degraded
                            start = reader.positions()
                            shown = [
                                message
                                for decision in batch
                                for message in follow_ups(self.traffic, decision)
                            ]
                            await publish_messages(publisher, shown)
                            for decision in batch:
                                if self.sealed and forgetting.random() < FORGOTTEN:
                                    await publisher.user_event(erasure(decision))
                except AdGovernorError as error:
                    print("reading on:", error)
                    await asyncio.sleep(1)

    async def more_seen(self, count: int, within_s: float = SOON_S) -> None:
        """Until so many more decisions were seen."""
        wanted, until = len(self.seen) + count, time.monotonic() + within_s
        while len(self.seen) < wanted:
            assert time.monotonic() < until, (
                f"{len(self.seen)} decisions seen, {wanted} wanted\n{self.told()}"
            )
            await asyncio.sleep(0.1)

    def told(self) -> str:
        """What the workers said last."""
        return self.log.read_text(errors="replace")[-3_000:]

    async def run(self, break_it: Callable[[], Awaitable[None]]) -> Report:
        """Works while ``break_it`` runs, and proves what became of it once all is handled, said and seen: every number
        agrees, each decision was seen once, and the workers end well. Raises what anybody failed with."""
        asking = asyncio.create_task(self._ask(), name="asking")
        background: set[asyncio.Task[None]] = {
            asking,
            *(asyncio.create_task(act()) for act in (self._supervise, self._show)),
        }
        broken = asyncio.ensure_future(break_it())
        try:
            await _first(background, broken)
            self._stopping = True
            await _first(background, asking)
            proof = asyncio.ensure_future(self._prove())
            await _first(background - {asking}, proof)
            report = proof.result()
        finally:
            for task in (broken, *background):
                task.cancel()
            await asyncio.gather(broken, *background, return_exceptions=True)
        print(report.counted)
        assert report.green, report.findings[:10]
        assert set(self.seen.values()) == {1}
        assert ("keys ended by erasures" in report.counted) == self.sealed
        # Nobody remembers that somebody who was forgotten has asked before; nor, for people who are not in memory, a
        # worker whose Redis is away.
        assert max(self.ids.values()) == 1 or self.sealed
        assert len(self.seen) == report.counted["outputs on decisions"]
        assert self.asked <= self.ids.keys(), "requests that were acknowledged have no decision"
        assert self.end() == [0, 0]
        return report

    async def _prove(self) -> Report:
        """The audit beside the running workers, once all is handled, said and seen."""
        store = RedisStore(RedisConfig.from_url(self.redis_url), self.prefix)
        try:
            async with asyncio.timeout(SETTLED_S), KafkaHistory(self.connection, self.prefix) as history:
                while True:
                    report = await audit(history, self.prefix, store)
                    waiting = any("not " in note or "under way" in note for note in report.notes)
                    seen_all = len(self.seen) >= report.counted["outputs on decisions"]
                    if not report.green or (seen_all and not waiting):
                        return report
                    await asyncio.sleep(2)
        finally:
            await store.close()


def erasure(decision: Decision) -> Erasure:
    """Whom a decision was for asks to be forgotten."""
    now_ms = int(time.time() * 1000)
    return Erasure(type="erasure", routing_id=decision.routing_id, time_ms=now_ms)


async def _first(tasks: Iterable[asyncio.Future[Any]], wanted: asyncio.Future[Any]) -> None:
    """Until ``wanted`` is done; raises what any of them fails with before that."""
    known = {wanted, *tasks}
    while not wanted.done():
        done, _ = await asyncio.wait(known, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits for something that comes soon."""
    latest = time.monotonic() + SOON_S
    while not await holds():
        assert time.monotonic() < latest, f"not within {SOON_S:.0f} s: {what}"
        await asyncio.sleep(0.2)


async def hang(process: servers.Supervised, for_s: float) -> None:
    """Stops a server for so long, and lets it go on."""
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(for_s)
    finally:
        process.send_signal(signal.SIGCONT)


async def kill(process: servers.Supervised) -> None:
    """Kills a server and waits until it is dead."""
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait_dead)


@asynccontextmanager
async def at_work(
    bootstrap: str,
    redis_url: str,
    prefix: str,
    folder: Path,
    seed: int,
    requests_per_s: int = 300,
    *,
    sealed: bool = False,
) -> AsyncIterator[AtWork]:
    """Such a deployment, whose workers are gone afterwards. Its topics must exist."""
    work = AtWork(bootstrap, redis_url, prefix, folder, seed, requests_per_s, sealed=sealed)
    try:
        yield work
    finally:
        work.kill()
