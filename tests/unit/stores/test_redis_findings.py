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


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("NOAUTH Authentication required.", "set the password"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "correct the user or the password"),
        ("invalid username-password pair", "correct the user or the password"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "name the authority"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "rediss:// for servers with TLS"),
        ("No master found for 'main'", "correct the master's name"),
        ("ERR This instance has cluster support disabled", "use redis:// in place of redis+cluster://"),
        ("MOVED 3999 10.0.0.2:6379", "use redis+cluster:// in place of redis://"),
        ("READONLY You can't write against a read only replica.", "name the master"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "more memory"),
        (
            "NOPERM User worker has no permissions to run the 'unlink' command",
            "the rights that LAYOUT.md lists",
        ),
        ("LOADING Redis is loading the dataset in memory", "wait until"),
        ("Error 111 connecting to h:6379. Connection refused.", "start the server"),
    ],
)
def test_what_a_server_refuses_is_told_with_what_mends_it(said: str, mend: str) -> None:
    """Redis says why in a word or two; whoever reads it here is told what to change."""
    assert mend in redis_check._mend(f"Redis at h:6379: {said}")
