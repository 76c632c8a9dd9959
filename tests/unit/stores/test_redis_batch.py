"""Commands to Redis that are sent together."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

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


class Echo(Batches):
    """Answers each command with itself; where it ``hangs``, none."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__(Redis(host="127.0.0.1", port=1))
        self.sizes: list[int] = []
        self._hangs = hangs

    async def _answers(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        self.sizes.append(len(commands))
        if self._hangs:
            await asyncio.Event().wait()
        return list(commands)


async def test_many_commands_go_in_several_batches() -> None:
    """What is asked for at once goes in batches of at most sixteen, and each command gets its own answer."""
    batches = Echo()
    commands = [("GET", str(number)) for number in range(40)]
    assert await asyncio.gather(*map(batches.execute, commands)) == commands
    assert batches.sizes == [16, 16, 8]


async def test_a_batch_that_is_cancelled_lets_its_callers_go() -> None:
    """Where sending ends because everything does, nobody waits for an answer any more."""
    batches = Echo(hangs=True)
    caller = asyncio.create_task(batches.execute(("GET", "a")))
    while not batches.sizes:  # noqa: ASYNC110 - a turn or two of the loop
        await asyncio.sleep(0)
    (sending,) = batches._sending
    sending.cancel()
    await asyncio.wait({caller}, timeout=5)
    assert caller.cancelled()
