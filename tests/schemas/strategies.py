"""Random Avro schemas, sound ones, with values that they accept."""

from __future__ import annotations

import copy
import datetime
import decimal
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

__all__ = ["Sample", "changed", "samples", "schemas"]

_UTC = datetime.UTC
_EARLIEST = datetime.datetime(1, 1, 2, tzinfo=_UTC)
_LATEST = datetime.datetime(9999, 12, 30, tzinfo=_UTC)


@dataclass(frozen=True)
class Sample:
    """A record schema and the values it accepts."""

    schema: dict[str, Any]
    values: st.SearchStrategy[dict[str, Any]]


def _milliseconds(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


_MOMENTS = st.datetimes(_EARLIEST.replace(tzinfo=None), _LATEST.replace(tzinfo=None), timezones=st.just(_UTC))
_NAIVE = st.datetimes(_EARLIEST.replace(tzinfo=None), _LATEST.replace(tzinfo=None))
# fastavro encodes text as UTF-8: lone surrogates have no bytes.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_Leaf = tuple[Any, st.SearchStrategy[Any]]
_LEAVES: list[_Leaf] = [
    ("boolean", st.booleans()),
    ("int", st.integers(-(2**31), 2**31 - 1)),
    ("long", st.integers(-(2**63), 2**63 - 1)),
    ("double", st.floats(allow_nan=False)),
    ("float", st.floats(allow_nan=False, width=32)),
    ("string", _TEXT),
    ("bytes", st.binary(max_size=20)),
    ({"type": "long", "logicalType": "timestamp-micros"}, _MOMENTS),
    ({"type": "long", "logicalType": "timestamp-millis"}, _MOMENTS.map(_milliseconds)),
    ({"type": "long", "logicalType": "local-timestamp-micros"}, _NAIVE),
    ({"type": "int", "logicalType": "date"}, st.dates()),
    ({"type": "long", "logicalType": "time-micros"}, st.times()),
    ({"type": "string", "logicalType": "uuid"}, st.uuids()),
    (
        {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 3},
        st.integers(-(10**9), 10**9).map(lambda unscaled: decimal.Decimal(unscaled).scaleb(-3)),
    ),
]


@st.composite
def _types(draw: st.DrawFn, depth: int, names: list[str]) -> _Leaf:
    kinds = ["leaf", "leaf", "leaf", "enum", "fixed", "nullable"] + (["array", "map", "record"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "leaf":
        return draw(st.sampled_from(_LEAVES))
    if kind in ("enum", "fixed", "record"):
        return draw(_named(kind, depth, names))
    inner, values = draw(_types(depth - 1 if depth else 0, names))
    if kind == "nullable":
        if isinstance(inner, list):
            return inner, values
        return ["null", inner], st.none() | values
    if kind == "array":
        return {"type": "array", "items": inner}, st.lists(values, max_size=4)
    return {"type": "map", "values": inner}, st.dictionaries(_TEXT, values, max_size=4)


@st.composite
def _named(draw: st.DrawFn, kind: str, depth: int, names: list[str]) -> _Leaf:
    name = f"T{len(names)}"
    names.append(name)
    if kind == "enum":
        symbols = [f"S{n}" for n in range(draw(st.integers(1, 5)))]
        return {"type": "enum", "name": name, "symbols": symbols}, st.sampled_from(symbols)
    if kind == "fixed":
        size = draw(st.integers(1, 8))
        return {"type": "fixed", "name": name, "size": size}, st.binary(min_size=size, max_size=size)
    fields = {}
    for number in range(draw(st.integers(1, 4))):
        fields[f"f{number}"] = draw(_types(depth - 1, names))
    schema = {"type": "record", "name": name, "fields": [{"name": n, "type": t} for n, (t, _) in fields.items()]}
    return schema, st.fixed_dictionaries({n: values for n, (_, values) in fields.items()})


@st.composite
def samples(draw: st.DrawFn, depth: int = 3) -> Sample:
    """A record schema of some nesting with its values."""
    schema, values = draw(_named("record", depth, []))
    return Sample(schema | {"namespace": "random"}, values)


def schemas(depth: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """A record schema of some nesting."""
    return samples(depth).map(lambda sample: sample.schema)


def _records(schema: Any) -> list[dict[str, Any]]:
    """Every record definition inside a schema."""
    if isinstance(schema, list):
        return [record for branch in schema for record in _records(branch)]
    if not isinstance(schema, dict):
        return []
    found = [schema] if schema["type"] == "record" else []
    inner = [field["type"] for field in schema.get("fields", [])] + [schema.get("items"), schema.get("values")]
    return found + [record for part in inner for record in _records(part)]


@st.composite
def changed(draw: st.DrawFn, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with one to three of the changes that people make to contracts."""
    new = copy.deepcopy(schema)
    for number in range(draw(st.integers(1, 3))):
        record = draw(st.sampled_from(_records(new)))
        _CHANGES[draw(st.sampled_from(sorted(_CHANGES)))](draw, record, number)
    return new


def _add(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    type_, default = draw(st.sampled_from([("int", 7), ("string", "x"), (["null", "string"], None)]))
    field = {"name": f"added{number}", "type": type_}
    record["fields"].append(field | {"default": default} if draw(st.booleans()) else field)


def _drop(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    if len(record["fields"]) > 1:
        gone = draw(st.sampled_from(record["fields"]))
        # A type that others refer to by name stays.
        if not _records(gone["type"]):
            record["fields"].remove(gone)


def _rename(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    field = draw(st.sampled_from(record["fields"]))
    if draw(st.booleans()):
        field["aliases"] = [field["name"]]
    field["name"] = f"renamed{number}"


def _retype(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    field = draw(st.sampled_from(record["fields"]))
    if isinstance(field["type"], str):
        field["type"] = draw(st.sampled_from(["int", "long", "float", "double", "string", "bytes"]))
        field.pop("default", None)


def _widen(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    field = draw(st.sampled_from(record["fields"]))
    if not isinstance(field["type"], list) and "default" not in field:
        field["type"] = ["null", field["type"]]


def _narrow(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    field = draw(st.sampled_from(record["fields"]))
    if isinstance(field["type"], list):
        field["type"] = field["type"][-1]
        field.pop("default", None)


def _symbols(draw: st.DrawFn, record: dict[str, Any], number: int) -> None:
    for field in record["fields"]:
        if isinstance(field["type"], dict) and field["type"]["type"] == "enum":
            field["type"]["symbols"] = draw(st.sampled_from([["S0"], ["S0", "S1", "NEW"], ["NEW"]]))
            field["type"].pop("default", None)
            if draw(st.booleans()):
                field["type"]["default"] = field["type"]["symbols"][0]


_CHANGES = {
    "add": _add,
    "drop": _drop,
    "rename": _rename,
    "retype": _retype,
    "widen": _widen,
    "narrow": _narrow,
    "symbols": _symbols,
}
