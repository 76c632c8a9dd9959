"""Servers of these tests' own: Sentinel, and those that a test breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from required import required

import servers


@pytest.fixture(scope="session")
def local_redis() -> None:
    """Skips where redis-server cannot be had as a local process, unless the run insists on servers."""
    with required():
        servers.require_local(redis=True)


@pytest.fixture(scope="session")
def redis_sentinel(local_redis: None) -> Iterator[servers.LocalSentinel]:
    """A master, a replica and three Sentinels; nobody breaks them."""
    trio = servers.start_redis_sentinel()
    yield trio
    trio.stop()


@pytest.fixture
def start_own_redis(local_redis: None) -> Iterator[Callable[[Sequence[str]], servers.LocalRedis]]:
    """Starts a Redis with the settings given, for one test to break."""
    started: list[servers.LocalRedis] = []

    def start(settings: Sequence[str] = ()) -> servers.LocalRedis:
        started.append(servers.start_redis(settings=settings))
        return started[-1]

    yield start
    for server in started:
        server.stop()
