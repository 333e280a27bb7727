"""The checks that fastavro does not make."""

from __future__ import annotations

import datetime
from io import BytesIO
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_schemas.value_types import NATIVE, value_type
from schemas.strategies import Sample, samples


def record(type_: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": "f", "type": type_}]}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_avro_can_hold_passes(data: st.DataObject) -> None:
    sample: Sample = data.draw(samples())

    msgspec.convert(data.draw(sample.values), value_type(sample.schema), builtin_types=NATIVE)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("int", 3.7),
        ("int", True),
        ("int", 2**31),
        ("boolean", "no"),
        ("boolean", 2),
        ("null", 5),
        ("double", True),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime.datetime(2026, 5, 4)),
        ({"type": "string", "logicalType": "uuid"}, "no uuid"),
    ],
)
def test_what_fastavro_writes_without_a_word_is_refused(type_: Any, value: Any) -> None:
    fastavro.schemaless_writer(BytesIO(), record(type_), {"f": value})

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"f": value}, value_type(record(type_)), builtin_types=NATIVE)


def test_whole_numbers_pass_for_doubles() -> None:
    msgspec.convert({"f": 3}, value_type(record("double")))


@pytest.mark.parametrize(
    "union",
    [
        [{"type": "record", "name": "A", "fields": []}, {"type": "record", "name": "B", "fields": []}],
        ["string", {"type": "enum", "name": "E", "symbols": ["A"]}],
        ["int", "long"],
        ["string", {"type": "string", "logicalType": "uuid"}],
    ],
)
def test_a_union_of_several_types_is_left_to_avro(union: Any) -> None:
    assert msgspec.convert({"f": object}, value_type(record(union)))


def test_a_field_named_like_a_keyword_is_known_by_its_name() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "class", "type": "int"}]}

    msgspec.convert({"class": 1}, value_type(schema))
    with pytest.raises(msgspec.ValidationError, match=r"\$\.class"):
        msgspec.convert({"class": "x"}, value_type(schema))
