"""A small deployment in memory, with the real cores, for tests of the engine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import orjson

from adgovernor.contracts import topics
from adgovernor.contracts.ledger import ReadBlock
from adgovernor.contracts.routing import partition_of, routing_id
from adgovernor.core.machine import Machine
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.runtime.chain import Walk
from adgovernor.runtime.engine import ShardEngine
from adgovernor.runtime.key_log import KeyLog, MemoryKeyLog
from adgovernor.runtime.memory_log import MemoryBroker
from adgovernor.runtime.observer import Observer
from adgovernor.runtime.ports import LedgerEntry, ShardLog
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.world import World
from adgovernor.stores.base import Store
from adgovernor.stores.memory import MemoryStore

START_MS = 1_800_000_000_000


class HandClock:
    """A clock that tests move."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms


class Deployment:
    """All shards of one deployment over one broker and one store."""

    def __init__(self, partitions: int = 1, **settings: Any) -> None:
        self.partitions = partitions
        self.sealing = bool(settings.pop("sealing", False))
        self.clock = HandClock()
        self.broker = MemoryBroker(partitions, self.clock)
        self.store: Store = MemoryStore()
        self.settings = EngineSettings(
            prefix="test",
            partitions=partitions,
            # Tests move their clock by hours, and broker and workers have the same one.
            **{"idle_wait_s": 0.01, "backoff_s": 0.001, "skew_ms": 86_400_000, **settings},
        )
        self.engines: list[ShardEngine] = []
        self._made = 0
        self.tasks: list[asyncio.Task[None]] = []

    def machine(self, shard: str) -> Machine:
        rules = Rules(partitions=self.partitions, sealing=self.sealing)
        return machine_of(shard, rules)

    def key_log(self, shard: str) -> KeyLog | None:
        return MemoryKeyLog(self.broker, shard) if self.sealing and not topics.is_treasury(shard) else None

    def engine(self, shard: str, log: ShardLog | None = None, store: Store | None = None) -> ShardEngine:
        self._made += 1
        return ShardEngine(
            shard,
            lambda: self.machine(shard),
            log if log is not None else self.broker.shard_log(shard),
            store if store is not None else self.store,
            self.clock,
            self.settings,
            # No two owners draw the same: ids of keys and nonces of blocks must differ, as they do in production.
            rng=random.Random(self._made),
            keys=self.key_log(shard),
        )

    def world(self, shard: str) -> World:
        """What maintenance of a shard works with."""
        return World(
            shard,
            lambda: self.machine(shard),
            self.broker.shard_log(shard),
            self.store,
            self.clock,
            self.settings,
            Observer(),
            random.Random(2),
            self.key_log(shard),
        )

    def shards(self) -> list[str]:
        return [
            name(p) for p in range(self.partitions) for name in (topics.user_shard, topics.treasury_shard)
        ]

    def start(self, shards: list[str] | None = None) -> list[ShardEngine]:
        started = [self.engine(shard) for shard in shards or self.shards()]
        for engine in started:
            self.run(engine)
        return started

    def run(self, engine: ShardEngine) -> asyncio.Task[None]:
        self.engines.append(engine)
        self.tasks.append(asyncio.create_task(engine.run(), name=engine.shard))
        return self.tasks[-1]

    async def settle(self) -> None:
        """Until nothing moves any more; fails where an engine ends or it takes too long."""

        def quiet() -> bool:
            for task in self.tasks:
                if task.done():
                    task.result()
                    raise AssertionError(f"{task.get_name()} has ended")
            return all(
                engine.settled
                and all(
                    self.broker.end(name, topics.partition_of_shard(engine.shard)) == at
                    for name, at in engine.positions.items()
                )
                for engine in self.engines
            )

        await until(quiet)

    async def stop(self) -> None:
        for engine in self.engines:
            engine.stop()
        await asyncio.gather(*self.tasks)
        self.engines, self.tasks = [], []

    async def kill(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.engines, self.tasks = [], []

    def campaign(
        self, campaign_id: str = "c1", *, price: int = 1000, budget: int = 1_000_000, **more: Any
    ) -> None:
        account = f"account-{campaign_id}"
        command = {
            "command": "upsert",
            "account_id": account,
            "command_id": f"define-{campaign_id}-{budget}",
            "time_ms": self.clock.time_ms,
            "campaign": {
                "campaign_id": campaign_id,
                "account_id": account,
                "budget_micros": budget,
                "price_micros": price,
                **more,
            },
        }
        self.broker.produce(topics.CAMPAIGNS, None, account.encode(), orjson.dumps(command))

    def request(
        self, request_id: str, user: str = "ann", campaigns: tuple[str, ...] = ("c1",), late_ms: int = 0
    ) -> None:
        body = {
            "request_id": request_id,
            "time_ms": self.clock.time_ms - late_ms,
            "user_id": user,
            "candidates": [{"campaign_id": name, "creative_id": f"{name}-a"} for name in campaigns],
        }
        key = user.encode()
        self.broker.produce(topics.AD_REQUESTS, None, key, orjson.dumps(body))

    def impression(self, request_id: str, user: str = "ann") -> None:
        body = {"decision_id": request_id, "routing_id": user, "time_ms": self.clock.time_ms}
        self.broker.produce(topics.IMPRESSIONS, None, user.encode(), orjson.dumps(body))

    def decisions(self) -> list[dict[str, Any]]:
        """As a reader that keeps one number a partition sees them: each once, in order."""
        seen: list[dict[str, Any]] = []
        for partition in range(self.partitions):
            last = 0
            for event in self.broker.read(topics.DECISIONS, partition, 0, 1_000_000):
                body = orjson.loads(event.value or b"")
                if body["dn"] == last + 1:
                    last += 1
                    seen.append(body)
        return seen

    def ledger(self, shard: str) -> list[ReadBlock]:
        """The blocks that count."""
        walk = Walk("test", shard)
        found = []
        partition = topics.partition_of_shard(shard)
        for event in self.broker.read(topics.ledger_topic(shard), partition, 0, 1_000_000):
            block = walk.step(LedgerEntry(event.offset, 0, event.value or b""))
            if block is not None:
                found.append(block)
        return found

    def partition(self, user: str) -> int:
        return partition_of(user.encode(), self.partitions)


def routing(user: str) -> str:
    """The routing id of somebody known by a user id."""
    return routing_id(None, user, None, None, "")


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Lets the loop run until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is about others' state, without an event
            await asyncio.sleep(0.001)
