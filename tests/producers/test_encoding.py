"""The compiled encoder writes the codec's bytes and raises the codec's errors, whatever the schema and the value."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_producers.encoding import compile_writer, event_encoder
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import InvalidValue
from headwater_schemas.registry import LocalRegistry

Field = tuple[Any, st.SearchStrategy[Any]]
"""An Avro type and values of it."""

LONGS = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))

PLAIN: list[Field] = [
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", LONGS),
    ("long", st.integers(-10_000, 10_000)),
    ("float", st.floats(width=32)),
    ("double", st.floats() | st.integers(-1000, 1000)),
    ("bytes", st.binary() | st.binary(max_size=9).map(lambda data: data * 2000)),
    ("string", st.text() | st.text(max_size=9).map(lambda text: text * 2000)),
    ({"type": "string", "avro.java.string": "String"}, st.text()),
    ({"type": "long", "logicalType": "timestamp-micros"}, MOMENTS),
    ({"type": "long", "logicalType": "timestamp-millis"}, MOMENTS),
    ({"type": "int", "logicalType": "date"}, st.dates()),
    ({"type": "string", "logicalType": "uuid"}, st.uuids()),
    (["null", "long", "string"], st.none() | LONGS | st.text()),
]


def nested(inner: st.SearchStrategy[Field]) -> st.SearchStrategy[Field]:
    return st.one_of(
        inner.map(lambda field: ({"type": "array", "items": field[0]}, st.lists(field[1], max_size=4))),
        inner.map(
            lambda field: ({"type": "map", "values": field[0]}, st.dictionaries(st.text(), field[1], max_size=4))
        ),
    )


def nullable(field: Field) -> Field:
    return (["null", field[0]], st.none() | field[1])


FIELDS = st.recursive(st.sampled_from(PLAIN), nested, max_leaves=3)
FIELDS = FIELDS | FIELDS.filter(lambda field: not isinstance(field[0], list)).map(nullable)


def codec_for(fields: list[Any]) -> Codec:
    schema = {"type": "record", "name": "Anything", "fields": fields}
    return Codec(Catalogue.of(topics=[TopicSpec("any", "Anything")], schemas=[schema]), LocalRegistry())


def outcome(encode: Any, value: Any) -> bytes | tuple[str, str | None]:
    try:
        result: bytes = encode(value)
    except InvalidValue as exc:
        return str(exc), exc.field
    return result


@given(st.data(), st.lists(FIELDS, max_size=5))
def test_it_writes_what_the_codec_writes(data: st.DataObject, kinds: list[Field]) -> None:
    codec = codec_for([{"name": f"n{place}", "type": kind} for place, (kind, _) in enumerate(kinds)])
    encode, exact = event_encoder(codec, "any"), codec.encoder("any")
    for _ in range(3):
        value = {f"n{place}": data.draw(values) for place, (_, values) in enumerate(kinds)}
        assert encode(value) == exact(value)


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.none() | st.integers() | st.text() | st.floats()))
def test_it_refuses_what_the_codec_refuses_in_the_same_words(value: dict[str, Any]) -> None:
    codec = codec_for(
        [
            {"name": "a", "type": "string"},
            {"name": "b", "type": ["null", "long"], "default": None},
            {"name": "c", "type": "double", "default": 1.5},
        ]
    )
    encode, exact = event_encoder(codec, "any"), codec.encoder("any")
    encode({"a": "the first value goes another way"})
    assert outcome(encode, value) == outcome(exact, value)


def test_defaults_records_and_enums_are_written() -> None:
    place = {
        "type": "record",
        "name": "Place",
        "namespace": "other",
        "fields": [{"name": "code", "type": "string"}, {"name": "gates", "type": "int", "default": 3}],
    }
    fields = [
        {"name": "origin", "type": place},
        {"name": "via", "type": {"type": "array", "items": "other.Place"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["UP", "DOWN"]}, "default": "DOWN"},
        {"name": "note", "type": ["string", "null"], "default": "none"},
    ]
    codec = codec_for(fields)
    encode, exact = event_encoder(codec, "any"), codec.encoder("any")
    assert compile_writer(codec.catalogue.schema("Anything")) is not None
    for value in (
        {"origin": {"code": "EWR"}, "via": []},
        {"origin": {"code": "EWR", "gates": 90}, "via": [{"code": "IAH"}], "state": "UP", "note": None},
    ):
        assert encode(value) == encode(value) == exact(value)


def test_every_topic_that_ships_is_compiled() -> None:
    catalogue = Catalogue.load()
    assert [name for name, schema in catalogue.schemas().items() if compile_writer(schema) is None] == []


def test_a_struct_is_taken_like_a_dict() -> None:
    class Order(msgspec.Struct):
        order_id: str
        placed_at: datetime

    codec = codec_for(
        [
            {"name": "order_id", "type": "string"},
            {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        ]
    )
    encode, exact = event_encoder(codec, "any"), codec.encoder("any")
    value = Order("o-1", datetime(2026, 1, 2, tzinfo=UTC))
    assert encode(value) == encode(value) == exact(value)


@pytest.mark.parametrize("kind", [["null", "long", "string"], {"type": "string", "logicalType": "uuid"}])
def test_a_type_it_does_not_know_is_left_to_the_codec(kind: Any) -> None:
    assert compile_writer({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}) is None
