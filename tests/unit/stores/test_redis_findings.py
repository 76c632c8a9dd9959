"""What a Redis says of itself, and what is found in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adgovernor.stores import redis_check
from adgovernor.stores.base import Finding


def in_cluster_mode(name: str, info: dict[str, Any]) -> Finding:
    """As `_topology` of a deployment that is set to a Cluster."""
    return redis_check._topology(name, info, True)


def alone(name: str, info: dict[str, Any]) -> Finding:
    """As `_topology` of a deployment that is set to one server."""
    return redis_check._topology(name, info, False)


@pytest.mark.parametrize(
    ("look", "info", "level"),
    [
        (redis_check._version, {"redis_version": "6.1.9"}, "error"),
        (redis_check._version, {"redis_version": "6.2.0"}, "ok"),
        (redis_check._version, {"redis_version": "10.0"}, "ok"),
        (redis_check._version, {}, "error"),
        (redis_check._role, {"role": "slave"}, "error"),
        (redis_check._role, {"role": "master"}, "ok"),
        (alone, {"cluster_enabled": 1}, "error"),
        (alone, {"cluster_enabled": 0}, "ok"),
        (in_cluster_mode, {"cluster_enabled": 1}, "ok"),
        (redis_check._eviction, {"maxmemory_policy": "volatile-lru"}, "error"),
        (redis_check._eviction, {}, "error"),
        (redis_check._eviction, {"maxmemory_policy": "noeviction"}, "ok"),
        (redis_check._memory, {"maxmemory": 0, "used_memory": 5}, "warning"),
        (redis_check._memory, {"maxmemory": 100, "used_memory": 80}, "ok"),
        (redis_check._memory, {"maxmemory": 100, "used_memory": 81}, "warning"),
        (redis_check._disk, {"aof_enabled": 1, "rdb_last_bgsave_status": "err"}, "error"),
        (redis_check._disk, {"aof_enabled": 1, "aof_last_write_status": "err"}, "error"),
        (redis_check._disk, {"aof_enabled": 0}, "warning"),
        (redis_check._disk, {"aof_enabled": 1}, "ok"),
    ],
)
def test_a_server_is_judged_by_what_it_says(
    look: Callable[[str, dict[str, Any]], Finding], info: dict[str, Any], level: str
) -> None:
    """What would lose or refuse state is an error, what may on a bad day a warning; each says how to mend it."""
    found = look("redis:6379", info)
    assert (found.level, bool(found.mend)) == (level, level != "ok")
    assert found.message.startswith("redis:6379")
