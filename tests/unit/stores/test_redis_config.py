"""Addresses of Redis: what is read from them, and that no refusal shows a password."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from adgovernor.contracts.errors import BadSettings
from adgovernor.stores.redis import RedisStore
from adgovernor.stores.redis_client import RedisClient, RedisConfig, RedisTls, Topology, refused_by_script


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", {"hosts": (("localhost", 6379),)}),
        ("redis://localhost:7000/3", {"hosts": (("localhost", 7000),), "db": 3}),
        ("redis://:p%40ss%3A@h", {"hosts": (("h", 6379),), "password": "p@ss:"}),
        ("redis://us%2Fer:x@h", {"hosts": (("h", 6379),), "username": "us/er", "password": "x"}),
        ("redis://user@h", {"hosts": (("h", 6379),), "username": "user"}),
        ("redis://[::1]:7000", {"hosts": (("::1", 7000),)}),
        ("redis://[::1]", {"hosts": (("::1", 6379),)}),
        ("rediss://h", {"hosts": (("h", 6379),), "tls": RedisTls()}),
        ("redis+cluster://a:1,b,c:3", {"hosts": (("a", 1), ("b", 6379), ("c", 3)), "topology": "cluster"}),
        (
            "rediss+sentinel://u:p@a,b:2/main/4",
            {
                "hosts": (("a", 26379), ("b", 2)),
                "topology": "sentinel",
                "master": "main",
                "db": 4,
                "username": "u",
                "password": "p",
                "tls": RedisTls(),
            },
        ),
    ],
)
def test_an_address_says_all(url: str, expected: dict[str, Any]) -> None:
    """Scheme, hosts, ports, credentials, master and database are read from the address."""
    assert RedisConfig.from_url(url) == RedisConfig(**expected)


def test_settings_win_over_the_address() -> None:
    """What is given beside the address replaces what the address says."""
    config = RedisConfig.from_url("redis://a:7000", topology="cluster", password="x", connections=3)
    assert config == RedisConfig(hosts=(("a", 7000),), topology="cluster", password="x", connections=3)
    tls = RedisTls(ca_file="ca.pem")
    assert RedisConfig.from_url("rediss://a", tls=tls).tls == tls


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@h",
        "redis://:secret",
        "redis://user:secret",
        "redis://user:secret@",
        "redis://:secret@h:port",
        "redis://:secret@h:²",
        "redis://:secret@h/name",
        "redis://:secret@h/1/2",
        "redis://:secret@[h",
        "redis://:secret@h?db=1",
        "redis://:sec#ret@h",
        "redis://:secret@a,b",
        "redis+sentinel://:secret@h",
        "redis+cluster://:secret@h/1",
        "secret",
    ],
)
def test_a_wrong_address_is_refused_without_its_password(url: str) -> None:
    """An address that cannot be meant so is refused with words that help and do not show the password."""
    with pytest.raises(BadSettings, match="Redis") as refusal:
        RedisConfig.from_url(url)
    assert "sec" not in str(refusal.value).replace("USER:PASSWORD", "")


@pytest.mark.parametrize("topology", ["single", "cluster"])
def test_a_masters_name_belongs_to_sentinel(topology: Topology) -> None:
    """A master's name where no Sentinel is asked would be passed over, so it is refused."""
    with pytest.raises(BadSettings, match=r"redis\+sentinel"):
        RedisConfig(hosts=(("h", 1),), topology=topology, master="main")


def test_errors_say_where_redis_is_without_credentials() -> None:
    """Hosts and the master's name are told; user and password are not."""
    config = RedisConfig.from_url("redis+sentinel://user:secret@a,b:2/main/4")
    assert RedisClient(config).place() == "a:26379,b:2/main"


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("ADGOVERNOR layout 9", True),
        ("ERR Error running script: ADGOVERNOR layout 9", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", True),
        ("OOM command not allowed when used memory > 'maxmemory'", False),
    ],
)
def test_what_a_script_found_wrong_is_told_from_what_a_server_refuses(said: str, ours: bool) -> None:
    """Keys that are not as they were left are a wrong setting; anything else is a server that cannot be used now."""
    assert refused_by_script(ResponseError(said)) == ours


@pytest.mark.parametrize("settings", [{"connections": 0}, {"timeout_s": 0.0}, {"connect_timeout_s": -1.0}])
def test_limits_must_be_above_zero(settings: dict[str, Any]) -> None:
    """No connections, or no time, is refused."""
    with pytest.raises(BadSettings, match="above 0"):
        RedisConfig(hosts=(("h", 1),), **settings)


@pytest.mark.parametrize("prefix", ["a{b", "a}b", "a b", "a*", "é", "x" * 201])
def test_a_prefix_that_would_break_the_keys_is_refused(prefix: str) -> None:
    """Braces, blanks and patterns in the prefix are refused."""
    with pytest.raises(BadSettings, match="prefix"):
        RedisStore(RedisConfig(hosts=(("h", 1),)), prefix)
