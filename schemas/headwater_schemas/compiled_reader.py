"""Decoding for the hot path: fastavro's values, in half to two thirds of the time.

A record schema of plain types is compiled into one Python function that walks the bytes by index. fastavro reads
through a file object, one call per byte of a number, which costs most where Avro is used most: times, counts, nullable
fields.

The function takes sound bytes of the commonest shapes. On anything else it raises, or ends elsewhere than at the end of
the value; the codec then asks fastavro, which reads the value or says what is wrong with it. So it may be strict, but
must never read a value other than as fastavro does.

Of a schema only field names that are identifiers enter the compiled source.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from headwater_schemas.compiler import Compiler, NotCompiled

__all__ = ["Reader", "compile_reader"]

Reader = Callable[[bytes, int], tuple[Any, int]]
"""Gives the value that begins at a position, and the position behind it."""

_LONGEST: Final = 10
"""Bytes of the longest long."""


def compile_reader(schema: Mapping[str, Any]) -> Reader | None:
    """A function that reads values written with ``schema``, which must be sound (see ``soundness``); ``None`` if it
    cannot be made."""
    return _ReaderCompiler(_PLAIN, _LOGICAL).compile(schema)


class _Unusual(ValueError):
    """Bytes that are left to fastavro."""


def _long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint (Avro specification 1.12, "Binary Encoding")."""
    byte = data[at]
    number = byte & 0x7F
    start, shift = at, 0
    while byte & 0x80:
        at += 1
        shift += 7
        byte = data[at]
        number |= (byte & 0x7F) << shift
    if at - start >= _LONGEST or number >> 64:
        raise _Unusual
    return (number >> 1) ^ -(number & 1), at + 1


_ZIGZAG: Final = tuple((byte >> 1) ^ -(byte & 1) for byte in range(0x80))


def _length(data: bytes, at: int) -> tuple[int, int]:
    length, at = _long(data, at)
    if length < 0:
        raise _Unusual
    return length, at


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO: Final = timedelta(0, 0, 1)


def _micros(data: bytes, at: int) -> tuple[datetime, int]:
    number, at = _long(data, at)
    return _EPOCH + _MICRO * number, at


def _millis(data: bytes, at: int) -> tuple[datetime, int]:
    number, at = _long(data, at)
    return _EPOCH + _MICRO * (number * 1000), at


# Microseconds since 1970 take eight bytes from 1979 to 3111: four pairs, looked up. A pair that is not in its table (a
# number of another length, or before 1970) raises.
_PAIRS: Final = struct.Struct("<4H").unpack_from
_MIDDLE: Final = {(n & 0x7F | 0x80) | (n >> 7 | 0x80) << 8: n for n in range(1 << 14)}
_FIRST: Final = {pair: n >> 1 for pair, n in _MIDDLE.items() if not n & 1}
_LAST: Final = {(n & 0x7F | 0x80) | (n >> 7) << 8: n for n in range(1 << 7, 1 << 14)}


def _text(data: bytes, at: int) -> tuple[str, int]:
    length, at = _length(data, at)
    return data[at : at + length].decode(), at + length


