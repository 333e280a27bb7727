"""A view of a database table: filled by chunks between watermarks, then kept up to date from the database's log.

The method is DBLog's (Andreakis and Papapanagiotou, "DBLog: A Watermark Based Change-Data-Capture Framework", 2020).
A low watermark is written into the log, a chunk of rows is read, a high watermark is written. Then the log is followed
to the high watermark as always, and a row of the chunk whose key was seen between the two is dropped: its change is
newer, or it is the same. (Its version would refuse the row as well; so nothing is sent in vain.) The other rows are as
the table was at the low watermark, and are applied with its position as their version. No table is locked, changes
flow on meanwhile, and it can stop and go on at every chunk.

Two additions. Versions are positions of *commits*, and a transaction counts as one change, so that versions order rows
as they became visible. And a commit can stand in the log before readers see it (while it waits for a standby); so a row
is dropped too if the log told of a transaction that the chunk's snapshot had not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from headwater_cache.cache import EntityCache
from headwater_cache.changes import Change
from headwater_cache.continuity import TopicPartition, lost
from headwater_cache.errors import ContinuityLost, SourceFailed
from headwater_cache.pgoutput import Mark, Row, Transaction
from headwater_cache.postgres import Chunk
from headwater_cache.values import ValueCodec
from headwater_cache.versions import Version, log_version
from headwater_schemas.errors import UsageError

__all__ = ["CapturedTable", "TableView"]

V = TypeVar("V")
_BATCH = 500
Progress = Callable[[int], None]


class CapturedTable(Protocol):
    """A table with a log of its changes in commit order; ``PostgresTable`` is one."""

    @property
    def slot(self) -> str: ...

    def prepare(self) -> None: ...

    def mark(self) -> tuple[str, int]: ...

    def chunk(self, after: str | None, size: int) -> Chunk: ...

    def changes(self) -> Iterable[tuple[int, list[Transaction | Mark]]]: ...

    def confirm(self, position: int) -> None: ...

    def confirmed(self) -> int: ...


class _State(msgspec.Struct):
    """How far the snapshot is; kept in Redis beside what it speaks of."""

    slot: str
    after: str | None = None
    rows: int = 0
    done: bool = False
    unseen: dict[str, int] = {}
    """Keys, by transactions that stood in the log and that the last chunk had not seen."""


class TableView(Generic[V]):
    """Fills a view from a table and follows the table's log. Blocking; one process per view.

    A view that was emptied starts over. One that lost a part (failover) raises ``ContinuityLost``: its log may be gone,
    so fill a new epoch: a cache made with ``epoch=`` the next number, a table with another slot, then ``go_live``.

    Args:
        cache: a view with ``domain="lsn"``; fill it in an epoch that is empty.
        table: of the database.
        values: the codec of the cache.
        value: makes the value of a row; by default the row itself, a dict of texts.
        chunk: rows read at a time.
        rate: rows of the snapshot per second, at most; changes are not held back.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        cache: EntityCache[V],
        table: CapturedTable,
        values: ValueCodec[V],
        value: Callable[[Row], V] | None = None,
        *,
        chunk: int = 1000,
        rate: int = 10_000,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if chunk < 1 or rate < 1:
            raise UsageError(f"chunk={chunk}, rate={rate}: pass at least 1")
        if cache.domain != "lsn":
            raise UsageError(f"{cache.name} has the version domain {cache.domain!r}: pass domain='lsn'")
        self._cache = cache
        self._table = table
        self._values = values
        self._value: Callable[[Any], V] = value or (lambda row: row)
        self._chunk = chunk
        self._rate = rate
        self._sleep = sleep
        self._place = TopicPartition(f"table:{table.slot}", 0)
        self._state: _State | None = None
        self._position = 0
        self._ready = False

    @property
    def filled(self) -> bool:
        """Whether the snapshot is complete. Afterwards ``step`` only follows."""
        return self._state is not None and self._state.done

    def run(self, progress: Progress | None = None) -> int:
        """Fill the view, to the end, and mark it ready. Goes on where an earlier run stopped; gives how many rows.

        Args:
            progress: told how many rows have been read, after each chunk.

        Raises:
            SourceFailed, CacheUnavailable: run it again.
            ContinuityLost: Redis lost a part of what was applied; see the class.
        """
        self._ready = False
        while not self._ready:
            count = self.step()
            self._sleep(count / self._rate)
            if progress is not None and count and self._state is not None:
                progress(self._state.rows)
        return self._load().rows

    def step(self) -> int:
        """One chunk, or, when the view is filled, the changes up to now; how many rows or changes that were.

        Once filled, each step marks the view ready as of now, so take one every second.

        Raises: as ``run``.
        """
        try:
            state = self._load()
            return self._follow(state, None, lambda _: None) if state.done else self._read(state)
        except ContinuityLost:
            self._state = None
            if self._cache.recall_snapshot() is not None:
                raise
            return 0  # emptied: from the first row again

    def _read(self, state: _State) -> int:
        low, position = self._table.mark()
        chunk = self._table.chunk(state.after, self._chunk)
        high, _ = self._table.mark()
        moment, rows, inside = chunk.moment, dict(chunk.rows), False
        state.unseen = {key: xid for key, xid in state.unseen.items() if not moment.sees(xid)}
        for key in state.unseen:
            rows.pop(key, None)

        def look(item: Transaction | Mark) -> None:
            nonlocal inside
            if isinstance(item, Mark):
                inside = inside or item.text == low
                return
            for key in item.rows:
                if inside or not moment.sees(item.xid):
                    rows.pop(key, None)
                if not moment.sees(item.xid):
                    state.unseen[key] = item.xid

        self._follow(state, high, look)
        self._apply(rows, log_version(0, position))
        state.after = next(reversed(chunk.rows), state.after)
        state.rows += len(chunk.rows)
        state.done = len(chunk.rows) < self._chunk
        self._save(state)
        return len(chunk.rows)

    def _follow(self, state: _State, until: str | None, look: Callable[[Transaction | Mark], None]) -> int:
        """Apply the log to its end, or past the mark ``until``; how many changes that were."""
        count, reached = 0, until is None
        for position, items in self._table.changes():
            for item in items:
                look(item)
                if isinstance(item, Transaction):
                    count += self._apply(item.rows, log_version(0, item.lsn))
                else:
                    reached = reached or item.text == until
            self._position = max(self._position, position)
            self._cache.apply_many([], positions={self._place: self._position})
            self._save(state)
            self._table.confirm(self._position)
            if reached and until is not None:
                return count
        if not reached:
            raise SourceFailed(f"a watermark did not come back in slot {self._table.slot}: does another read it?")
        self._cache.mark_ready(positions={self._place: self._position}, total=1)
        self._ready = True
        return count

    def _apply(self, rows: Mapping[str, Row | None], of: Version) -> int:
        changes = [self._change(key, row, of) for key, row in rows.items()]
        for start in range(0, len(changes), _BATCH):
            batch = changes[start : start + _BATCH]
            self._cache.apply_many(batch, positions={self._place: self._position})
        return len(changes)

    def _change(self, key: str, row: Row | None, of: Version) -> Change:
        if row is None:
            return Change(key, of, None)
        schema_id, payload = self._values.encode(self._value(row))
        return Change(key, of, payload, schema_id)

    # How far it is. What Redis holds and what the database has forgotten must fit.

    def _load(self) -> _State:
        if self._state is None:
            self._table.prepare()
            data = self._cache.recall_snapshot()
            state = msgspec.msgpack.decode(data, type=_State) if data is not None else _State(self._table.slot)
            if state.slot != self._table.slot:
                raise UsageError(
                    f"{self._cache.name} was filled through the slot {state.slot}: what the table lost since then is "
                    "in no other slot; fill a new epoch through a new one"
                )
            self._position = self._table.confirmed() if data is not None else 0
            rewind = self._cache.check_continuity({self._place: self._position})
            if rewind is not None:
                raise lost(rewind)
            self._state = state
        return self._state

    def _save(self, state: _State) -> None:
        self._cache.remember_snapshot(msgspec.msgpack.encode(state))
