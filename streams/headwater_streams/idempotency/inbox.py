"""What was handled, as rows of the handler's own database transactions: the counterpart of the outbox.

Needs SQLAlchemy, which ``headwater-producers[outbox]`` brings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, cast

from sqlalchemy import Connection, DateTime, Dialect, Engine, String, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import Unavailable, UsageError

__all__ = ["Inbox", "InboxMark", "InboxUnavailable", "create_inbox", "purge_inbox"]

_PURGED_TOGETHER: Final = 10_000


class InboxUnavailable(Unavailable):
    """The database of the inbox does not answer. The record waits and is tried again in place."""


class Base(DeclarativeBase):
    """The table of the inbox. Alembic: ``InboxMark.__table__.to_metadata(your_metadata)``."""


class InboxMark(Base):
    """That a handler has handled a key, and until when it is remembered."""

    __tablename__ = "inbox"

    handler: Mapped[str] = mapped_column(String(511), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


def create_inbox(bind: Engine | Connection) -> None:
    """Create the table and its index, where missing."""
    Base.metadata.create_all(bind)


def purge_inbox(connection: Connection, before: datetime) -> int:
    """Delete marks that expired before then, up to 10,000 in this transaction; gives how many.

    Nothing else deletes them: call it now and then (until it gives 0), or the table grows by a row a record.
    """
    old = select(InboxMark.handler, InboxMark.key).where(InboxMark.expires_at <= before).limit(_PURGED_TOGETHER)
    return connection.execute(delete(InboxMark).where(tuple_(InboxMark.handler, InboxMark.key).in_(old))).rowcount


class Inbox:
    """Remembers in the handler's own database what was handled; for ``@idempotent``::

        inbox = Inbox(async_sessionmaker(engine), "billing")

        @app.handler("orders.placed")
        @idempotent(inbox, ttl="30d")
        async def book(order: OrderPlaced, event: EventContext, session: AsyncSession) -> None:
            session.add(Booking(order_id=order.order_id))

    The handler gets a session whose transaction holds the mark, and which is committed when it returns and rolled back
    when it raises; it must not commit itself. What it does through this session it does once per key, whatever is
    killed when. That is all: a mail that it sends, or a row in another database, is at least once. With an ``Outbox``
    on the same session, so is what it emits, under one ``ce_id`` (``outbox.add(session, …, id=…)``).

    A repetition that comes while the first still runs waits in the database until that one has ended. The transaction
    stays open until what the handler emitted by ``event.emit`` is acknowledged. PostgreSQL and SQLite.

    Args:
        sessions: makes sessions: an ``async_sessionmaker`` for coroutine functions, a ``sessionmaker`` for others.
        group: the consumer group: two groups handle the same record, each once.
        clock: what ``ttl`` is measured by; all workers' clocks should agree to well within it.

    Raises:
        UsageError: no group, or one that is over 255 characters.
    """

    gives: ClassVar[tuple[str, ...]] = ("session",)

    def __init__(
        self,
        sessions: sessionmaker[Session] | async_sessionmaker[AsyncSession],
        group: str,
        *,
        clock: Clock | None = None,
    ) -> None:
        if not 0 < len(group) <= 255:
            raise UsageError(f"group={group!r}: pass the consumer group, 1 to 255 characters")
        self._sessions = sessions
        self._group = group
        self._clock = clock or SystemClock()

    def run(self, name: str, key: str, ttl: float, call: Callable[..., object]) -> None:
        """Call ``call(session)`` in a transaction that marks ``key``, unless a mark is there. Blocks.

        Raises:
            InboxUnavailable: the database does not answer, or broke the transaction off (deadlock, serialization).
            UsageError: there is no inbox, or another kind of database.
        """
        if isinstance(self._sessions, async_sessionmaker):
            raise UsageError(f"handler {name} is not a coroutine function: give its Inbox a sessionmaker")
        with self._sessions() as session:
            with _database_errors():
                new = self._mark(session, name, key, ttl)
            if new:
                call(session)
                with _database_errors():
                    session.commit()

    async def arun(self, name: str, key: str, ttl: float, call: Callable[..., Awaitable[object]]) -> None:
        """``run`` for asyncio."""
        if not isinstance(self._sessions, async_sessionmaker):
            raise UsageError(f"handler {name} is a coroutine function: give its Inbox an async_sessionmaker")
        async with self._sessions() as session:
            with _database_errors():
                new = await session.run_sync(self._mark, name, key, ttl)
            if new:
                await call(session)
                with _database_errors():
                    await session.commit()

    def _mark(self, session: Session, name: str, key: str, ttl: float) -> bool:
        """Put the mark into the transaction; whether it was not there, or had expired.

        One statement: of two transactions that try, the second waits for the first, and sees its row if it commits.
        """
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        expires = now + timedelta(seconds=ttl)
        row = {"handler": f"{self._group}/{name}", "key": key, "expires_at": expires}
        insert = _insert(session.get_bind().dialect).values(row)
        upsert = insert.on_conflict_do_update(
            index_elements=[InboxMark.handler, InboxMark.key],
            set_={"expires_at": expires},
            where=InboxMark.expires_at <= now,
        )
        return session.execute(upsert.returning(InboxMark.key)).first() is not None


def _insert(dialect: Dialect) -> postgresql.Insert:
    if dialect.name == "postgresql":
        return postgresql.insert(InboxMark)
    if dialect.name == "sqlite":
        return cast("postgresql.Insert", sqlite.insert(InboxMark))  # another class with the same methods
    raise UsageError(f"an Inbox is a table of PostgreSQL or SQLite, not of {dialect.name}")


@contextmanager
def _database_errors() -> Iterator[None]:
    """What the mark and the commit meet; what the handler meets is the handler's, and passes as it is."""
    try:
        yield
    except ProgrammingError as exc:
        raise UsageError(f"the inbox cannot be used; create_inbox(engine) makes its table: {exc.orig}") from exc
    except (OperationalError, InterfaceError) as exc:
        if "no such table" in str(exc.orig):
            raise UsageError(f"there is no inbox; create_inbox(engine) makes its table: {exc.orig}") from exc
        raise InboxUnavailable(f"the inbox's database does not answer: {exc.orig}") from exc
    except PoolTimeout as exc:
        raise InboxUnavailable(f"no connection to the inbox's database became free: {exc}") from exc
