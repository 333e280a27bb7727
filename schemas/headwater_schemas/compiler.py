"""What compiled readers and writers have in common: which types of a schema they take, and where each is defined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import fastavro

__all__ = ["Compiler", "NotCompiled"]

T = TypeVar("T")
"""A function for the values of one type."""


class NotCompiled(Exception):
    """A type that is left to fastavro."""


class Compiler(ABC, Generic[T]):
    """Walks one schema and makes a function for it, out of those of its parts.

    Args:
        plain: the functions of the primitive types.
        logical: those of the logical types that are taken, by underlying type and name.
    """

    def __init__(self, plain: Mapping[str, T], logical: Mapping[tuple[str, str], T]) -> None:
        self._plain = plain
        self._logical = logical
        self._named: dict[str, T] = {}

    def compile(self, schema: Mapping[str, Any]) -> T | None:
        """The function of a record schema; ``None`` if it cannot be made."""
        try:
            # fastavro spells every name in full, and each named type is defined once.
            return self._made(fastavro.parse_schema(dict(schema)))
        except NotCompiled:
            return None

    def _made(self, schema: Any) -> T:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return _known(self._plain.get(schema) or self._named.get(schema))
        kind = schema["type"]
        if kind == "record":
            return self._define(schema, self._record(schema["fields"]))
        if kind == "enum":
            return self._define(schema, self._enum(schema["symbols"]))
        if kind == "array":
            return self._array(self._made(schema["items"]))
        if kind == "map":
            return self._map(self._made(schema["values"]))
        if "logicalType" in schema:
            return _known(self._logical.get((kind, schema["logicalType"])))
        return _known(self._plain.get(kind))

    def _union(self, branches: list[Any]) -> T:
        if len(branches) != 2 or "null" not in branches:
            raise NotCompiled
        null = branches.index("null")
        return self._nullable(self._made(branches[1 - null]), null, 1 - null)

    def _define(self, schema: Any, made: T) -> T:
        self._named[schema["name"]] = made
        return made

    @abstractmethod
    def _record(self, fields: list[Any]) -> T: ...

    @abstractmethod
    def _enum(self, symbols: list[str]) -> T: ...

    @abstractmethod
    def _array(self, item: T) -> T: ...

    @abstractmethod
    def _map(self, value: T) -> T: ...

    @abstractmethod
    def _nullable(self, other: T, null: int, some: int) -> T:
        """``null`` and ``some``: the places of null and of the other type in the union."""


def _known(made: T | None) -> T:
    if made is None:
        raise NotCompiled
    return made
