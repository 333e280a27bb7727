from __future__ import annotations

from typing import Any

import pytest

from headwater_schemas.soundness import misread_default, unsound


def record(*types: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    fields = [{"name": f"f{n}", "type": type_} for n, type_ in enumerate(types)]
    return {"type": "record", "name": name, "fields": fields} | more


EMPTY = record(name="Empty")


@pytest.mark.parametrize(
    "schema",
    [
        record("R"),
        record(["null", "R"]),
        record({"type": "array", "items": "R"}),
        record({"type": "map", "values": "R"}),
        record("ns.R", namespace="ns"),
        record(record(["null", "R"], name="Inner")),
        record(record("outer.R", name="Inner", namespace="inner"), namespace="outer"),
    ],
)
def test_a_type_that_contains_itself_is_unsound(schema: dict[str, Any]) -> None:
    """Deep nesting overflows the C stack of the reader, which ends the process."""
    assert "contains itself" in (unsound(schema) or "")


@pytest.mark.parametrize(
    "items",
    [
        "null",
        EMPTY,
        {"type": "fixed", "name": "Nothing", "size": 0},
        record(EMPTY, "null", "Empty", name="Outer"),
        {"type": {"type": "null"}},
    ],
)
def test_an_array_of_items_without_bytes_is_unsound(items: Any) -> None:
    """Nine bytes would announce 2^62 items."""
    assert "no bytes" in (unsound(record({"type": "array", "items": items})) or "")
    assert "no bytes" in (unsound(record(["null", {"type": "map", "values": {"type": "array", "items": items}}])) or "")


def test_a_reference_to_a_type_without_bytes_is_seen() -> None:
    assert "no bytes" in (unsound(record(EMPTY, {"type": "array", "items": "Empty"})) or "")


@pytest.mark.parametrize(
    "schema",
    [
        record("int", EMPTY, "null"),
        record({"type": "array", "items": ["null", "int"]}),
        record({"type": "array", "items": record("string", name="Item")}, "Item"),
        record({"type": "array", "items": {"type": "enum", "name": "E", "symbols": ["A"]}}, "E"),
        record({"type": "array", "items": {"type": "array", "items": "long"}}),
        record({"type": "map", "values": EMPTY}),
        record(record("int", name="Twice"), {"type": "array", "items": "Twice"}, ["null", "Twice"]),
        {"type": "string"},
    ],
)
def test_other_schemas_are_sound(schema: dict[str, Any]) -> None:
    assert unsound(schema) is None


def defaulted(type_: Any, default: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": "f", "type": type_, "default": default}]}


ENUM = {"type": "enum", "name": "E", "symbols": ["A"]}
MOMENT = {"type": "long", "logicalType": "timestamp-micros"}


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        ("bytes", "x"),
        (["bytes", "null"], "x"),
        (MOMENT, 0),
        ([MOMENT, "null"], 0),
        ({"type": "fixed", "name": "F", "size": 1}, "x"),
        ({"type": "array", "items": "int"}, [1]),
        ({"type": "map", "values": "int"}, {"a": 1}),
        (record("int", name="Inner"), {"f0": 1}),
    ],
)
def test_a_default_that_would_be_misread_is_found(type_: Any, default: Any) -> None:
    """fastavro gives the JSON of such a default to readers: text for bytes, a number for a date."""
    assert misread_default(defaulted(type_, default)) == "R.f"
    assert misread_default(record(["null", {"type": "array", "items": defaulted(type_, default)}], name="O")) == "R.f"


@pytest.mark.parametrize(
    ("type_", "default"),
    [
        ("int", 1),
        ("string", "x"),
        ("boolean", False),
        ({"type": "double"}, 0.5),
        (["null", "bytes"], None),
        (["null", MOMENT], None),
        (ENUM, "A"),
        ([ENUM, "null"], "A"),
        ({"type": ENUM}, "A"),
        ({"type": "array", "items": "bytes"}, []),
        ({"type": "map", "values": MOMENT}, {}),
    ],
)
def test_other_defaults_are_read_as_they_are(type_: Any, default: Any) -> None:
    assert misread_default(defaulted(type_, default)) is None
