"""The border to the database: the one place where SQLAlchemy's errors become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, NoSuchTableError, OperationalError, ProgrammingError, SQLAlchemyError

from headwater_producers.errors import OutboxUnavailable
from headwater_schemas.errors import UsageError

__all__ = ["database_errors"]


@contextmanager
def database_errors() -> Iterator[None]:
    """Translate what the database or its driver raises within.

    Raises:
        OutboxUnavailable: it does not answer, or broke off: try again.
        UsageError: there is no outbox there, or we may not use it.
    """
    try:
        yield
    except (ProgrammingError, NoSuchTableError) as exc:
        raise UsageError(f"the outbox cannot be used; create_outbox(engine) makes its tables: {_cause(exc)}") from exc
    except OperationalError as exc:
        if "no such table" in str(exc.orig):
            raise UsageError(f"there is no outbox; create_outbox(engine) makes its tables: {_cause(exc)}") from exc
        raise OutboxUnavailable(f"the outbox's database does not answer: {_cause(exc)}") from exc
    except SQLAlchemyError as exc:
        raise OutboxUnavailable(f"the outbox's database does not answer: {_cause(exc)}") from exc


def _cause(exc: SQLAlchemyError) -> str:
    """Without the statement and its parameters, which may hold personal data."""
    return str(exc.orig).strip() if isinstance(exc, DBAPIError) else str(exc)
