"""One load per key and process: who comes first flies, the others wait for the same landing."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Abandoned", "Flights"]

T = TypeVar("T")


class Abandoned(Exception):  # never leaves the package
    """The one who flew was cancelled; whoever waited takes over."""


class Flights(Generic[T]):
    """The flights of one process, by key."""

    def __init__(self) -> None:
        self._futures: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()

    def board(self, key: Hashable) -> tuple[Future[T], bool]:
        """The flight of ``key``, and whether the caller is the one to fly it: then it must ``land`` or ``crash``."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                return future, False
            future = self._futures[key] = Future()
            return future, True

    def land(self, key: Hashable, result: T) -> None:
        """Hand the result to everybody who waits."""
        self._end(key).set_result(result)

    def crash(self, key: Hashable, error: BaseException) -> None:
        """Hand the error to everybody who waits; if it concerns only the pilot, let another fly."""
        self._end(key).set_exception(error if isinstance(error, Exception) else Abandoned())

    def _end(self, key: Hashable) -> Future[T]:
        with self._lock:
            return self._futures.pop(key)
