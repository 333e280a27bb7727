"""One table of PostgreSQL as a log of changes and a store of chunks: what ``TableView`` needs of a database.

Uses what the server has: logical decoding through SQL functions, ``pg_logical_emit_message`` for watermarks. The user
needs REPLICATION and SELECT on the table, and to have made the publication, or may make it.

Weakness: a transaction is held in memory whole. A slot keeps the log of the server until it is read: drop the slot of a
view that is given up.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from headwater_cache.errors import SourceFailed
from headwater_cache.pgoutput import Mark, Row, Transaction, transactions
from headwater_schemas.errors import HeadwaterError, UsageError

__all__ = ["Chunk", "Connection", "Moment", "PostgresTable"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PREFIX = "headwater"
_PAGE = 10_000


class Connection(Protocol):
    """A DB-API connection whose parameters are ``%s``, such as psycopg's; not in autocommit."""

    def cursor(self) -> Any: ...

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class Moment(NamedTuple):
    """Which transactions a chunk has seen: a snapshot of PostgreSQL."""

    xmin: int
    xmax: int
    running: frozenset[int]

    def sees(self, xid: int) -> bool:
        """Whether the effects of a committed transaction (32 bits, as the log has it) are in the chunk."""
        full = xid + ((self.xmax - xid + (1 << 31)) >> 32 << 32)  # the 64-bit number next to xmax
        return full < self.xmin or (full < self.xmax and full not in self.running)


class Chunk(NamedTuple):
    """Rows in the order of their keys, as they were at one moment."""

    rows: dict[str, Row]
    moment: Moment


class PostgresTable:
    """A table, its publication and its slot. Used by one thread; connects when first used, and again after a failure.

    Args:
        connect: makes a connection, as ``lambda: psycopg.connect(url)``.
        table: ``name`` or ``schema.name``.
        key: its primary key, one column; its text is the business key.
        slot: name of the replication slot and of the publication, one per view.

    Errors of every method: ``SourceFailed`` (the database does not answer, or refuses; see the cause).
    """

    def __init__(self, connect: Callable[[], Connection], table: str, *, key: str = "id", slot: str) -> None:
        schema, _, name = table.rpartition(".")
        for part in (schema or "public", name, key, slot):
            if not _NAME.fullmatch(part):
                raise UsageError(f"{part!r} is no plain name of PostgreSQL: pass letters, digits and _, at most 63")
        self._connect = connect
        self._table = (schema or "public", name)
        self._key = key
        self.slot = slot
        self._open: Connection | None = None

    @property
    def _quoted(self) -> str:
        return f'"{self._table[0]}"."{self._table[1]}"'

    def prepare(self) -> None:
        """Make the publication and the slot unless they are there. From here on the server keeps its log for us.

        Making the slot waits for the transactions that are running.

        Raises:
            UsageError: the server's ``wal_level`` is not ``logical``, or there is no such table or column.
        """
        ((level,),) = self._ask("SELECT current_setting('wal_level')")
        if level != "logical":
            raise UsageError(f"wal_level is {level}: set wal_level = logical and restart PostgreSQL")
        if not self._columns():
            raise UsageError(f"there is no table {self._quoted}, or this user may not see it")
        if not self._ask("SELECT 1 FROM pg_publication WHERE pubname = %s", self.slot):
            self._do(f'CREATE PUBLICATION "{self.slot}" FOR TABLE {self._quoted}')
        if not self._ask("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", self.slot):
            self._ask("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", self.slot)

    def drop(self) -> None:
        """Give slot and publication up; the server keeps nothing for us any more."""
        self._ask(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", self.slot
        )
        self._do(f'DROP PUBLICATION IF EXISTS "{self.slot}"')

    def mark(self) -> tuple[str, int]:
        """Write a watermark into the log: its text, and the position before which everything stands."""
        text = f"{self.slot}:{uuid.uuid4().hex}"
        # Transactional, because only a commit is sure to be flushed, and decoding reads what is flushed.
        ((position,),) = self._ask("SELECT pg_logical_emit_message(true, %s, %s) - '0/0'::pg_lsn", _PREFIX, text)
        return text, int(position)

    def chunk(self, after: str | None, size: int) -> Chunk:
        """The next ``size`` rows behind the key ``after``, at one moment."""
        columns = self._columns()
        selected = ", ".join(f'"{name}"::text' for name in columns)
        behind = f'WHERE rows."{self._key}" > CAST(%s AS {columns[self._key]})' if after is not None else ""
        query = f'SELECT {selected} FROM {self._quoted} rows {behind} ORDER BY rows."{self._key}" LIMIT {int(size)}'
        begin = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
        ((moment,),) = self._ask("SELECT pg_current_snapshot()::text", before=begin, keep=True)
        rows = self._ask(query, *([] if after is None else [after]))
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return Chunk({str(row[self._key]): row for row in named}, _moment(moment))

    def changes(self) -> Iterator[tuple[int, list[Transaction | Mark]]]:
        """What stands in the log and was not confirmed, a page at a time: the position to confirm, and what it holds.

        Ends at the end of the log; the last page may be empty. Confirm each page before the next is asked for.
        """
        while True:
            ((end,),) = self._ask("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")
            page = self._ask(
                "SELECT lsn - '0/0'::pg_lsn, data FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s, "
                "'proto_version', '1', 'publication_names', %s, 'messages', 'true')",
                *(self.slot, _PAGE, self.slot),
            )
            messages = (bytes(data) for _, data in page)
            yield int(page[-1][0] if page else end), list(transactions(messages, self._table, self._key, _PREFIX))
            if len(page) < _PAGE:
                return

    def confirm(self, position: int) -> None:
        """Let the server forget its log up to here."""
        lsn = f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
        self._ask("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", self.slot, lsn)

    def confirmed(self) -> int:
        """Up to where the log was confirmed."""
        found = self._ask(
            "SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = %s", self.slot
        )
        return int(found[0][0]) if found else 0

    def close(self) -> None:
        """Close the connection; the slot stays."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _columns(self) -> dict[str, str]:
        rows = self._ask(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(%s) "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            self._quoted,
        )
        columns = dict(rows)
        if columns and self._key not in columns:
            raise UsageError(f"{self._quoted} has no column {self._key}: pass key='…', its primary key")
        return columns

    def _ask(self, query: str, *params: Any, before: str = "", keep: bool = False) -> list[Any]:
        """Ask, in a transaction of its own unless ``keep`` leaves it open for the next question."""
        try:
            connection = self._open = self._open or self._connect()
            cursor = connection.cursor()
            if before:
                cursor.execute(before)
            cursor.execute(query, params)
            rows = cursor.fetchall()
            if not keep:
                connection.commit()
        except HeadwaterError:
            raise
        except Exception as exc:  # of whatever driver
            self._forget()
            raise SourceFailed(f"PostgreSQL, slot {self.slot}: {exc}") from exc
        return list(rows)

    def _do(self, statement: str) -> None:
        self._ask("SELECT 1", before=statement)

    def _forget(self) -> None:
        connection, self._open = self._open, None
        if connection is not None:
            try:
                connection.close()
            except Exception:  # it is broken already, and the first error is the one to tell
                return


def _moment(text: str) -> Moment:
    """Of ``xmin:xmax:xid,xid,…``."""
    xmin, xmax, running = text.split(":")
    return Moment(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))
