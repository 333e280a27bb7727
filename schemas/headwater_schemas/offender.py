"""Which part of a value cannot be encoded: found by encoding its parts one by one, after the whole has failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

__all__ = ["offender"]


def offender(schema: Any, value: Any) -> tuple[str, str] | None:
    """The dotted path of the first part that Avro refuses, and why; ``None`` when each part passes alone.

    Args:
        schema: a valid schema without recursion.
        value: what failed to encode.
    """
    names: dict[str, Any] = {}
    parsed = fastavro.parse_schema(schema, named_schemas=names)
    for path, part, item in _parts(parsed, value, names, ""):
        why = _refusal(part, item)
        if why is not None:
            return path, why
    return None


def _parts(schema: Any, value: Any, names: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every part that can be judged alone, the smallest first, with its schema."""
    if isinstance(schema, str):
        schema = names.get(schema, schema)
    if isinstance(schema, list):
        others = [branch for branch in schema if branch != "null"]
        if len(others) == 1 and value is not None:
            yield from _parts(others[0], value, names, path)
        # Then as a whole: a union is choosier than its only type (a double takes a Decimal, null or double does not).
        yield path, [names.get(branch, branch) if isinstance(branch, str) else branch for branch in schema], value
        return
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record" and isinstance(value, Mapping):
        for field in schema["fields"]:
            if field["name"] in value:
                inner = f"{path}.{field['name']}" if path else field["name"]
                yield from _parts(field["type"], value[field["name"]], names, inner)
    elif kind == "array" and isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _parts(schema["items"], item, names, f"{path}[{number}]")
    elif kind == "map" and isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[...]", "string", key
            yield from _parts(schema["values"], item, names, f"{path}[...]")
    else:
        yield path, schema, value


def _refusal(schema: Any, value: Any) -> str | None:
    try:
        fastavro.schemaless_writer(BytesIO(), schema, value)
    except (SchemaParseException, UnknownType):
        return None  # a union whose branches refer to types outside of it cannot be judged alone
    except UnicodeEncodeError as exc:
        return f"text that UTF-8 cannot hold: {exc.reason}"
    except Exception as exc:  # fastavro raises whatever the value at hand happens to raise
        return _reason(schema, value, str(exc))
    return None


def _reason(schema: Any, value: Any, message: str) -> str:
    """fastavro's words, unless they quote the value, which may be personal."""
    given = type(value).__name__
    if isinstance(schema, list):
        return f"no type of the union takes a `{given}`"
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind in ("record", "array", "map", "enum") or (isinstance(value, str) and repr(value)[1:-1] in message):
        return f"Expected `{kind}`, got `{given}`"
    return message
