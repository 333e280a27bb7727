"""A batch of the outbox: rows that one relay, and no other, holds until they are dealt with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Connection,
    Engine,
    Integer,
    SmallInteger,
    any_,
    delete,
    func,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql

from headwater_producers.outbox.table import LANES, OutboxEvent, OutboxLane

__all__ = ["Backlog", "Batches", "Row"]

_LANES_TOGETHER: Final = 4
"""How many lanes a relay takes at once while there is more to do than fits a batch; the others are for other relays."""
_COUNTED: Final = 100_000
_PURGED_TOGETHER: Final = 10_000

_COLUMNS: Final = (
    OutboxEvent.seq,
    OutboxEvent.id,
    OutboxEvent.aggregatetype,
    OutboxEvent.aggregateid,
    OutboxEvent.payload,
    OutboxEvent.headers,
    OutboxEvent.created_at,
)
_waiting: Final = OutboxEvent.sent_at.is_(None) & OutboxEvent.error.is_(None)


class Row(NamedTuple):
    """An event of the outbox that is to be sent."""

    seq: int
    id: str
    topic: str
    key: str | None
    payload: bytes | None
    headers: Mapping[str, str | None]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits: how many (counted up to 100,000), and since when."""

    events: int
    oldest: datetime | None


class Batches:
    """Takes batches from the outbox of a database.

    On PostgreSQL a batch is one transaction that holds the row locks of some lanes, taken with SKIP LOCKED: relays
    share the work, and a lane is one relay's at a time. On SQLite there are no such locks: run one relay.

    Args:
        engine: of the database.
        size: rows of a batch at most.
        keep: whether sent rows are kept (for ``purge``) or deleted.
    """

    def __init__(self, engine: Engine, *, size: int, keep: bool) -> None:
        self._engine = engine
        self._size = size
        self._keep = keep
        self._turns = itertools.count()
        self._busy = False
        self._locks = engine.dialect.name == "postgresql"
        self.connection: Connection
        """Of the transaction of a batch, within ``take`` on PostgreSQL."""

    @contextmanager
    def take(self) -> Iterator[list[Row]]:
        """The next rows, in order within each lane; empty when there are none that are free.

        They are this relay's until the block ends. ``settle`` within the block deals with them; leaving by an error
        leaves them for the next.
        """
        if not self._locks:
            with self._engine.connect() as connection:
                rows = self._of_all(connection)
            yield rows
            return
        with self._engine.begin() as self.connection:
            lanes = self._lock_lanes(self.connection)
            rows = self._of_lanes(self.connection, lanes) if lanes else []
            self._busy = 2 * len(rows) > self._size
            yield rows

    def settle(self, sent: Sequence[int], refused: Mapping[int, str]) -> None:
        """Within ``take``: these were acknowledged, those will never be."""
        if self._locks:
            self._settle(self.connection, sent, refused)
        else:
            with self._engine.begin() as connection:
                self._settle(connection, sent, refused)

    def backlog(self) -> Backlog:
        """What waits for a relay."""
        some = select(OutboxEvent.created_at).where(_waiting).limit(_COUNTED).subquery()
        with self._engine.connect() as connection:
            events, oldest = connection.execute(select(func.count(), func.min(some.c.created_at))).one()
        return Backlog(events, None if oldest is None else _utc(oldest))

    def purge(self, before: datetime) -> int:
        """Delete some events that were sent before then; gives how many. Call it until it gives 0."""
        old = select(OutboxEvent.seq).where(OutboxEvent.sent_at < before).limit(_PURGED_TOGETHER)
        if self._locks:
            old = old.with_for_update(skip_locked=True)
        with self._engine.begin() as connection:
            return connection.execute(delete(OutboxEvent).where(OutboxEvent.seq.in_(old))).rowcount

    def ensure_lanes(self) -> None:
        """Make the lanes that are missing: tables that a migration made have none."""
        if self._locks:
            rows = [{"lane": lane} for lane in range(LANES)]
            with self._engine.begin() as connection:
                connection.execute(postgresql.insert(OutboxLane).on_conflict_do_nothing(), rows)

    def _lock_lanes(self, connection: Connection) -> list[int]:
        # Begin elsewhere each time, so that no busy lane starves the others. Where all that waits fits into a batch,
        # one relay takes it at once: to go round by a few lanes would cost a turn for each few, hence latency.
        turn = next(self._turns)
        # A look into each lane, which ends at the first row. Planners turn EXISTS into a join, and with the statistics
        # of a table that fills and empties into one that reads all that waits: then a long backlog drains the slower.
        first = select(OutboxEvent.seq).where(OutboxEvent.lane == OutboxLane.lane, _waiting).limit(1)
        wanted = (
            select(OutboxLane.lane)
            .where(first.scalar_subquery().is_not(None))
            .order_by((OutboxLane.lane + turn * _LANES_TOGETHER) % LANES)
            .limit(_LANES_TOGETHER if self._busy else LANES)
            .with_for_update(skip_locked=True, of=OutboxLane)
        )
        return list(connection.scalars(wanted))

    def _of_lanes(self, connection: Connection, lanes: list[int]) -> list[Row]:
        """The first rows of each lane, an equal share of the batch; for the same reason lane by lane."""
        share = math.ceil(self._size / len(lanes))
        wanted = func.unnest(_array(lanes, SmallInteger)).table_valued("lane", name="wanted").render_derived()
        within = (OutboxEvent.lane == wanted.c.lane, _waiting)
        rows = select(*_COLUMNS).where(*within).order_by(OutboxEvent.seq).limit(share).lateral()
        query = select(rows).select_from(wanted).join(rows, true())
        return [Row(*columns) for columns in connection.execute(query).all()]

    def _of_all(self, connection: Connection) -> list[Row]:
        query = select(*_COLUMNS).where(_waiting).order_by(OutboxEvent.seq).limit(self._size)
        return [Row(*columns)._replace(created_at=_utc(columns.created_at)) for columns in connection.execute(query)]

    def _settle(self, connection: Connection, sent: Sequence[int], refused: Mapping[int, str]) -> None:
        # One array, not a parameter for each row, wherever there are arrays: a third of a batch's time.
        among = OutboxEvent.seq == any_(_array(sent, BigInteger)) if self._locks else OutboxEvent.seq.in_(sent)
        if sent and self._keep:
            connection.execute(update(OutboxEvent).where(among).values(sent_at=datetime.now(UTC)))
        elif sent:
            connection.execute(delete(OutboxEvent).where(among))
        for seq, error in refused.items():
            connection.execute(update(OutboxEvent).where(OutboxEvent.seq == seq).values(error=error))


def _array(numbers: Sequence[int], kind: type[Integer]) -> BindParameter[Sequence[int]]:
    return literal(numbers, ARRAY(kind))


def _utc(moment: datetime | str) -> datetime:
    """SQLite gives times without a zone."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
