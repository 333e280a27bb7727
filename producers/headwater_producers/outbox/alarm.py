"""What wakes the relay: a notification of PostgreSQL, or the clock."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from headwater_producers.outbox.table import CHANNEL

__all__ = ["Alarm"]

_SLICE_SECONDS: Final = 0.25

_log = logging.getLogger("headwater.producers")


class Alarm:
    """Waits until something was added to the outbox, or a time is over.

    On PostgreSQL with psycopg it keeps a connection of its own that listens. Where that cannot be had (another driver,
    a pooler in transaction mode, a database that is away) it goes by the clock alone.
    """

    def __init__(self, engine: Engine, *, poll: float) -> None:
        self._engine = engine
        self._poll = poll
        self._listens = engine.dialect.name == "postgresql" and engine.driver == "psycopg"
        self._driver_error: type[Exception] = getattr(engine.dialect.dbapi, "Error", OSError)
        self._connection: Any = None

    def listen(self) -> None:
        """Listen from now on, so that nothing that is added later is missed. Blocks shortly."""
        if not self._listens or self._connection is not None:
            return
        try:
            pooled = self._engine.raw_connection()
            connection: Any = pooled.driver_connection
            pooled.detach()  # it is ours now, and does not go back to the pool
            connection.rollback()
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
        except (SQLAlchemyError, self._driver_error) as exc:
            _log.warning("cannot listen for new events of the outbox, looking every %g s: %s", self._poll, exc)
            return
        self._connection = connection

    def wait(self, stop: threading.Event) -> None:
        """Return when something was added, when the time is over, or when ``stop`` is set. Blocks."""
        deadline = time.monotonic() + self._poll
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._connection is None:
                stop.wait(left)
            elif self._notified(min(_SLICE_SECONDS, left)):
                return

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _notified(self, timeout: float) -> bool:
        try:
            return any(True for _ in self._connection.notifies(timeout=timeout, stop_after=1))
        except self._driver_error as exc:
            _log.warning("the connection that listens to the outbox is lost: %s", exc)
            self.close()
            return True
