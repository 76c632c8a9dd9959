"""What the Redis store costs: time and Python time of a swap by changed field, of cold reads, and bytes of Redis.

One block's worth of changes goes into a bucket of many users, as a worker does after each block.
"""

from __future__ import annotations

import os
import time
import uuid
from statistics import median
from typing import Any

from adgovernor.stores.base import NOTHING, Meta, Tip
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisConfig

NEEDS_SERVERS = True

USERS = 100_000
STATE_BYTES = 300
"""A user's state with a handful of servings in it."""
COUNTERS = 4
"""Servings in such a state, each of which counts for every cap in whose scope it is."""
FIELDS = 1_000
"""Users that one block changes."""
ROUNDS = 60


async def run() -> dict[str, Any]:
    """Microseconds a field and bytes a user; the processes' own time tells Python from waiting."""
    store = RedisStore(
        RedisConfig.from_url(os.environ["ADGOVERNOR_TEST_REDIS"]), f"bench-{uuid.uuid4().hex[:8]}"
    )
    try:
        return await _measure(store)
    finally:
        await store.drop("u0")
        await store.close()


async def _measure(store: RedisStore) -> dict[str, Any]:
    states = {f"user-{n:010}": os.urandom(STATE_BYTES) for n in range(USERS)}
    before = await _used(store)
    tip = NOTHING
    names = list(states)
    for start in range(0, USERS, FIELDS):
        tip = await _swap(store, tip, {name: states[name] for name in names[start : start + FIELDS]})
    used = await _used(store) - before
    swaps, swaps_cpu, reads, reads_cpu = [], [], [], []
    for n in range(ROUNDS):
        some = names[n * 997 % (USERS - FIELDS) :][:FIELDS]
        changed = dict.fromkeys(some, states[some[0]])
        began, began_cpu = time.perf_counter(), time.process_time()
        tip = await _swap(store, tip, changed)
        swaps.append(time.perf_counter() - began)
        swaps_cpu.append(time.process_time() - began_cpu)
        began, began_cpu = time.perf_counter(), time.process_time()
        await store.read_fields("u0", "users", some)
        reads.append(time.perf_counter() - began)
        reads_cpu.append(time.process_time() - began_cpu)
    singles = []
    for n in range(ROUNDS):
        began = time.perf_counter()
        await store.read_fields("u0", "users", [names[n]])
        singles.append(time.perf_counter() - began)
    began = time.perf_counter()
    await store.read_buckets("u0", ["users"])
    whole = time.perf_counter() - began

    def micros(times: list[float], fields: int) -> float:
        return round(median(times) / fields * 1e6, 2)

    return {
        "swap_us_per_field": micros(swaps, FIELDS),
        "swap_python_us_per_field": micros(swaps_cpu, FIELDS),
        "read_us_per_field": micros(reads, FIELDS),
        "read_python_us_per_field": micros(reads_cpu, FIELDS),
        "read_one_us": micros(singles, 1),
        "read_whole_us_per_field": round(whole / USERS * 1e6, 2),
        "bytes_per_user": round(used / USERS),
        "bytes_per_user_over_state": round(used / USERS - STATE_BYTES),
        "bytes_per_counter": round(used / USERS / COUNTERS),
        "fields_per_swap": FIELDS,
        "state_bytes": STATE_BYTES,
    }


async def _swap(store: RedisStore, tip: Tip, users: dict[str, bytes]) -> Tip:
    new = Tip("bench", tip.height + 1, f"{tip.height + 1:064}")
    changes: dict[str, dict[str, bytes | None]] = {"users": {**users}}
    refused = await store.swap("u0", tip, Meta(new, b"spine" * 100), changes)
    if refused is not None:
        raise RuntimeError(f"somebody else writes to this prefix: {refused.tip}")
    return new


async def _used(store: RedisStore) -> int:
    (node,) = await store.client.nodes()
    return int((await store.client.command(node, "INFO", "memory"))["used_memory_dataset"])
