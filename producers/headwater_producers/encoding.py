"""Encoding for the hot path: the codec's bytes, in a third of the time.

A record schema of plain types is compiled into one Python function, as ``dataclasses`` compiles an ``__init__``: no
schema is walked per value, and a field costs an attribute and a table look-up. It needs values that are known to fit,
so each value first goes through the same check as in the codec. Whatever the compiled function does not take (a type of
schema it does not know, a value that does not fit, a text of more than 8 KiB) is left to the codec, which encodes it or
says what is wrong with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final

import fastavro
import msgspec

from headwater_schemas.codec import Codec, Encoder
from headwater_schemas.value_types import NATIVE, value_type
from headwater_schemas.wire import PREFIX_BYTES

__all__ = ["compile_writer", "event_encoder"]

Writer = Callable[[Any], bytes]
"""Avro binary of a value that has been checked."""

_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80
_FOURTEEN_BITS: Final = 0x3FFF


def event_encoder(codec: Codec, topic: str) -> Encoder:
    """``codec.encoder(topic)``, faster. Blocks for one registry request at a topic's first use; raises as the codec."""
    exact = codec.encoder(topic)
    schema = codec.catalogue.schema(codec.catalogue.topic(topic).schema)
    write = compile_writer(schema)
    if write is None:
        return exact
    checked = value_type(schema)
    convert = msgspec.convert
    prefix = b""

    def encode(value: Mapping[str, Any] | msgspec.Struct) -> bytes:
        nonlocal prefix
        if prefix:
            try:
                record = value if value.__class__ is dict else _as_mapping(value)
                return prefix + write(convert(record, checked))
            except Exception:  # whatever it was, the codec encodes the value or says what is wrong with it
                return exact(value)
        encoded = exact(value)
        prefix = encoded[:PREFIX_BYTES]
        return encoded

    return encode


def compile_writer(schema: Mapping[str, Any]) -> Writer | None:
    """A function that writes what ``msgspec.convert(value, value_type(schema))`` gives; ``None`` if it cannot be made.

    It raises on a text, list or map of more than 8191 bytes or items.
    """
    try:
        return _Compiler(fastavro.parse_schema(dict(schema))).writer
    except _Unknown:
        return None


def _as_mapping(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=NATIVE) if isinstance(value, msgspec.Struct) else value


