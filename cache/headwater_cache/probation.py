"""A silent Redis is found out by one read and a ping in the background: no other reader waits for it.

A read in cache mode has the source to go to. So it gives Redis little time, and what took longer puts Redis on
probation: readers go to the source at once until a ping was answered, which takes a millisecond after a hiccup.
"""

from __future__ import annotations

from headwater_cache.steps import Ask, Spawn, Step
from headwater_schemas.clock import Clock
from headwater_schemas.errors import CacheUnavailable, Overloaded

__all__ = ["Probation"]

_AGAIN = 0.25
"""Seconds between two pings, at least."""


class Probation:
    """Of one Redis, as the readers of one cache in one process see it. One state serves threads and coroutines."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.silent = False
        """Whether to leave Redis alone."""
        self._ping_at = 0.0

    def begin(self) -> Step[None]:
        """A read failed or took too long."""
        self.silent = True
        yield from self.ping()

    def ping(self) -> Step[None]:
        """Look in the background whether Redis answers again, unless somebody did a moment ago. Returns at once."""
        now = self._clock.monotonic()
        if now < self._ping_at:
            return
        self._ping_at = now + _AGAIN  # two threads may both pass: then there are two pings
        yield Spawn(self._ping())

    def _ping(self) -> Step[None]:
        try:
            yield Ask(("PING",))
        except (CacheUnavailable, Overloaded):
            return
        self.silent = False
        self._ping_at = 0.0
