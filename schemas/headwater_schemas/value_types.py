"""Avro schemas as msgspec types: what a value must look like before it is encoded, checked in C in one call.

fastavro writes some wrong values without a word (3.7 in an int becomes 3, "no" in a boolean becomes true, 2^40 in a
32-bit int becomes bytes that other languages refuse). The types made here refuse them, and know the path of the field.
They also turn JSON (dates as text, bytes as base64, decimals as text) into what the encoder takes.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Mapping
from types import GenericAlias
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = ["NATIVE", "value_type"]

NATIVE: Final = (bytes, bytearray, datetime.datetime, datetime.date, datetime.time, decimal.Decimal, uuid.UUID)
"""Python types that stand for Avro's own: no text in their place."""

_Int = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_Long = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Instant = Annotated[datetime.datetime, Meta(tz=True)]
_LocalInstant = Annotated[datetime.datetime, Meta(tz=False)]

_PRIMITIVES: Final[dict[str, Any]] = {
    "null": None,
    "boolean": bool,
    "int": _Int,
    "long": _Long,
    "float": float,
    "double": float,
    "bytes": bytes,
    "string": str,
}
_LOGICAL: Final[dict[tuple[str, str], Any]] = {
    ("long", "timestamp-millis"): _Instant,
    ("long", "timestamp-micros"): _Instant,
    ("long", "local-timestamp-millis"): _LocalInstant,
    ("long", "local-timestamp-micros"): _LocalInstant,
    ("int", "date"): datetime.date,
    ("int", "time-millis"): datetime.time,
    ("long", "time-micros"): datetime.time,
    ("string", "uuid"): uuid.UUID,
    ("bytes", "decimal"): decimal.Decimal,
    ("fixed", "decimal"): decimal.Decimal,
}


def value_type(schema: Mapping[str, Any]) -> Any:
    """The msgspec type of a record schema's values: a struct that forbids unknown fields.

    Field number n of a record is the attribute ``f<n>`` (names may be Python keywords), known outside by its Avro name;
    a field that has a default and is not given is ``msgspec.UNSET``. Compiled encoders rely on both.

    A union of more than null and one other type is left to the encoder, which must find the branch anyway; it ignores
    a record's unknown fields there.

    Args:
        schema: a valid schema without recursion (see ``soundness``).
    """
    return _Types().of(schema, "")


class _Types:
    """One pass over a schema; remembers named types for the places that refer to them."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def of(self, schema: Any, namespace: str) -> Any:
        if isinstance(schema, list):
            return self._union(schema, namespace)
        if isinstance(schema, str):
            return _PRIMITIVES[schema] if schema in _PRIMITIVES else self._named[_full_name(schema, namespace)]
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.of(kind, namespace)
        if kind in ("record", "error", "enum", "fixed"):
            return self._define(schema, kind, namespace)
        if kind == "array":
            return GenericAlias(list, (self.of(schema["items"], namespace),))
        if kind == "map":
            return GenericAlias(dict, (str, self.of(schema["values"], namespace)))
        logical = _LOGICAL.get((kind, str(schema.get("logicalType"))))
        return logical if logical is not None else self.of(kind, namespace)

    def _define(self, schema: Mapping[str, Any], kind: str, namespace: str) -> Any:
        name = _full_name(schema["name"], schema.get("namespace", namespace))
        if kind == "enum":
            made: Any = Literal[tuple(schema["symbols"])]
        elif kind == "fixed":
            plain = Annotated[bytes, Meta(min_length=schema["size"], max_length=schema["size"])]
            made = _LOGICAL.get((kind, str(schema.get("logicalType"))), plain)
        else:
            made = self._record(schema, name)
        self._named[name] = made
        return made

    def _record(self, schema: Mapping[str, Any], name: str) -> Any:
        inner, _, short = name.rpartition(".")
        members: list[Any] = []
        names: dict[str, str] = {}
        for number, field in enumerate(schema["fields"]):
            attribute = f"f{number}"
            names[attribute] = field["name"]
            made = self.of(field["type"], inner)
            if "default" in field:
                members.append((attribute, _any_of(made, UnsetType), UNSET))
            else:
                members.append((attribute, made))
        return msgspec.defstruct(
            short, members, rename=names, kw_only=True, forbid_unknown_fields=True, gc=False, eq=False
        )

    def _union(self, branches: list[Any], namespace: str) -> Any:
        others = [self.of(branch, namespace) for branch in branches if branch != "null"]
        if len(others) > 1:
            return Any
        return _any_of(*others, None) if len(others) < len(branches) else others[0]


def _any_of(*types: Any) -> Any:
    union: Any = Union
    return union[types]


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"
