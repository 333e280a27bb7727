"""Limits of one handler: how fast it may run, and how many of its records may die before that is an incident."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from headwater_schemas.clock import Clock
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError

__all__ = ["DeadLimit", "FloodGuard", "TokenBucket", "rate_of"]

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(s|m|h)")
_UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0}


def rate_of(rate: str) -> float:
    """``"100/s"``, ``"30/m"`` or ``"10/h"`` as calls per second.

    Raises:
        UsageError: not of that form, or not above zero.
    """
    match = _RATE.fullmatch(rate.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"rate={rate!r}: pass calls per second, minute or hour, e.g. '100/s', '30/m', '10/h'")
    return float(match[1]) / _UNIT[match[2]]


class TokenBucket:
    """At most ``rate`` calls per second on average, ``burst`` at once. Callers are served in the order of asking.

    The limit is this process's: with N workers the dependency sees N times as much.
    """

    __slots__ = ("_burst", "_clock", "_next", "_step")

    def __init__(self, rate: float, clock: Clock, burst: int | None = None) -> None:
        self._step = 1 / rate
        self._burst = max(1, int(rate) if burst is None else burst)
        self._clock = clock
        self._next = clock.monotonic() - self._burst * self._step

    def reserve(self) -> float:
        """Take the next free place; the seconds to wait for it. (The generic cell rate algorithm, ITU-T I.371.)"""
        now = self._clock.monotonic()
        place = max(self._next, now - self._burst * self._step) + self._step
        self._next = place
        return max(0.0, place - now)

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
