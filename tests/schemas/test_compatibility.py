from __future__ import annotations

import copy
import json
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_schemas.catalogue import Compatibility
from headwater_schemas.codec import Codec
from headwater_schemas.compatibility import breaks
from headwater_schemas.errors import UsageError
from headwater_schemas.registry import LocalRegistry
from schemas.samples import TOPIC, catalogue
from schemas.strategies import Sample, changed, samples


def record(*fields: dict[str, Any], name: str = "Order", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "shop", "fields": list(fields)} | more


def field(name: str, type_: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_} | more


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "State", "symbols": list(symbols)} | more


ID = field("id", "string")
LINE = record(field("sku", "string"), name="Line")
LONG_LINE = record(field("sku", "string"), field("count", "int"), name="Line")
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def fields_of(new: dict[str, Any], old: dict[str, Any], level: Compatibility) -> list[str]:
    return [found.field for found in breaks(new, [("before", old)], level)]


@pytest.mark.parametrize(
    ("old", "new", "backward", "forward"),
    [
        # Adding and dropping
        (record(ID), record(ID, field("n", "int")), ["n"], []),
        (record(ID), record(ID, field("n", "int", default=0)), [], []),
        (record(ID), record(ID, field("n", ["null", "int"], default=None)), [], []),
        (record(ID), record(ID, field("n", ["null", "int"])), ["n"], []),
        (record(ID, field("n", "int")), record(ID), [], ["n"]),
        (record(ID, field("n", "int", default=0)), record(ID), [], []),
        # Names
        (record(ID), record(field("key", "string")), ["key"], ["id"]),
        (record(ID), record(field("key", "string", aliases=["id"])), [], ["id"]),
        (record(ID), record(ID, name="Purchase"), [""], [""]),
        (record(ID), record(ID, name="Purchase", aliases=["shop.Order"]), [], [""]),
        # Promotions
        (record(field("n", "int")), record(field("n", "long")), [], ["n"]),
        (record(field("n", "long")), record(field("n", "double")), [], ["n"]),
        (record(field("n", "string")), record(field("n", "bytes")), [], []),
        (record(field("n", "int")), record(field("n", "string")), ["n"], ["n"]),
        # Logical types
        (record(field("at", MILLIS)), record(field("at", MICROS)), ["at"], ["at"]),
        (record(field("at", "long")), record(field("at", MICROS)), ["at"], ["at"]),
        (record(field("at", ["null", MILLIS])), record(field("at", ["null", MICROS])), ["at"], ["at"]),
        # Enums
        (record(field("s", enum("A", "B"))), record(field("s", enum("A", "B", "C"))), [], ["s"]),
        (record(field("s", enum("A", "B", default="A"))), record(field("s", enum("A", "B", "C", default="A"))), [], []),
        (record(field("s", enum("A", "B"))), record(field("s", enum("A"))), ["s"], []),
        (record(field("s", enum("A", "B"))), record(field("s", enum("A", default="A"))), [], []),
        # Unions
        (record(field("n", "int")), record(field("n", ["null", "int"])), [], ["n"]),
        (record(field("n", ["null", "int"])), record(field("n", "int")), ["n"], []),
        (record(field("n", ["null", "int"])), record(field("n", ["int", "null"])), [], []),
        (record(field("n", ["null", "int"])), record(field("n", ["null", "string"])), ["n"], ["n"]),
        # Nesting
        (record(field("line", LINE)), record(field("line", LONG_LINE)), ["line.count"], []),
        (record(field("line", ["null", LINE])), record(field("line", ["null", LONG_LINE])), ["line.count"], []),
        (
            record(field("lines", {"type": "array", "items": LINE})),
            record(field("lines", {"type": "array", "items": LONG_LINE})),
            ["lines[].count"],
            [],
        ),
        (
            record(field("lines", {"type": "map", "values": LINE})),
            record(field("lines", {"type": "map", "values": LONG_LINE})),
            ["lines{}.count"],
            [],
        ),
        # Fixed
        (
            record(field("f", {"type": "fixed", "name": "F", "size": 4})),
            record(field("f", {"type": "fixed", "name": "F", "size": 8})),
            ["f"],
            ["f"],
        ),
        # No change of meaning
        (record(ID), record(ID | {"doc": "The order's number."}, doc="An order."), [], []),
        (record(field("n", "int", default=1)), record(field("n", "int", default=2)), [], []),
        (record(ID, field("n", "int")), record(field("n", "int"), ID), [], []),
    ],
)
def test_each_change_breaks_whom_it_breaks(
    old: dict[str, Any], new: dict[str, Any], backward: list[str], forward: list[str]
) -> None:
    assert fields_of(new, old, "BACKWARD") == backward
    assert fields_of(new, old, "FORWARD") == forward
    assert fields_of(new, old, "FULL") == backward + forward
    assert fields_of(new, old, "NONE") == []


