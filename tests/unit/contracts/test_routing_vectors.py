"""Partitions as Kafka's Java clients give them, and whom an event is filed under."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adgovernor.contracts.routing import murmur2, partition_of, routing_id


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_kafkas_own_test_values(key: bytes, signed: int) -> None:
    """The values that Kafka's UtilsTest expects, as signed 32-bit numbers."""
    assert murmur2(key) == signed % 2**32


@given(st.binary(max_size=64), st.integers(1, 256))
def test_a_partition_is_stable_and_in_range(key: bytes, partitions: int) -> None:
    """Every key has one partition below the count."""
    assert 0 <= partition_of(key, partitions) < partitions
    assert partition_of(key, partitions) == partition_of(bytes(key), partitions)


def test_keys_spread_over_partitions() -> None:
    """Ten thousand people fill eight partitions evenly enough."""
    counts = [0] * 8
    for number in range(10_000):
        counts[partition_of(f"user-{number}".encode(), 8)] += 1
    assert min(counts) > 1_000
    assert max(counts) < 1_500


def test_the_widest_identity_wins_and_empty_is_none() -> None:
    """Household before user before device before session before the request; an empty text is no identity."""
    assert routing_id("h", "u", "d", "s", "r") == "h"
    assert routing_id("", "u", "d", "s", "r") == "u"
    assert routing_id(None, None, "d", "s", "r") == "d"
    assert routing_id(None, "", "", "s", "r") == "s"
    assert routing_id(None, None, None, "", "r") == "r"
