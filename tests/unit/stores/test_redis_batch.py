"""Commands to Redis that are sent together."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from adgovernor.stores.redis_batch import Batches


class Text(str):
    """A string that can be referred to weakly."""


@pytest.mark.parametrize("count", [1, 3])
async def test_commands_that_failed_are_let_go(count: int) -> None:
    """What a failed command held is free at once, without the cyclic collector, which workers keep off."""
    batches = Batches(Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0)))
    values: list[weakref.ref[Text]] = []

    async def ask() -> None:
        value = Text("v")
        values.append(weakref.ref(value))
        with pytest.raises(RedisError):
            await batches.execute(("SET", "k", value))

    gc.disable()
    try:
        await asyncio.gather(*(ask() for _ in range(count)))
        await asyncio.sleep(0)
        assert [value() for value in values] == [None] * count
    finally:
        gc.enable()


async def test_who_leaves_takes_no_other_s_answer_along() -> None:
    """Commands sent together with one whose caller has gone get their answers."""
    batches = Batches(Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0)))
    leaves, stays = (asyncio.create_task(batches.execute(("GET", key))) for key in ("a", "b"))
    await asyncio.sleep(0)
    leaves.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(RedisError):
            await stays
