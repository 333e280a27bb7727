"""A limit on calls in flight, with a queue whose waiting is bounded; one serves threads and coroutines alike."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from headwater_cache.errors import SourceBusy
from headwater_cache.metrics import BULKHEAD_REJECTED, LOADS_IN_FLIGHT
from headwater_cache.steps import Join, Step

__all__ = ["Bulkhead"]


class Bulkhead:
    """At most ``limit`` inside; others wait in line for at most ``wait`` seconds, then get ``SourceBusy``.

    It counts per process: the source sees at most ``limit`` times the number of processes.
    """

    def __init__(self, entity: str, limit: int, wait: float) -> None:
        self._entity = entity
        self._limit = limit
        self._wait = wait
        self._inside = 0
        self._line: deque[Future[None]] = deque()
        self._lock = threading.Lock()
        self._gauge = LOADS_IN_FLIGHT.labels(entity)

    def enter(self) -> Step[None]:
        """Take a place; every ``enter`` that returned needs one ``leave``.

        Raises:
            SourceBusy: no place became free in time.
        """
        with self._lock:
            if self._inside < self._limit:
                self._inside += 1
                self._gauge.set(self._inside)
                return
            turn: Future[None] = Future()
            self._line.append(turn)
        try:
            yield Join(turn, self._wait)
        except BaseException as exc:
            if not turn.cancel():  # the place was given to us at the last moment
                self.leave()
            if not isinstance(exc, TimeoutError):
                raise
            BULKHEAD_REJECTED.labels(self._entity).inc()
            raise SourceBusy(
                f"{self._limit} loads of {self._entity} are in flight (CachePolicy.loads), none ended in {self._wait} s"
            ) from exc

    def leave(self) -> None:
        """Give the place to the first in line."""
        with self._lock:
            while self._line:
                turn = self._line.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._inside -= 1
            self._gauge.set(self._inside)