def _data(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _length(data, at)
    return data[at : at + length], at + length


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    return (False, True)[data[at]], at + 1


def _packed(form: struct.Struct) -> Reader:
    unpack, size = form.unpack_from, form.size
    return lambda data, at: (unpack(data, at)[0], at + size)


_PLAIN: Final[dict[str, Reader]] = {
    "null": lambda _, at: (None, at),
    "boolean": _boolean,
    "int": _long,
    "long": _long,
    "float": _packed(struct.Struct("<f")),
    "double": _packed(struct.Struct("<d")),
    "bytes": _data,
    "string": _text,
}
_LOGICAL: Final[dict[tuple[str, str], Reader]] = {
    ("long", "timestamp-micros"): _micros,
    ("long", "timestamp-millis"): _millis,
}


class _Nullable:
    """A union of null and one other type, in either order; ``null`` and ``some`` are the bytes that say which."""

    def __init__(self, read: Reader, null: int, some: int) -> None:
        self.read, self.null, self.some = read, null, some

    def __call__(self, data: bytes, at: int) -> tuple[Any, int]:
        branch = data[at]
        if branch == self.null:
            return None, at + 1
        if branch == self.some:
            return self.read(data, at + 1)
        raise _Unusual


def _enum(symbols: tuple[str, ...]) -> Reader:
    def read(data: bytes, at: int) -> tuple[str, int]:
        place, at = _length(data, at)
        return symbols[place], at

    return read


def _array(read: Reader) -> Reader:
    def items(data: bytes, at: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        count, at = _length(data, at)
        while count:
            for _ in range(count):
                item, at = read(data, at)
                found.append(item)
            count, at = _length(data, at)
        return found, at

    return items


def _map(read: Reader) -> Reader:
    def entries(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        count, at = _length(data, at)
        while count:
            for _ in range(count):
                key, at = _text(data, at)
                found[key], at = read(data, at)
            count, at = _length(data, at)
        return found, at

    return entries


_NAMES: Final = {
    "long": _long,
    "length": _length,
    "zigzag": _ZIGZAG,
    "Unusual": _Unusual,
    "micros": _micros,
    "epoch": _EPOCH,
    "micro": _MICRO,
    "pairs": _PAIRS,
    "first": _FIRST,
    "middle": _MIDDLE,
    "last": _LAST,
    "unpaired": (KeyError, struct.error),
}
"""What compiled functions refer to."""


class _ReaderCompiler(Compiler[Reader]):
    def _enum(self, symbols: list[str]) -> Reader:
        return _enum(tuple(symbols))

    def _array(self, item: Reader) -> Reader:
        return _array(item)

    def _map(self, value: Reader) -> Reader:
        return _map(value)

    def _nullable(self, other: Reader, null: int, some: int) -> Reader:
        return _Nullable(other, null * 2, some * 2)

    def _record(self, fields: list[Any]) -> Reader:
        """One function for all fields: nulls, texts and small numbers in line, the others by a call."""
        if not all(field["name"].isidentifier() and field["name"].isascii() for field in fields):
            raise NotCompiled
        names: dict[str, Any] = dict(_NAMES)
        lines: list[str] = []
        for number, field in enumerate(fields):
            lines += self._field(self._made(field["type"]), f"v{number}", names)
        value = ", ".join(f"'{field['name']}': v{number}" for number, field in enumerate(fields))
        body = "".join(f"    {line}\n" for line in lines)
        exec(f"def read(data, at):\n{body}    return {{{value}}}, at\n", names)
        reader: Reader = names["read"]
        return reader

    def _field(self, read: Reader, variable: str, names: dict[str, Any]) -> list[str]:
        """The statements that read one field into ``variable``."""
        if isinstance(read, _Nullable):
            some = self._field(read.read, variable, names)
            return [
                "b = data[at]",
                f"if b == {read.null}:",
                f"    {variable} = None; at += 1",
                f"elif b == {read.some}:",
                "    at += 1",
                *(f"    {line}" for line in some),
                "else: raise Unusual",
            ]
        if read is _long:
            return [
                "b = data[at]",
                f"if b < 128: {variable} = zigzag[b]; at += 1",
                f"else: {variable}, at = long(data, at)",
            ]
        if read is _text or read is _data:
            return [
                "b = data[at]",
                "if b & 0x81: n, at = length(data, at)",
                "else: n = b >> 1; at += 1",
                f"{variable} = data[at:at + n]{'.decode()' if read is _text else ''}; at += n",
            ]
        if read is _micros:
            return [
                "try:",
                "    p, q, r, s = pairs(data, at)",
                f"    {variable} = epoch + micro * (first[p] | middle[q] << 13 | middle[r] << 27 | last[s] << 41)",
                "    at += 8",
                f"except unpaired: {variable}, at = micros(data, at)",
            ]
        names[f"read_{variable}"] = read
        return [f"{variable}, at = read_{variable}(data, at)"]
