"""The outbox table: Debezium's outbox event router columns, and those that a relay of our own needs.

``id``, ``aggregatetype`` (here the topic), ``aggregateid`` (the key), ``type`` and ``payload`` (the framed Avro value)
are what Debezium's router reads by default, so that a connector can take the place of the relay: set
``route.topic.replacement=${routedByValue}`` and ByteArrayConverter for values.

A *lane* is a fixed hash of the key. A relay locks a lane, so that one relay at a time sends the events of a key.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    DateTime,
    Engine,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    event,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

__all__ = ["CHANNEL", "LANES", "OutboxEvent", "OutboxLane", "create_outbox", "lane_of"]

LANES: Final = 16
"""How many lanes; each takes one relay at a time. A change of it would let events of a key overtake each other."""

CHANNEL: Final = "headwater_outbox"
"""The channel of LISTEN and NOTIFY on PostgreSQL."""


class Base(DeclarativeBase):
    """The tables of the outbox. Alembic: ``OutboxEvent.__table__.to_metadata(your_metadata)``, likewise the lanes."""


class OutboxEvent(Base):
    """An event that waits for the relay (``sent_at`` and ``error`` are null), was sent, or is parked."""

    __tablename__ = "outbox"

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(255))
    aggregatetype: Mapped[str] = mapped_column(String(255))
    aggregateid: Mapped[str | None] = mapped_column(String(255))
    type: Mapped[str] = mapped_column(String(255))
    payload: Mapped[bytes | None] = mapped_column(LargeBinary)
    headers: Mapped[dict[str, Any]] = mapped_column(JSON)
    lane: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    error: Mapped[str | None] = mapped_column(Text)


_WAITING: Final = OutboxEvent.sent_at.is_(None) & OutboxEvent.error.is_(None)

Index("outbox_waiting", OutboxEvent.lane, OutboxEvent.seq, postgresql_where=_WAITING, sqlite_where=_WAITING)
Index(
    "outbox_sent",
    OutboxEvent.sent_at,
    postgresql_where=OutboxEvent.sent_at.is_not(None),
    sqlite_where=OutboxEvent.sent_at.is_not(None),
)


class OutboxLane(Base):
    """One row per lane, there to be locked."""

    __tablename__ = "outbox_lane"

    lane: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)


# Postgres delivers one notification per transaction, at its commit. All commits that notify wait for one another for a
# moment; where that hurts, drop the trigger, and the relay goes by HEADWATER_OUTBOX_POLL.
_NOTIFY: Final = (
    f"CREATE OR REPLACE FUNCTION {CHANNEL}_notify() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN PERFORM pg_notify('{CHANNEL}', ''); RETURN NULL; END $$",
    f"CREATE OR REPLACE TRIGGER {CHANNEL}_notify AFTER INSERT ON outbox "
    f"FOR EACH STATEMENT EXECUTE FUNCTION {CHANNEL}_notify()",
)
for _statement in _NOTIFY:
    _ddl = DDL(_statement)  # type: ignore[no-untyped-call]  # SQLAlchemy 2.1 leaves this one without types
    event.listen(OutboxEvent.__table__, "after_create", _ddl.execute_if(dialect="postgresql"))


def lane_of(key: bytes | None) -> int:
    """The lane of a key."""
    return zlib.crc32(key or b"") % LANES


def create_outbox(engine: Engine) -> None:
    """Create the tables, indexes, lanes and (on PostgreSQL) the trigger that notifies the relay, where missing."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        present = set(session.scalars(select(OutboxLane.lane)))
        session.add_all(OutboxLane(lane=lane) for lane in range(LANES) if lane not in present)
        session.commit()
