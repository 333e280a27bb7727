"""PostgreSQL's logical replication messages (the ``pgoutput`` plugin, protocol 1), parsed into transactions.

The format is that of the PostgreSQL manual, "Logical Replication Message Formats". Values are text, as the type's
output function writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from headwater_schemas.errors import NotDecodable, UsageError

__all__ = ["Mark", "Row", "Transaction", "transactions"]

Row = Mapping[str, str | None]
"""A row: column -> text, ``None`` = NULL."""

_UNCHANGED = "\0unchanged"  # no text of PostgreSQL holds a NUL


class Transaction(NamedTuple):
    """A committed transaction, in commit order: the last state of each row that it touched, ``None`` = deleted."""

    xid: int
    lsn: int
    """Of the commit: it orders transactions as they became visible, which the positions of single changes do not."""
    rows: dict[str, Row | None]


class Mark(NamedTuple):
    """A watermark: a message that somebody wrote into the log."""

    text: str


class _Relation(NamedTuple):
    table: tuple[str, str]
    columns: list[str]


class _Reader:
    """Takes one message apart."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        number: int = value
        return number

    def text(self) -> str:
        end = self._data.index(0, self._at)
        text, self._at = self._data[self._at : end].decode(), end + 1
        return text

    def bytes(self, size: int) -> bytes:
        data, self._at = self._data[self._at : self._at + size], self._at + size
        return data

    def kind(self) -> str:
        return chr(self.take(">B"))

    def values(self) -> list[str | None]:
        return [self._value() for _ in range(self.take(">H"))]

    def _value(self) -> str | None:
        kind = self.kind()
        if kind == "n":
            return None
        if kind == "u":
            return _UNCHANGED
        if kind == "t":
            return self.bytes(self.take(">I")).decode()
        raise NotDecodable(f"a column of pgoutput of kind {kind!r}: use protocol 1, text format")


def transactions(
    messages: Iterable[bytes], table: tuple[str, str], key: str, prefix: str
) -> Iterator[Transaction | Mark]:
    """The transactions that touched ``table`` (schema, name), and the marks with ``prefix``, in the order of the log.

    Raises:
        UsageError: the table was truncated, or an update left out a large column that did not change.
    """
    relations: dict[int, _Relation] = {}
    xid = lsn = 0
    rows: dict[str, Row | None] = {}
    for data in messages:
        reader = _Reader(data)
        match reader.kind():
            case "B":
                lsn, _, xid = reader.take(">Q"), reader.take(">q"), reader.take(">I")
                rows = {}
            case "C":
                if rows:
                    yield Transaction(xid, lsn, rows)
            case "R":
                of, relation = _relation(reader)
                relations[of] = relation
            case "M":
                _, _, name = reader.take(">B"), reader.take(">Q"), reader.text()
                if name == prefix:
                    yield Mark(reader.bytes(reader.take(">I")).decode())
            case "T":
                _check_truncated(reader, relations, table)
            case "I" | "U" | "D" as kind:
                relation = relations[reader.take(">I")]
                if relation.table == table:
                    rows.update(_change(reader, kind, relation, key))


def _relation(reader: _Reader) -> tuple[int, _Relation]:
    of, schema, name, _ = reader.take(">I"), reader.text(), reader.text(), reader.take(">B")
    columns = []
    for _ in range(reader.take(">H")):
        reader.take(">B")
        columns.append(reader.text())
        reader.take(">I")
        reader.take(">i")
    return of, _Relation((schema, name), columns)


def _check_truncated(reader: _Reader, relations: Mapping[int, _Relation], table: tuple[str, str]) -> None:
    count, _ = reader.take(">I"), reader.take(">B")
    if any(relations[reader.take(">I")].table == table for _ in range(count)):
        raise UsageError(f"{'.'.join(table)} was truncated, which names no row: drop its slot and fill a new epoch")


def _change(reader: _Reader, kind: str, relation: _Relation, key: str) -> dict[str, Row | None]:
    """What one change leaves of the keys it concerns: an update of the key itself concerns two."""
    changed: dict[str, Row | None] = {}
    old: Row = {}
    part = reader.kind()
    if part in "KO":
        old = dict(zip(relation.columns, reader.values(), strict=True))
        changed[_key(old, key)] = None
        if kind == "D":
            return changed
        part = reader.kind()
    new = dict(zip(relation.columns, reader.values(), strict=True))
    for column, value in new.items():
        if value == _UNCHANGED:
            if old.get(column) is None:
                raise UsageError(
                    f"an update of {'.'.join(relation.table)} leaves out the large column {column}, which it did not "
                    f"change: ALTER TABLE {'.'.join(relation.table)} REPLICA IDENTITY FULL"
                )
            new[column] = old[column]
    changed[_key(new, key)] = new
    return changed


def _key(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        raise UsageError(f"the log of the table does not tell {key}: it must be the primary key, or replica identity")
    return value
