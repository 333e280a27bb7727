"""Encoding for the hot path: fastavro's bytes, in a third of the time.

A record schema of plain types is compiled into one Python function, as ``dataclasses`` compiles an ``__init__``: no
schema is walked per value, and most fields cost an attribute and a table look-up. It needs values that are known to
fit, so the codec checks each value first. What the function does not take (a type of schema it does not know, a text of
more than 8 KiB) the codec leaves to fastavro.

Nothing of a schema enters the compiled source, which is made of numbers only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final

import fastavro
import msgspec

from headwater_schemas.compiler import Compiler, NotCompiled
from headwater_schemas.varint import varint

__all__ = ["Writer", "compile_writer"]

Writer = Callable[[Any], bytes]
"""Avro binary of a value that has been checked."""

_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80
_FOURTEEN_BITS: Final = 0x3FFF


def compile_writer(schema: Mapping[str, Any]) -> Writer | None:
    """A function that writes what ``msgspec.convert(value, value_type(schema))`` gives; ``None`` if it cannot be made.

    It raises on a text, list or map of more than 8191 bytes or items.
    """
    return _WriterCompiler(_PLAIN, _LOGICAL).compile(schema)


# Avro's long is a zigzag varint, seven bits a byte (specification 1.12, "Binary Encoding"). Fourteen bits at a time
# come from a table: as the last bytes of a number, or as bytes that more follow.
_LAST: Final = [varint(number) for number in range(_FOURTEEN_BITS + 1)]
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
    number = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    top = number >> 41
    if 0 < top <= _FOURTEEN_BITS:  # 1970-01-26 to 3111
        low = number << 1
        return (
            _FOLLOWED[low & _FOURTEEN_BITS]
            + _FOLLOWED[low >> 14 & _FOURTEEN_BITS]
            + _FOLLOWED[low >> 28 & _FOURTEEN_BITS]
            + _LAST[top]
        )
    return _long(number)


def _millis(moment: datetime) -> bytes:
    since = moment - _EPOCH
    number = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    top = number >> 27
    if 0 < top <= _FOURTEEN_BITS:  # 1970-01-02 to 2039
        low = number << 1
        return _FOLLOWED[low & _FOURTEEN_BITS] + _FOLLOWED[low >> 14 & _FOURTEEN_BITS] + _LAST[top]
    return _long(number)


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


class _Nullable:
    """A union of null and one other type, in either order."""

    def __init__(self, write: Writer, null: bytes, some: bytes) -> None:
        self.write, self.null, self.some = write, null, some

    def __call__(self, value: Any) -> bytes:
        return self.null if value is None else self.some + self.write(value)


def _array(write: Writer) -> Writer:
    return lambda items: _COUNT[len(items)] + b"".join(map(write, items)) + b"\0" if items else b"\0"


def _map(write: Writer) -> Writer:
    def entries(items: Mapping[str, Any]) -> bytes:
        if not items:
            return b"\0"
        return _COUNT[len(items)] + b"".join([_text(key) + write(item) for key, item in items.items()]) + b"\0"

    return entries


class _WriterCompiler(Compiler[Writer]):
    def _enum(self, symbols: list[str]) -> Writer:
        return {symbol: _long(place) for place, symbol in enumerate(symbols)}.__getitem__

    def _array(self, item: Writer) -> Writer:
        return _array(item)

    def _map(self, value: Writer) -> Writer:
        return _map(value)

    def _nullable(self, other: Writer, null: int, some: int) -> Writer:
        return _Nullable(other, _long(null), _long(some))

    def _record(self, fields: list[Any]) -> Writer:
        """One function for all fields: nulls, defaults, texts and small numbers in line, the others by a call."""
        names: dict[str, Any] = {"count": _COUNT, "UNSET": msgspec.UNSET}
        items = [self._field(field, number, names) for number, field in enumerate(fields)]
        exec(f"def write(record):\n    return b''.join(({''.join(items)}))\n", names)
        writer: Writer = names["write"]
        return writer

    def _field(self, field: Any, number: int, names: dict[str, Any]) -> str:
        """The source of one field's bytes: items of a tuple, each with its comma."""
        write = self._made(field["type"])
        value = (
            f"(v := record.f{number})" if "default" in field or isinstance(write, _Nullable) else f"record.f{number}"
        )
        tests = ""
        if "default" in field:
            names[f"default{number}"] = _default_bytes(field)
            tests, value = f"default{number} if {value} is UNSET else ", "v"
        if isinstance(write, _Nullable):
            names[f"null{number}"], names[f"some{number}"] = write.null, write.some
            tests, write = f"{tests}null{number} if {value} is None else some{number} + ", write.write
            value = "v"
        names[f"write{number}"] = write
        return f"{tests}{_source(write, value, number)}," if tests else f"{_source(write, value, number, ', ')},"


def _source(write: Writer, value: str, number: int, joint: str = " + ") -> str:
    if write is _text:
        return f"count[len(t := {value}.encode())]{joint}t"
    if write is _data:
        return f"count[len(t := {value})]{joint}t"
    if write is _long:
        named = value if value == "v" else f"(v := {value})"
        return f"(count[v] if 0 <= {named} < {_COUNTS} else write{number}(v))"
    return f"write{number}({value})"


def _default_bytes(field: Any) -> bytes:
    buffer = BytesIO()
    record = {"type": "record", "name": "Default", "fields": [field]}
    try:
        fastavro.schemaless_writer(buffer, record, {})
    except Exception as exc:  # a default that names a type defined elsewhere, or that is wrong: the codec's affair
        raise NotCompiled from exc
    return buffer.getvalue()
