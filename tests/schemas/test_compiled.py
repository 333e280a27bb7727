"""Compiled encoders and decoders do what fastavro does and raise the same errors, whatever the schema and the value."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_schemas import codec as codec_module
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec, Decoder, Encoder
from headwater_schemas.compiled_reader import compile_reader
from headwater_schemas.compiled_writer import compile_writer
from headwater_schemas.errors import BadRecord, InvalidValue
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


def both(fields: list[Any]) -> tuple[Encoder, Decoder, Encoder, Decoder]:
    """Encoder and decoder as they are, and as they are when nothing is compiled."""
    ours = codec_for(fields)
    encode, decode = ours.encoder("any"), ours.decoder("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_module, "compile_writer", lambda _: None)
        patch.setattr(codec_module, "compile_reader", lambda _: None)
        plain = codec_for(fields)
        exact_encode, exact_decode = plain.encoder("any"), plain.decoder("any")
        with contextlib.suppress(BadRecord):  # readers are made when the first value comes
            exact_decode(b"\0\0\0\0\1")
    return encode, decode, exact_encode, exact_decode


def outcome(function: Any, value: Any) -> Any:
    try:
        # As text: NaN is not equal to itself, and 1 is equal to True.
        return repr(function(value))
    except (InvalidValue, BadRecord) as exc:
        return type(exc), str(exc), getattr(exc, "field", None)


def named(kinds: list[Field]) -> list[Any]:
    return [{"name": f"n{place}", "type": kind} for place, (kind, _) in enumerate(kinds)]


@given(st.data(), st.lists(FIELDS, max_size=5))
def test_values_are_written_and_read_as_by_fastavro(data: st.DataObject, kinds: list[Field]) -> None:
    encode, decode, exact_encode, exact_decode = both(named(kinds))
    for _ in range(3):
        value = {f"n{place}": data.draw(values) for place, (_, values) in enumerate(kinds)}
        encoded = encode(value)
        assert encoded == exact_encode(value)
        assert outcome(decode, encoded) == outcome(exact_decode, encoded)


@given(st.data(), st.lists(FIELDS, min_size=1, max_size=4))
def test_damaged_bytes_come_to_what_fastavro_makes_of_them(data: st.DataObject, kinds: list[Field]) -> None:
    encode, decode, _, exact_decode = both(named(kinds))
    sound = encode({f"n{place}": data.draw(values) for place, (_, values) in enumerate(kinds)})
    at = data.draw(st.integers(5, len(sound)), label="where")
    until = data.draw(st.integers(at, min(len(sound), at + 3)), label="until")
    damaged = sound[:at] + data.draw(st.binary(max_size=12), label="instead") + sound[until:]
    assert outcome(decode, damaged) == outcome(exact_decode, damaged)


@given(st.data(), st.lists(FIELDS, min_size=1, max_size=3), st.binary(max_size=40))
def test_any_bytes_come_to_what_fastavro_makes_of_them(data: st.DataObject, kinds: list[Field], junk: bytes) -> None:
    _, decode, _, exact_decode = both(named(kinds))
    framed = b"\0\0\0\0\1" + junk
    assert outcome(decode, framed) == outcome(exact_decode, framed)


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.none() | st.integers() | st.text() | st.floats()))
def test_it_refuses_what_fastavro_and_the_check_refuse_in_the_same_words(value: dict[str, Any]) -> None:
    encode, _, exact, _ = both(
        [
            {"name": "a", "type": "string"},
            {"name": "b", "type": ["null", "long"], "default": None},
            {"name": "c", "type": "double", "default": 1.5},
        ]
    )
    assert outcome(encode, value) == outcome(exact, value)


@pytest.mark.parametrize("year", [1, 1969, 1970, 1971, 1978, 1979, 2026, 2039, 2040, 3111, 3112, 9999])
@pytest.mark.parametrize("unit", ["micros", "millis"])
def test_moments_of_every_length_survive(year: int, unit: str) -> None:
    kind = {"type": "long", "logicalType": f"timestamp-{unit}"}
    encode, decode, exact_encode, exact_decode = both(
        [{"name": "at", "type": kind}, {"name": "or", "type": ["null", kind], "default": None}]
    )
    moment = datetime(year, 1, 1, 0, 0, 0, 7000, tzinfo=UTC)
    value = {"at": moment, "or": moment}
    assert encode(value) == exact_encode(value)
    assert decode(encode(value)) == exact_decode(encode(value)) == value


def test_defaults_records_and_enums_are_written_and_read() -> None:
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
    encode, decode, exact_encode, exact_decode = both(fields)
    schema = codec_for(fields).catalogue.schema("Anything")
    assert compile_writer(schema) is not None
    assert compile_reader(schema) is not None
    for value in (
        {"origin": {"code": "EWR"}, "via": []},
        {"origin": {"code": "EWR", "gates": 90}, "via": [{"code": "IAH"}], "state": "UP", "note": None},
    ):
        assert encode(value) == exact_encode(value)
        assert decode(encode(value)) == exact_decode(encode(value))


def test_every_topic_that_ships_is_compiled() -> None:
    schemas = demo_catalogue().schemas()
    assert [name for name, schema in schemas.items() if compile_writer(schema) is None] == []
    assert [name for name, schema in schemas.items() if compile_reader(schema) is None] == []


def test_a_struct_is_taken_like_a_dict() -> None:
    class Order(msgspec.Struct):
        order_id: str
        placed_at: datetime

    encode, _, exact, _ = both(
        [
            {"name": "order_id", "type": "string"},
            {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        ]
    )
    value = Order("o-1", datetime(2026, 1, 2, tzinfo=UTC))
    assert encode(value) == exact(value)


@pytest.mark.parametrize("kind", [["null", "long", "string"], {"type": "string", "logicalType": "uuid"}])
def test_a_type_that_cannot_be_compiled_is_left_to_fastavro(kind: Any) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}
    assert compile_writer(schema) is None
    assert compile_reader(schema) is None
