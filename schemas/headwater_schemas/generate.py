"""Typed events: msgspec structs, written as Python source from the contracts.

The source is committed and checked for drift, so that editors, type checkers and reviews see the fields. Records become
frozen structs, enums become ``StrEnum``, docs become docstrings. A union that is not "something or null" becomes
``Any``: msgspec cannot tell two records apart without a tag, and Avro's bytes carry none that Python sees.
"""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from headwater_schemas.catalogue import Schema
from headwater_schemas.errors import UsageError

__all__ = ["module_source"]

_WIDTH: Final = 120
_HEAD: Final = '''"""Typed events, one struct per contract.

Written by `headwater schemas generate` from contracts/*.avsc; edit those.
"""'''

_PRIMITIVES: Final = {
    "null": "None",
    "boolean": "bool",
    "int": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "bytes": "bytes",
    "string": "str",
}
_LOGICAL: Final = {
    ("long", "timestamp-millis"): "datetime.datetime",
    ("long", "timestamp-micros"): "datetime.datetime",
    ("long", "local-timestamp-millis"): "datetime.datetime",
    ("long", "local-timestamp-micros"): "datetime.datetime",
    ("int", "date"): "datetime.date",
    ("int", "time-millis"): "datetime.time",
    ("long", "time-micros"): "datetime.time",
    ("string", "uuid"): "uuid.UUID",
    ("bytes", "decimal"): "decimal.Decimal",
    ("fixed", "decimal"): "decimal.Decimal",
}


def module_source(schemas: Iterable[Schema]) -> str:
    """The source of one Python module with a class per record and enum; the same schemas give the same text.

    Raises:
        UsageError: two contracts define different types of one name, or a default cannot be written in Python.
    """
    module = _Module()
    for schema in sorted(schemas, key=lambda schema: str(schema["name"])):
        module.annotation(schema)
    return module.source()


class _Module:
    """Classes in the order in which they are needed, and the imports they ask for."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._definitions: dict[str, Mapping[str, Any]] = {}
        self._fixed: dict[str, str] = {}
        self._used: set[str] = set()

    def source(self) -> str:
        body = "\n\n\n".join(self._classes.values())
        names = "".join(f'    "{name}",\n' for name in sorted(self._classes))
        standard = sorted(self._used, key=lambda line: (line.startswith("from"), line))
        imports = "\n".join(["from __future__ import annotations", "", *standard, *([""] if standard else [])])
        return f"{_HEAD}\n\n{imports}\nimport msgspec\n\n__all__ = [\n{names}]\n\n\n{body}\n"

    def annotation(self, schema: Any) -> str:
        """The Python type of a schema as source; writes the classes it needs."""
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            short = schema.rpartition(".")[2]
            return _PRIMITIVES.get(schema) or self._fixed.get(short) or short
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.annotation(kind)
        logical = _LOGICAL.get((kind, str(schema.get("logicalType"))))
        if logical is not None:
            self._used.add(f"import {logical.partition('.')[0]}")
        if kind == "fixed":
            return self._fixed.setdefault(schema["name"], logical or "bytes")
        if kind in ("record", "enum"):
            return self._define(schema, kind)
        if kind == "array":
            return f"list[{self.annotation(schema['items'])}]"
        if kind == "map":
            return f"dict[str, {self.annotation(schema['values'])}]"
        return logical or self.annotation(kind)

    def _union(self, branches: list[Any]) -> str:
        others = [self.annotation(branch) for branch in branches if branch != "null"]
        if len(others) > 1:
            self._used.add("from typing import Any")
            return "Any"
        return " | ".join([*others, "None"] if "null" in branches else others)

    def _define(self, schema: Mapping[str, Any], kind: str) -> str:
        name = str(schema["name"]).rpartition(".")[2]
        if name in self._definitions:
            if self._definitions[name] != schema:
                raise UsageError(f"two contracts define different types named {name}: rename one of them")
            return name
        self._definitions[name] = schema
        self._classes[name] = self._enum(name, schema) if kind == "enum" else self._record(name, schema)
        return name

    def _enum(self, name: str, schema: Mapping[str, Any]) -> str:
        doc = list(_docstring(schema.get("doc")))
        lines = [f"class {name}(StrEnum):", *doc, *([""] if doc else [])]
        self._used.add("from enum import StrEnum")
        for symbol in schema["symbols"]:
            attribute = f"{symbol}_" if keyword.iskeyword(symbol) else symbol
            lines.append(f'    {attribute} = "{symbol}"')
        return "\n".join(lines)

    def _record(self, name: str, schema: Mapping[str, Any]) -> str:
        doc = list(_docstring(schema.get("doc")))
        lines = [f"class {name}(msgspec.Struct, frozen=True, kw_only=True):", *doc, *([""] if doc else [])]
        for field in schema["fields"]:
            lines.append(self._field(name, field))
            lines += _docstring(field.get("doc"))
        return "\n".join(lines)

    def _field(self, record: str, field: Mapping[str, Any]) -> str:
        outside = field["name"]
        attribute = f"{outside}_" if keyword.iskeyword(outside) else outside
        options = {}
        if attribute != outside:
            options["name"] = f'"{outside}"'
        if "default" in field:
            option, text = self._default(f"{record}.{outside}", field["type"], field["default"])
            options[option] = text
        line = f"    {attribute}: {self.annotation(field['type'])}"
        if not options:
            return line
        if set(options) == {"default"}:
            return f"{line} = {options['default']}"
        return f"{line} = msgspec.field({', '.join(f'{option}={text}' for option, text in options.items())})"

    def _default(self, where: str, schema: Any, value: Any) -> tuple[str, str]:
        """How a default is given (``default`` or ``default_factory``) and its source; a union's is its first type's."""
        if isinstance(schema, list):
            return self._default(where, schema[0], value)
        if isinstance(schema, str):
            return "default", _literal(where, value)
        kind = schema["type"]
        if kind == "enum":
            return "default", f"{schema['name']}.{value}"
        if kind in ("array", "map") and not value:
            return "default_factory", "list" if kind == "array" else "dict"
        if isinstance(kind, str) and kind in _PRIMITIVES and "logicalType" not in schema:
            return self._default(where, kind, value)
        raise _no_source(where, value)


def _literal(where: str, value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    raise _no_source(where, value)


def _quoted(text: str) -> str:
    """A literal in the quotes that need fewer escapes, double ones first: as formatters write it."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_escaped(character, quote) for character in text) + quote


def _escaped(character: str, quote: str) -> str:
    if character in "'\"":
        return f"\\{character}" if character == quote else character
    return repr(character)[1:-1]


def _no_source(where: str, value: Any) -> UsageError:
    return UsageError(f"{where}: a default of {value!r} is not supported: use null, a scalar, [] or {{}}")


def _docstring(doc: str | None) -> Iterator[str]:
    if not doc:
        return
    text = doc.replace("\\", "\\\\").replace('"""', "'''").strip()
    if len(text) + 10 <= _WIDTH and "\n" not in text:
        yield f'    """{text}"""'
        return
    lines = textwrap.wrap(text, _WIDTH - 10)
    yield f'    """{lines[0]}'
    yield from (f"    {line}" for line in lines[1:])
    yield '    """'
