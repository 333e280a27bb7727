"""Limits of one handler: how fast it may run, and how many of its records may die before that is an incident."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from headwater_schemas.clock import Clock
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError
from headwater_schemas.pace import Pace

__all__ = ["DeadLimit", "FloodGuard", "TokenBucket"]


class TokenBucket:
    """At most ``rate`` calls per second on average, ``burst`` at once. Callers are served in the order of asking.

    The limit is this process's: with N workers the dependency sees N times as much.
    """

    __slots__ = ("_pace",)

    def __init__(self, rate: float, clock: Clock, burst: int | None = None) -> None:
        self._pace = Pace(rate, clock, max(1, int(rate) if burst is None else burst))

    def reserve(self) -> float:
        """Take the next free place; the seconds to wait for it."""
        wait = self._pace.take(math.inf)
        assert wait is not None, "any wait is within an endless patience"
        return wait

    async def take(self) -> None:
        """Wait for one's turn."""
        wait = self.reserve()
        if wait > 0:
            await asyncio.sleep(wait)


@dataclass(frozen=True, slots=True)
class DeadLimit:
    """When dying is no longer the record's fault: more than ``ratio`` of at least ``records`` settled ones died.

    Then the partition stops, loudly, for ``pause``; afterwards the count begins anew. What would have died waits, with
    all behind it, and an operator has the time to see that it is the handler, or the world, that is wrong.
    """

    ratio: float = 0.5
    records: int = 1000
    pause: Duration = "1m"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or self.records < 1:
            raise UsageError(f"DeadLimit: ratio={self.ratio} must be in (0, 1] and records={self.records} at least 1")
        seconds(self.pause)


class FloodGuard:
    """Counts what settles and what dies of one handler on one topic, in windows of ``records``."""

    __slots__ = ("_dead", "_limit", "_start")

    def __init__(self, limit: DeadLimit) -> None:
        self._limit = limit
        self._dead = 0
        self._start = 0

    def died(self, settled: int) -> bool:
        """One more died, of ``settled`` records so far in all; whether that is too many."""
        if settled - self._start >= 2 * self._limit.records:
            self._start, self._dead = settled, 0
        self._dead += 1
        seen = settled - self._start + self._dead
        return seen >= self._limit.records and self._dead > self._limit.ratio * seen

    @property
    def pause(self) -> float:
        """Seconds to stop for."""
        return seconds(self._limit.pause)

    def reset(self, settled: int) -> None:
        """Count anew."""
        self._start, self._dead = settled, 0
