"""One worker as a process of its own, for tests that kill and stop it: `worker_process.py PREFIX PARTITIONS`.

WORKER_GROUP names another consumer group than the deployment's: then the process owns every shard that others own too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from adgovernor.contracts.connections import KafkaConnection
from adgovernor.core.machine import Machine
from adgovernor.core.machines import machine_of
from adgovernor.core.rules import Rules
from adgovernor.runtime.settings import EngineSettings
from adgovernor.runtime.worker import Worker, WorkerSettings
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig


async def main(prefix: str, partitions: int) -> None:
    rules = Rules(partitions=partitions)

    def machine(shard: str) -> Machine:
        return machine_of(shard, rules)

    store = RedisStore(RedisConfig.from_url(os.environ["ADGOVERNOR_TEST_REDIS"]), prefix)
    worker = Worker(
        KafkaConnection(os.environ["ADGOVERNOR_TEST_KAFKA"]),
        store,
        machine,
        WorkerSettings(prefix, group=os.environ.get("WORKER_GROUP", ""), session_timeout_ms=6_000),
        # Small blocks and a small cache, so that a short test crosses many blocks, cold reads and evictions.
        EngineSettings(prefix, partitions, max_events=50, keep_states=100),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        await store.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
