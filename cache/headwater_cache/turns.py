"""More callers than connections take turns. Who waits for a turn in vain has met no silent Redis, only a crowd.

The clients' own pools would wait as well. But they can not tell the two apart, and redis-py's asyncio one costs a third
of a GET.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from queue import Empty, SimpleQueue

from redis import exceptions

from headwater_cache.errors import NoFreeConnection
from headwater_cache.guard import Guard, translate
from headwater_cache.settings import RedisSettings
from headwater_schemas.errors import CacheUnavailable

__all__ = ["AsyncTurns", "Turns"]


class _Turns(ABC):
    """What threads and coroutines share.

    Args:
        guard: asked before each call, and again after a wait.
        settings: how many calls at once, and how long another waits for its turn.
        hasty: these are calls with little patience: that one took too long is no verdict on Redis. But whoever waits
            for a turn then is told as well, or all would find out one after the other.
    """

    def __init__(self, guard: Guard, settings: RedisSettings, *, hasty: bool) -> None:
        self._guard = guard
        self._hasty = hasty
        # Longer than a read may take: if Redis is silent, that is known before the wait is over.
        self._patience = settings.timeout + (settings.read_timeout if hasty else 0)
        self._limit = settings.max_connections
        self._silences = 0
        self.answered = guard.leave

    def failed(self, exc: Exception) -> Exception:
        """The error to raise for one of redis-py's."""
        if self._hasty and isinstance(exc, exceptions.TimeoutError | TimeoutError):
            self._silences += 1
            return translate(exc)
        return self._guard.failed(exc)

    @abstractmethod
    def give(self) -> None:
        """The next one's turn."""

    def _check(self, silences: int) -> None:
        """After a wait: whether the turn is of any use; if not, it is the next one's."""
        try:
            if self._silences != silences:
                raise _silent()
            self._guard.enter()
        except CacheUnavailable:
            self.give()
            raise

    def _in_vain(self, silences: int) -> CacheUnavailable:
        if self._silences != silences:
            return _silent()
        return NoFreeConnection(
            f"all {self._limit} connections to Redis were busy for {self._patience} s: raise "
            "HEADWATER_REDIS_MAX_CONNECTIONS, or ask for less at once"
        )


def _silent() -> CacheUnavailable:
    return CacheUnavailable("Redis did not answer another in time, while this one waited for a connection")


class Turns(_Turns):
    """For threads."""

    def __init__(self, guard: Guard, settings: RedisSettings, *, hasty: bool) -> None:
        super().__init__(guard, settings, hasty=hasty)
        self._free = SimpleQueue[None]()  # in C, a tenth of what threading.Semaphore costs
        for _ in range(settings.max_connections):
            self._free.put(None)

    def take(self) -> None:
        """Wait for a turn; every ``take`` that returned needs one ``give``.

        Raises:
            NoFreeConnection: none came in time.
            CacheUnavailable: Redis is known not to answer.
        """
        self._guard.enter()
        try:
            self._free.get_nowait()
        except Empty:
            self._wait()

    def _wait(self) -> None:
        silences = self._silences
        try:
            self._free.get(timeout=self._patience)
        except Empty as exc:
            raise self._in_vain(silences) from exc
        self._check(silences)

    def give(self) -> None:
        self._free.put(None)


class AsyncTurns(_Turns):
    """For the coroutines of one event loop."""

    def __init__(self, guard: Guard, settings: RedisSettings, *, hasty: bool) -> None:
        super().__init__(guard, settings, hasty=hasty)
        self._free = asyncio.Semaphore(settings.max_connections)

    async def take(self) -> None:
        """As that of ``Turns``."""
        self._guard.enter()
        if not self._free.locked():
            await self._free.acquire()
            return
        silences = self._silences
        try:
            await asyncio.wait_for(self._free.acquire(), self._patience)
        except TimeoutError as exc:
            raise self._in_vain(silences) from exc
        self._check(silences)

    def give(self) -> None:
        self._free.release()
