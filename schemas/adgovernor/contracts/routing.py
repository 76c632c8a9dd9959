"""Routing: which identity an event is filed under, and which partition that identity belongs to.

The routing id is the widest identity that the publisher gives (household, else user, device, session, else
the request id), unchanged: publishers key their events by it without knowing this project. One text is one
person, whatever its kind, so identities of different kinds must differ. Partitions are those of Kafka's Java
clients: murmur2 of the key, sign bit cleared, modulo the partition count.
"""

from __future__ import annotations

from struct import iter_unpack

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 (seed 0x9747b28c) of ``data``, as an unsigned 32-bit number."""
    length = len(data)
    h = (0x9747B28C ^ length) & _MASK
    whole = length & ~3
    for (k,) in iter_unpack("<I", data[:whole]):
        k = (k * _M) & _MASK
        h = ((h * _M) & _MASK) ^ (((k ^ k >> 24) * _M) & _MASK)
    rest = length & 3
    if rest:
        if rest == 3:
            h ^= data[whole + 2] << 16
        if rest >= 2:
            h ^= data[whole + 1] << 8
        h ^= data[whole]
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of ``key`` among ``partitions``, as Kafka's default (Java) partitioner gives it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def routing_id(
    household_id: str | None,
    user_id: str | None,
    device_id: str | None,
    session_id: str | None,
    request_id: str,
) -> str:
    """The widest identity given, as the publisher wrote it."""
    return household_id or user_id or device_id or session_id or request_id
