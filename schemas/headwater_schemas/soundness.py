"""What a schema must not be, checked once per schema, so that no record needs to be.

Two shapes let a few hostile bytes take a process down inside the Avro library, where no error can be caught:

- a type that contains itself: 40 kB of ``[1, [1, [1, …`` overflow the C stack of fastavro's reader (a crash, seen with
  1.13);
- an array whose items take no bytes (null, an empty record, a fixed of 0): nine bytes announce 2^62 of them.

And a contract of ours must not have defaults that fastavro reads back as they stand in the JSON, text for bytes and
numbers for dates: readers would get a type that the field does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["misread_default", "unsound"]

_PLAIN = frozenset({"null", "boolean", "int", "long", "float", "double", "string"})
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAMED = frozenset({"record", "error", "enum", "fixed"})


def unsound(schema: Any) -> str | None:
    """Why ``schema`` must not be decoded from bytes that anyone may have sent; ``None`` when it may.

    The schema is taken to be valid Avro.
    """
    return _Walk().problem(schema, "")


def misread_default(schema: Any) -> str | None:
    """The first field whose default a reader would get in another type than the field's; ``None`` when there is none.

    Safe are null, numbers, booleans and text of a plain type, an enum's symbol, and an empty array or map.
    """
    if isinstance(schema, list):
        return next(filter(None, map(misread_default, schema)), None)
    if not isinstance(schema, dict):
        return None
    for field in schema.get("fields", ()):
        if "default" in field and not _plain(field["type"], field["default"]):
            return f"{schema['name']}.{field['name']}"
        problem = misread_default(field["type"])
        if problem is not None:
            return problem
    inner = [schema[key] for key in ("type", "items", "values") if not isinstance(schema.get(key, ""), str)]
    return misread_default(inner)


def _plain(schema: Any, default: Any) -> bool:
    if default is None:
        return True
    if isinstance(schema, list):
        return _plain(schema[0], default)
    if isinstance(schema, str):
        return schema in _PLAIN or (schema not in _PRIMITIVES and isinstance(default, str))
    kind = schema["type"]
    if kind in ("array", "map"):
        return not default
    return "logicalType" not in schema and (kind == "enum" or not isinstance(kind, str) or kind in _PLAIN)


class _Walk:
    """One walk over a schema; remembers the least size of every named type it has left."""

    def __init__(self) -> None:
        self._takes_bytes: dict[str, bool] = {}
        self._open: set[str] = set()

    def problem(self, schema: Any, namespace: str) -> str | None:
        if isinstance(schema, list):
            return next(filter(None, (self.problem(branch, namespace) for branch in schema)), None)
        if isinstance(schema, str):
            name = _full_name(schema, namespace)
            return f"{name} contains itself" if name in self._open else None
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.problem(kind, namespace)
        if kind in _NAMED:
            return self._named(schema, kind, namespace)
        if kind == "map":
            return self.problem(schema["values"], namespace)
        if kind == "array":
            problem = self.problem(schema["items"], namespace)
            if problem is None and not self._sized(schema["items"], namespace):
                problem = "an array has items that take no bytes"
            return problem
        return self.problem(kind, namespace)

    def _named(self, schema: Mapping[str, Any], kind: str, namespace: str) -> str | None:
        name = _full_name(schema["name"], schema.get("namespace", namespace))
        if kind in ("enum", "fixed"):
            self._takes_bytes[name] = kind == "enum" or schema["size"] > 0
            return None
        inner = name.rpartition(".")[0]
        self._open.add(name)
        for field in schema["fields"]:
            problem = self.problem(field["type"], inner)
            if problem is not None:
                return problem
        self._open.discard(name)
        self._takes_bytes[name] = any(self._sized(field["type"], inner) for field in schema["fields"])
        return None

    def _sized(self, schema: Any, namespace: str) -> bool:
        """Whether every value of a schema that has been walked takes at least one byte."""
        if isinstance(schema, list):
            return True
        if isinstance(schema, str):
            return schema != "null" if schema in _PRIMITIVES else self._takes_bytes[_full_name(schema, namespace)]
        kind = schema["type"]
        if isinstance(kind, str) and kind in _NAMED:
            return self._takes_bytes[_full_name(schema["name"], schema.get("namespace", namespace))]
        return kind in ("array", "map") or self._sized(kind, namespace)


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"
