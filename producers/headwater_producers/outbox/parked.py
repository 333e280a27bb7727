"""Parked events: those that the broker refused for good, until an operator has mended what was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select, update

from headwater_producers.outbox.border import database_errors
from headwater_producers.outbox.table import OutboxEvent

__all__ = ["ParkedEvent", "parked_events", "retry_parked"]


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event. ``error`` says why the broker refused it."""

    id: str
    topic: str
    key: str | None
    created_at: datetime
    error: str


def parked_events(engine: Engine, *, limit: int = 100) -> list[ParkedEvent]:
    """The oldest parked events. Blocks.

    Raises:
        OutboxUnavailable: the database does not answer.
        UsageError: there is no outbox in it.
    """
    query = (
        select(
            OutboxEvent.id,
            OutboxEvent.aggregatetype,
            OutboxEvent.aggregateid,
            OutboxEvent.created_at,
            OutboxEvent.error,
        )
        .where(OutboxEvent.error.is_not(None))
        .order_by(OutboxEvent.seq)
        .limit(limit)
    )
    with database_errors(), engine.connect() as connection:
        return [
            ParkedEvent(event_id, topic, key, created_at, error or "")
            for event_id, topic, key, created_at, error in connection.execute(query)
        ]


def retry_parked(engine: Engine, ids: Sequence[str] | None = None) -> int:
    """Let the relay send parked events again: those of ``ids``, or all; gives how many. Blocks.

    They go out behind events of their key that went on without them.

    Raises:
        OutboxUnavailable: the database does not answer.
        UsageError: there is no outbox in it.
    """
    chosen = update(OutboxEvent).where(OutboxEvent.error.is_not(None)).values(error=None)
    if ids is not None:
        chosen = chosen.where(OutboxEvent.id.in_(ids))
    with database_errors(), engine.begin() as connection:
        return connection.execute(chosen).rowcount