def test_only_a_transitive_level_looks_past_the_last_version() -> None:
    first, second = record(ID, field("n", "int")), record(ID)
    third = record(ID, field("n", "string", default=""))
    history = [("v1", first), ("v2", second)]

    assert breaks(third, history, "BACKWARD") == []
    assert [(b.against, b.field) for b in breaks(third, history, "BACKWARD_TRANSITIVE")] == [("v1", "n")]
    assert breaks(third, history, "FORWARD") == []
    assert [b.against for b in breaks(third, history, "FORWARD_TRANSITIVE")] == ["v1"]
    assert [(b.direction, b.against) for b in breaks(third, history, "FULL_TRANSITIVE")] == [
        ("BACKWARD", "v1"),
        ("FORWARD", "v1"),
    ]


def test_every_break_is_found_not_only_the_first() -> None:
    new = record(field("id", "int"), field("a", "int"), field("s", enum("B")))
    old = record(ID, field("s", enum("A")))

    assert fields_of(new, old, "BACKWARD") == ["id", "a", "s"]


def test_a_break_says_why_and_what_to_do_instead() -> None:
    (found,) = breaks(record(ID, field("n", "int")), [("v1", record(ID))], "BACKWARD")

    assert found.against == "v1"
    assert found.why == "the field is new and has no default, but records without it are in the topic"
    assert found.instead == 'give it a default; int can become ["null", …] with "default": null'


def test_a_new_topic_breaks_nothing() -> None:
    assert breaks(record(ID), [], "FULL_TRANSITIVE") == []


def test_what_is_no_schema_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="the new version of Order: not a valid Avro schema"):
        breaks(record(ID, ID), [("v1", record(ID))], "BACKWARD")


def test_an_earlier_version_that_contains_itself_can_be_compared() -> None:
    tree = record(field("children", {"type": "array", "items": "Order"}))

    assert breaks(copy.deepcopy(tree), [("v1", tree)], "FULL_TRANSITIVE") == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_change_that_passes_the_gate_leaves_every_written_value_readable(data: st.DataObject) -> None:
    """The gate against the codec: what BACKWARD lets through, fastavro resolves."""
    sample: Sample = data.draw(samples())
    new = data.draw(changed(sample.schema))
    if breaks(new, [("before", sample.schema)], "BACKWARD"):
        return
    registry = LocalRegistry()
    written = Codec(catalogue(sample.schema), registry).encoder(TOPIC)(data.draw(sample.values))

    Codec(catalogue(new), registry).decoder(TOPIC)(written)


@pytest.mark.filterwarnings("ignore::avro.errors.IgnoredLogicalType")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_verdict_is_the_avro_packages_but_for_logical_types(data: st.DataObject) -> None:
    sample: Sample = data.draw(samples())
    new = data.draw(changed(sample.schema))

    checker: Any = ReaderWriterCompatibilityChecker
    reader, writer = avro.schema.parse(json.dumps(new)), avro.schema.parse(json.dumps(sample.schema))
    passes = checker().get_compatibility(reader, writer).compatibility is SchemaCompatibilityType.compatible
    found = breaks(new, [("before", sample.schema)], "BACKWARD")

    if passes:
        assert all("another meaning" in each.why for each in found)
    else:
        assert found
