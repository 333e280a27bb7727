"""A limit on how fast something happens: a token bucket, as places in time."""

from __future__ import annotations

import threading
from typing import Final

from headwater_schemas.clock import Clock

__all__ = ["Pace"]

_ROUNDING: Final = 1e-6


class Pace:
    """At most ``rate`` events per second on average, ``burst`` at once (by default a second's worth, at least one).

    Threads may share it. The limit is this object's: N processes do N times as much. (The generic cell rate algorithm,
    ITU-T I.371.)
    """

    def __init__(self, rate: float, clock: Clock, burst: float | None = None) -> None:
        self.rate = rate
        self._step = 1 / rate
        self._burst = (max(1.0, rate) if burst is None else burst) * self._step
        self._clock = clock
        self._last = clock.monotonic() - self._burst
        self._lock = threading.Lock()

    def take(self, patience: float) -> float | None:
        """Take the next place: the seconds to wait for it, or ``None`` if that is over ``patience``; then nothing is
        taken. Never blocks."""
        with self._lock:
            now = self._clock.monotonic()
            place = max(self._last, now - self._burst) + self._step
            wait = place - now
            if wait > patience + _ROUNDING:
                return None
            self._last = place
        return wait if wait > _ROUNDING else 0.0

    def wait(self) -> float:
        """Seconds until there is a place; 0 when there is one."""
        with self._lock:
            wait = self._last + self._step - self._clock.monotonic()
        return wait if wait > _ROUNDING else 0.0
