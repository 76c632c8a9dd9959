"""Workers whose clocks are wrong, or are moved while they work."""

from __future__ import annotations

import asyncio

import pytest
from engine_kit import START_MS, Deployment, HandClock, until

from adgovernor.contracts.errors import Halted
from adgovernor.runtime.memory_log import MemoryBroker

_HOURS_MS = 7_200_000


def _deployment() -> tuple[Deployment, HandClock]:
    """A deployment whose broker has a clock of its own."""
    deployment = Deployment(1, skew_ms=60_000)
    true_time = HandClock()
    deployment.broker = MemoryBroker(1, true_time)
    return deployment, true_time


async def _serve(deployment: Deployment, request_id: str) -> str | None:
    """The reason why a new request is not filled; None where it is."""
    deployment.request(request_id, request_id)
    await until(lambda: any(body["decision_id"] == request_id for body in deployment.decisions()))
    body = next(body for body in deployment.decisions() if body["decision_id"] == request_id)
    reason: str | None = body["slots"][0].get("no_fill")
    return reason


async def test_a_clock_that_is_off_stops_the_shard() -> None:
    """A worker whose clock differs from the broker's by more than the allowed skew does not begin."""
    deployment = Deployment(1, skew_ms=5_000)
    deployment.broker = MemoryBroker(1, HandClock(START_MS + 60_000))
    with pytest.raises(Halted, match="NTP") as halted:
        await deployment.engine("u0").run()
    assert halted.value.reason == "clock"


async def test_a_worker_with_a_bad_clock_leaves_nothing_of_it_behind() -> None:
    """A worker whose clock is hours ahead stops, and the next one decides by the true time."""
    deployment, _ = _deployment()
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    await deployment.stop()
    deployment.clock.time_ms += _HOURS_MS
    with pytest.raises(Halted, match="NTP"):
        await deployment.engine("u0").run()
    deployment.clock.time_ms = START_MS
    deployment.start()
    await deployment.settle()
    assert await _serve(deployment, "r0") is None
    assert all(block.header.now_ms <= START_MS for block in deployment.ledger("u0"))
    await deployment.stop()


@pytest.mark.parametrize("moved_ms", [_HOURS_MS, -_HOURS_MS])
async def test_a_clock_that_is_moved_stops_the_shard_before_it_decides(moved_ms: int) -> None:
    """Nothing is decided by a clock that somebody moves while a worker runs, forwards or backwards."""
    deployment, _ = _deployment()
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    deployment.clock.time_ms += moved_ms
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*deployment.tasks, return_exceptions=True)
    assert [type(error) for error in ended] == [Halted, Halted]
    assert {error.reason for error in ended if isinstance(error, Halted)} == {"clock"}
    deployment.engines, deployment.tasks = [], []
    assert all(block.header.now_ms <= START_MS for s in ("u0", "t0") for block in deployment.ledger(s))
    deployment.clock.time_ms = START_MS
    deployment.start()
    await deployment.settle()
    assert await _serve(deployment, "r0") is None
    await deployment.stop()


async def test_a_machine_that_was_suspended_goes_on() -> None:
    """Where the broker's clock has moved as far, as after a machine's sleep, the shard claims again and works on."""
    deployment, true_time = _deployment()
    deployment.campaign()
    deployment.start()
    await deployment.settle()
    true_time.time_ms += _HOURS_MS
    deployment.clock.time_ms += _HOURS_MS
    assert await _serve(deployment, "r0") is None
    await deployment.settle()
    await deployment.stop()
