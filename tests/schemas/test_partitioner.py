from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import murmur2 as kafka_python_murmur2

from headwater_schemas.errors import UsageError
from headwater_schemas.partitioner import murmur2, partition_for


@pytest.mark.parametrize(
    ("data", "hash_"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_the_java_clients(data: bytes, hash_: int) -> None:
    """The vectors of Kafka's own UtilsTest.testMurmur2."""
    assert murmur2(data) == hash_


@given(st.binary(max_size=200))
def test_the_hash_is_kafka_pythons(data: bytes) -> None:
    assert murmur2(data) & 0xFFFFFFFF == kafka_python_murmur2(data)


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_a_key_has_one_place_within_the_topic(key: bytes, partitions: int) -> None:
    place = partition_for(key, partitions)

    assert 0 <= place < partitions
    assert place == (kafka_python_murmur2(key) & 0x7FFFFFFF) % partitions


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one partition"):
        partition_for(b"k", 0)
