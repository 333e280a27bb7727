"""The one partitioner: murmur2 of the key, as the Java client does it, whichever library sends.

The same key gives the same partition from Java, from librdkafka (``partitioner=murmur2_random``) and from here. The
promise holds for a fixed number of partitions only: growing a topic moves keys and breaks their order.

Source: ``org.apache.kafka.common.utils.Utils.murmur2`` and ``BuiltInPartitioner.partitionForKey`` (KIP-794).
"""

from __future__ import annotations

import struct
from functools import lru_cache

from headwater_schemas.errors import UsageError

__all__ = ["murmur2", "partition_for"]

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=64)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 hash of ``data`` with Kafka's seed, signed as in Java."""
    length = len(data)
    h = _SEED ^ length
    whole = length >> 2
    for k in _words(whole).unpack_from(data):
        k = (k * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if length & 3:
        h = ((h ^ int.from_bytes(data[whole << 2 :], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    h ^= h >> 15
    return h - 0x1_0000_0000 if h & 0x8000_0000 else h


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of ``key`` in a topic of ``partitions`` partitions.

    A record without a key has no place of its own: whoever sends it chooses (the sticky partitioner of the client).

    Raises:
        UsageError: ``partitions`` is less than one.
    """
    if partitions < 1:
        raise UsageError(f"a topic has at least one partition; got {partitions}")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
