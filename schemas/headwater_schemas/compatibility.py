"""Whether a new version of a schema keeps its topic readable: decided offline, explained field by field.

The rules are Avro's schema resolution (Avro 1.12 specification, "Schema Resolution"), as the ``avro`` package decides
them, over the versions that the level asks for (Confluent's levels: the latest version, or all of them when
transitive). Three things are added: every break is found, not the first; each names the field, the reason and the way
out; and a changed logical type is a break, since the same bytes then mean something else (registries let it through).

What it cannot see: a changed meaning under an unchanged type, and rules between fields.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from avro import errors as avro_errors
from avro import schema as avro_schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from headwater_schemas.catalogue import Compatibility, Schema
from headwater_schemas.errors import UsageError

__all__ = ["Break", "Direction", "breaks"]

Direction = Literal["BACKWARD", "FORWARD"]
"""BACKWARD: the new version reads what the earlier one wrote. FORWARD: the other way round."""

Kind = Literal["default", "type", "logical", "symbols", "branch", "name", "size", "other"]


@dataclass(frozen=True, slots=True)
class Break:
    """One reason why a change must not go out.

    Args:
        direction: who cannot read: the new version (BACKWARD) or the earlier one (FORWARD).
        against: the earlier version's label.
        field: the dotted path; empty for the record itself.
        why: what goes wrong, for whom.
        instead: what to do.
    """

    direction: Direction
    against: str
    field: str
    why: str
    instead: str


def breaks(new: Schema, earlier: Sequence[tuple[str, Schema]], level: Compatibility) -> list[Break]:
    """What ``new`` would break at ``level``; empty when it may go out. Never blocks.

    Args:
        new: the changed schema.
        earlier: the versions before it with a label each, oldest first. A level that is not transitive looks at the
            last one only.
        level: as in the catalogue.

    Raises:
        UsageError: a schema is not valid Avro.
    """
    if level == "NONE" or not earlier:
        return []
    compared = earlier if level.endswith("_TRANSITIVE") else earlier[-1:]
    directions: tuple[Direction, ...] = ("BACKWARD", "FORWARD")
    wanted = [d for d in directions if level.startswith((d, "FULL"))]
    found = []
    parsed = _parse(new, "the new version")
    for label, old in compared:
        before = _parse(old, label)
        for direction in wanted:
            reader, writer = (parsed, before) if direction == "BACKWARD" else (before, parsed)
            found += [_explained(d, direction, label) for d in _differences(reader, writer)]
    return found


@dataclass(frozen=True, slots=True)
class _Difference:
    kind: Kind
    path: str
    reader: str = ""
    writer: str = ""


def _parse(schema: Schema, label: str) -> Any:
    with warnings.catch_warnings():
        # avro warns of logical types that it does not know; we compare them by name below.
        warnings.simplefilter("ignore", avro_errors.IgnoredLogicalType)
        try:
            return avro_schema.parse(json.dumps(schema))
        except avro_errors.AvroException as exc:
            raise UsageError(f"{label} of {schema.get('name')}: not a valid Avro schema: {exc}") from exc


def _differences(reader: Any, writer: Any) -> list[_Difference]:
    found = list(dict.fromkeys(_walk(reader, writer, "", frozenset())))
    if not found and not _resolves(reader, writer):
        found = [_Difference("other", "", str(reader), str(writer))]
    return found


def _resolves(reader: Any, writer: Any) -> bool:
    """The verdict of the ``avro`` package."""
    checker: Any = ReaderWriterCompatibilityChecker  # its constructor is not annotated
    result = checker().get_compatibility(reader, writer)
    return result.compatibility is SchemaCompatibilityType.compatible


def _walk(reader: Any, writer: Any, path: str, seen: frozenset[tuple[int, int]]) -> Iterator[_Difference]:
    """Every place where ``reader`` cannot take what ``writer`` writes."""
    if (id(reader), id(writer)) in seen:
        return
    seen |= {(id(reader), id(writer))}
    if writer.type == "union":
        for branch in writer.schemas:
            yield from _walk(reader, branch, path, seen)
    elif reader.type == "union":
        yield from _walk_into_union(reader, writer, path, seen)
    elif reader.type == writer.type == "record":
        yield from _walk_record(reader, writer, path, seen)
    elif reader.type == writer.type == "array":
        yield from _walk(reader.items, writer.items, path + "[]", seen)
    elif reader.type == writer.type == "map":
        yield from _walk(reader.values, writer.values, path + "{}", seen)
    else:
        yield from _leaf(reader, writer, path)


def _walk_into_union(reader: Any, writer: Any, path: str, seen: frozenset[tuple[int, int]]) -> Iterator[_Difference]:
    if any(not list(_walk(branch, writer, path, seen)) for branch in reader.schemas):
        return
    twins = [b for b in reader.schemas if b.type == writer.type and getattr(b, "name", 0) == getattr(writer, "name", 0)]
    if twins:
        yield from _walk(twins[0], writer, path, seen)
    else:
        yield _Difference("branch", path, _named(reader), _named(writer))


def _walk_record(reader: Any, writer: Any, path: str, seen: frozenset[tuple[int, int]]) -> Iterator[_Difference]:
    if not _same_name(reader, writer):
        yield _Difference("name", path, reader.fullname, writer.fullname)
    written = {field.name: field for field in writer.fields}
    for field in reader.fields:
        inner = f"{path}.{field.name}" if path else field.name
        names = [field.name, *(field.get_prop("aliases") or [])]
        source = next((written[name] for name in names if name in written), None)
        if source is not None:
            yield from _walk(field.type, source.type, inner, seen)
        elif not field.has_default:
            yield _Difference("default", inner, _named(field.type))


def _leaf(reader: Any, writer: Any, path: str) -> Iterator[_Difference]:
    if not _resolves(reader, writer):
        yield _leaf_difference(reader, writer, path)
    elif _logical(reader) != _logical(writer):
        yield _Difference("logical", path, _named(reader), _named(writer))


def _leaf_difference(reader: Any, writer: Any, path: str) -> _Difference:
    if reader.type != writer.type:
        return _Difference("type", path, _named(reader), _named(writer))
    if not _same_name(reader, writer):
        return _Difference("name", path, reader.fullname, writer.fullname)
    if reader.type == "enum":
        missing = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
        return _Difference("symbols", path, reader.name, ", ".join(missing))
    return _Difference("size", path, str(reader.size), str(writer.size))


def _same_name(reader: Any, writer: Any) -> bool:
    aliases = reader.get_prop("aliases") or []
    return reader.name == writer.name or writer.fullname in aliases or writer.name in aliases


def _logical(schema: Any) -> tuple[Any, ...]:
    kind = schema.get_prop("logicalType")
    return (kind, schema.get_prop("precision"), schema.get_prop("scale") or 0) if kind == "decimal" else (kind,)


def _named(schema: Any) -> str:
    """The type as a person would say it: ``null or string``, ``long (timestamp-micros)``, ``record Leg``."""
    if schema.type == "union":
        return " or ".join(_named(branch) for branch in schema.schemas)
    if schema.type in ("record", "enum", "fixed"):
        return f"{schema.type} {schema.name}"
    logical = [str(part) for part in _logical(schema) if part is not None]
    return f"{schema.type} ({', '.join(logical)})" if logical else str(schema.type)


_NEW_FIELD: Final = "add a new field with a default beside it, fill both, and drop the old one when no reader needs it"

# (why, instead) per kind; {reader} and {writer} are the types or names of the two sides.
_BACKWARD: Final[dict[Kind, tuple[str, str]]] = {
    "default": (
        "the field is new and has no default, but records without it are in the topic",
        'give it a default; {reader} can become ["null", …] with "default": null',
    ),
    "type": ("it is now {reader}, but the topic holds {writer}", _NEW_FIELD),
    "logical": (
        "it is now {reader}, but the topic holds {writer}: the same bytes, another meaning",
        _NEW_FIELD,
    ),
    "symbols": (
        "the enum lost {writer}, but the topic may hold it",
        'keep the symbol, or give the enum a "default" for symbols it does not know',
    ),
    "branch": ("it no longer takes {writer}, but the topic may hold it", "keep {writer} in the union"),
    "name": ("the type was renamed from {writer} to {reader}", 'keep the name, or add "aliases": ["{writer}"]'),
    "size": ("the fixed is now {reader} bytes, but the topic holds {writer}", _NEW_FIELD),
    "other": ("the new version cannot read what the earlier one wrote", "undo the change"),
}
_FORWARD: Final[dict[Kind, tuple[str, str]]] = {
    "default": (
        "the field is gone, but consumers of the earlier version need it and have no default for it",
        "keep it; to drop it, first give it a default, and drop it once every consumer has that version",
    ),
    "type": ("it is now {writer}, but consumers of the earlier version take {reader}", _NEW_FIELD),
    "logical": (
        "it is now {writer}, but consumers of the earlier version take the bytes for {reader}",
        _NEW_FIELD,
    ),
    "symbols": (
        "the enum gained {writer}, which consumers of the earlier version do not know",
        'first release a version whose enum has a "default"; add the symbol once every consumer has it',
    ),
    "branch": (
        "it can now be {writer}, which consumers of the earlier version do not take",
        _NEW_FIELD,
    ),
    "name": (
        "the type was renamed from {reader} to {writer}, which consumers of the earlier version do not know",
        "keep the name",
    ),
    "size": ("the fixed is now {writer} bytes, but consumers of the earlier version take {reader}", _NEW_FIELD),
    "other": ("consumers of the earlier version cannot read what the new one writes", "undo the change"),
}


def _explained(difference: _Difference, direction: Direction, against: str) -> Break:
    why, instead = (_BACKWARD if direction == "BACKWARD" else _FORWARD)[difference.kind]
    names = {"reader": difference.reader, "writer": difference.writer}
    return Break(direction, against, difference.path, why.format(**names), instead.format(**names))
