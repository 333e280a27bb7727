"""Whatever the bytes are, a decoder gives a value or raises one of its three errors: poison never crashes a worker."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_schemas.codec import Codec, Decoder
from headwater_schemas.errors import BadRecord, NotDecodable
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.value_types import value_type
from schemas.samples import ORDER, TOPIC, catalogue, codec, order
from schemas.strategies import Sample, samples

SOME = settings(max_examples=150, deadline=None)


def verdict(decode: Decoder, value: bytes) -> str:
    """How decoding went: the error's name, or ``value``. Any other error fails the test."""
    try:
        decode(value)
    except BadRecord as exc:
        return type(exc).__name__
    return "value"


def order_decoders() -> list[Decoder]:
    """As written, resolved to another version, and typed; all know schema id 1."""
    registry = LocalRegistry()
    writer = codec(registry=registry)
    writer.encoder(TOPIC)
    other = copy.deepcopy(ORDER)
    other["fields"].append({"name": "note", "type": ["null", "string"], "default": None})
    reader = Codec(catalogue(other), registry)
    return [writer.decoder(), writer.decoder(TOPIC, value_type(ORDER)), reader.decoder(TOPIC)]


@SOME
@given(st.binary(max_size=60))
def test_random_bytes_are_a_value_or_a_bad_record(payload: bytes) -> None:
    for decode in order_decoders():
        verdict(decode, payload)
        verdict(decode, b"\0\0\0\0\1" + payload)


@SOME
@given(st.data())
def test_random_bytes_under_random_schemas_are_a_value_or_a_bad_record(data: st.DataObject) -> None:
    sample: Sample = data.draw(samples())
    subject = Codec(catalogue(sample.schema), LocalRegistry())
    subject.encoder(TOPIC)

    verdict(subject.decoder(), b"\0\0\0\0\1" + data.draw(st.binary(max_size=80)))


@SOME
@given(st.data())
def test_a_flipped_byte_is_a_value_or_a_bad_record(data: st.DataObject) -> None:
    value = bytearray(codec().encoder(TOPIC)(order()))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))

    for decode in order_decoders():
        verdict(decode, bytes(value))


@SOME
@given(st.data())
def test_truncated_and_extended_values_are_never_decodable(data: st.DataObject) -> None:
    sample: Sample = data.draw(samples())
    subject = Codec(catalogue(sample.schema), LocalRegistry())
    value = subject.encoder(TOPIC)(data.draw(sample.values))
    cut = data.draw(st.integers(0, len(value) - 1))
    tail = data.draw(st.binary(min_size=1, max_size=20))

    for decode in (subject.decoder(), subject.decoder(TOPIC)):
        assert verdict(decode, value[:cut]) == "NotDecodable"
        assert verdict(decode, value + tail) == "NotDecodable"


def test_every_cut_of_a_value_is_not_decodable_for_every_reader() -> None:
    value = codec().encoder(TOPIC)(order())

    for decode in order_decoders():
        for cut in range(len(value)):
            assert verdict(decode, value[:cut]) == "NotDecodable"


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        ("string", "feffffffffffffffff01"),  # a length of 2^63 - 1
        ("string", "ffffffffffffffffff01"),  # a length of -2^63
        ("bytes", "01" + "00" * 30),  # a length of -1
        ("string", "04c328"),  # not UTF-8
        ("long", "ff" * 30),  # an integer that does not end
        ({"type": "array", "items": "int"}, "feffffffffffffffff01" + "00" * 30),  # 2^63 - 1 items
        ({"type": "map", "values": "int"}, "feffffffffffffffff01" + "00" * 30),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "04"),  # symbol 2 of 1
        (["null", "int"], "0a00"),  # branch 5 of 2
        ({"type": "long", "logicalType": "timestamp-micros"}, "feffffffffffffffff01"),  # a year past 9999
        ({"type": "int", "logicalType": "date"}, "feffffff0f"),
        ({"type": "long", "logicalType": "time-micros"}, "feffffffffffffffff01"),
        ({"type": "string", "logicalType": "uuid"}, "0461"),
        ({"type": "fixed", "name": "F", "size": 4}, "0000"),
        ("double", "000000"),
    ],
)
def test_known_traps_are_not_decodable(type_: Any, payload: str) -> None:
    schema = {"type": "record", "name": "Trap", "fields": [{"name": "f", "type": type_}]}
    subject = codec(schema)
    subject.encoder(TOPIC)

    with pytest.raises(NotDecodable):
        subject.decoder()(b"\0\0\0\0\1" + bytes.fromhex(payload))


@pytest.mark.parametrize("name", sorted(demo_catalogue().schemas()))
def test_random_bytes_do_not_crash_a_reader_of_a_shipped_contract(name: str) -> None:
    subject = codec(demo_catalogue().schema(name))
    subject.encoder(TOPIC)
    decode = subject.decoder(TOPIC)

    @settings(max_examples=50, deadline=None)
    @given(st.binary(max_size=100))
    def throw(payload: bytes) -> None:
        verdict(decode, b"\0\0\0\0\1" + payload)

    throw()
