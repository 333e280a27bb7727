"""The invalidation channel: Redis tells which keys of a namespace were written (RESP3 client tracking, broadcast mode).

One connection of its own and one thread per cache. Broadcast mode needs no state per read in the server and survives
reconnects of the other connections; the price is that every process hears of every write of the namespace.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis import exceptions

__all__ = ["Channel"]

_log = logging.getLogger(__name__)


class Channel:
    """Hears of every write under a prefix.

    Args:
        connect: makes a new, unconnected connection to the primary.
        prefix: names that begin so.
        written: called with the name of each key that was written.
        state: called with True when invalidations begin to arrive, with False when they no longer do. Whatever was read
            before a True may be out of date.
        ping: seconds of silence after which Redis is asked whether it is still there.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        prefix: str,
        written: Callable[[str], None],
        state: Callable[[bool], None],
        *,
        ping: float,
    ) -> None:
        self._connect = connect
        self._prefix = prefix
        self._written = written
        self._state = state
        self._ping = ping
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to listen, in a thread; more calls change nothing."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._stop.clear()
                    self._thread = threading.Thread(target=self._run, name="headwater-cache-tracking", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Stop. ``start`` may begin again."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            self._wake()
            thread.join(self._ping + 5)

    def _wake(self) -> None:
        """End the silence in which the thread may be waiting; without it the thread ends at its next ping."""
        connected = getattr(self._connection, "_sock", None)  # redis-py has no public way
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._stop.is_set():
            connection = self._connection = self._connect()
            try:
                self._listen(connection)
            except (exceptions.RedisError, OSError) as exc:
                if not self._stop.is_set():
                    _log.warning("the invalidation channel of %s was lost: %s", self._prefix, exc)
            finally:
                self._state(False)
                connection.disconnect()
            self._stop.wait(min(self._ping, 0.2))

    def _listen(self, connection: Any) -> None:
        connection.connect()
        connection._parser.set_invalidation_push_handler(self._pushed)  # redis-py has no public way
        connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
        self._await_reply(connection)
        self._state(True)
        while not self._stop.is_set():
            if connection.can_read(timeout=self._ping):
                connection.read_response(push_request=True)
            elif not self._stop.is_set():
                connection.send_command("PING")
                self._await_reply(connection)

    @staticmethod
    def _await_reply(connection: Any) -> None:
        """Read until a command's reply; the pushes before it are handled on the way."""
        while connection.read_response(push_request=True) is None:
            pass

    def _pushed(self, message: list[Any]) -> None:
        keys = message[1]
        if keys is None:  # FLUSHALL
            self._state(True)
            return
        for key in keys:
            self._written(key.decode() if isinstance(key, bytes) else key)
