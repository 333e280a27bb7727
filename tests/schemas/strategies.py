"""Random Avro schemas, sound ones, with values that they accept."""

from __future__ import annotations

import datetime
import decimal
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

__all__ = ["Sample", "samples", "schemas"]

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