class _Unknown(Exception):
    """A type that the compiler leaves to fastavro."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > _SEVEN_BITS:
        out.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    out.append(number)
    return bytes(out)


# Avro's long is a zigzag varint, seven bits a byte (specification 1.12, "Binary Encoding"). Fourteen bits at a time
# come from a table: as the last bytes of a number, or as bytes that more follow.
_LAST: Final = [_varint(number) for number in range(_FOURTEEN_BITS + 1)]
_FOLLOWED: Final = [bytes((n & _SEVEN_BITS | _MORE, n >> 7 | _MORE)) for n in range(_FOURTEEN_BITS + 1)]
_COUNT: Final = _LAST[::2]
"""The encodings of 0 to 8191, where a list index beyond raises."""
_COUNTS: Final = len(_COUNT)


def _long(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    out = b""
    while rest > _FOURTEEN_BITS:
        out += _FOLLOWED[rest & _FOURTEEN_BITS]
        rest >>= 14
    return out + _LAST[rest]


def _text(text: str) -> bytes:
    data = text.encode()
    return _COUNT[len(data)] + data


def _data(data: bytes) -> bytes:
    return _COUNT[len(data)] + data


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _micros(moment: datetime) -> bytes:
    since = moment - _EPOCH
    return _long((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def _millis(moment: datetime) -> bytes:
    since = moment - _EPOCH
    return _long((since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000)


_PLAIN: Final[dict[str, Writer]] = {
    "null": lambda _: b"",
    "boolean": lambda value: b"\1" if value else b"\0",
    "int": _long,
    "long": _long,
    "float": struct.Struct("<f").pack,
    "double": struct.Struct("<d").pack,
    "bytes": _data,
    "string": _text,
}
_LOGICAL: Final[dict[tuple[str, str], Writer]] = {
    ("long", "timestamp-micros"): _micros,
    ("long", "timestamp-millis"): _millis,
}


def _nullable(write: Writer, null: bytes, some: bytes) -> Writer:
    if write is _text:
        return _nullable_text(null, some)
    return lambda value: null if value is None else some + write(value)


def _nullable_text(null: bytes, some: bytes) -> Writer:
    """The commonest nullable in one call instead of two."""

    def write(value: str | None) -> bytes:
        if value is None:
            return null
        data = value.encode()
        return some + _COUNT[len(data)] + data

    return write


def _array(write: Writer) -> Writer:
    return lambda items: _COUNT[len(items)] + b"".join(map(write, items)) + b"\0" if items else b"\0"


def _map(write: Writer) -> Writer:
    def entries(items: Mapping[str, Any]) -> bytes:
        if not items:
            return b"\0"
        return _COUNT[len(items)] + b"".join([_text(key) + write(item) for key, item in items.items()]) + b"\0"

    return entries


class _Compiler:
    """Makes the writer of one schema, as ``fastavro.parse_schema`` gives it: full names, named types defined once."""

    def __init__(self, schema: Any) -> None:
        self._named: dict[str, Writer] = {}
        self.writer = self._writer(schema)

    def _writer(self, schema: Any) -> Writer:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            return self._known(_PLAIN.get(schema) or self._named.get(schema))
        kind = schema["type"]
        if kind == "record":
            return self._record(schema)
        if kind == "enum":
            symbols = {symbol: _long(place) for place, symbol in enumerate(schema["symbols"])}
            return self._define(schema, symbols.__getitem__)
        if kind == "array":
            return _array(self._writer(schema["items"]))
        if kind == "map":
            return _map(self._writer(schema["values"]))
        if "logicalType" in schema:
            return self._known(_LOGICAL.get((kind, schema["logicalType"])))
        return self._known(_PLAIN.get(kind))

    def _known(self, writer: Writer | None) -> Writer:
        if writer is None:
            raise _Unknown
        return writer

    def _define(self, schema: Any, writer: Writer) -> Writer:
        self._named[schema["name"]] = writer
        return writer

    def _union(self, branches: list[Any]) -> Writer:
        if len(branches) != 2 or "null" not in branches:
            raise _Unknown
        null = branches.index("null")
        return _nullable(self._writer(branches[1 - null]), _long(null), _long(1 - null))

    def _record(self, schema: Any) -> Writer:
        """One function for all fields: texts and small numbers in line, the others by a call.

        Nothing of the schema enters the source, which is made of numbers only.
        """
        names: dict[str, Any] = {"count": _COUNT}
        lines: list[str] = []
        parts: list[str] = []
        for number, field in enumerate(schema["fields"]):
            write = self._field(field)
            names[f"write{number}"] = write
            if write is _text:
                lines.append(f"v{number} = record.f{number}.encode()")
                parts.append(f"count[len(v{number})], v{number}")
            elif write is _long:
                lines.append(f"v{number} = record.f{number}")
                parts.append(f"count[v{number}] if 0 <= v{number} < {_COUNTS} else write{number}(v{number})")
            else:
                parts.append(f"write{number}(record.f{number})")
        body = "".join(f"    {line}\n" for line in lines)
        exec(f"def write(record):\n{body}    return b''.join(({', '.join([*parts, ''])}))\n", names)
        return self._define(schema, names["write"])

    def _field(self, field: Any) -> Writer:
        write = self._writer(field["type"])
        return _or_default(write, _default_bytes(field)) if "default" in field else write


def _or_default(write: Writer, default: bytes) -> Writer:
    return lambda value: default if value is msgspec.UNSET else write(value)


def _default_bytes(field: Any) -> bytes:
    buffer = BytesIO()
    record = {"type": "record", "name": "Default", "fields": [field]}
    try:
        fastavro.schemaless_writer(buffer, record, {})
    except Exception as exc:  # a default that names a type defined elsewhere, or that is wrong: the codec's affair
        raise _Unknown from exc
    return buffer.getvalue()
