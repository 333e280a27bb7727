"""A token bucket: so many per second, a second's worth at once."""

from __future__ import annotations

import threading

from headwater_schemas.clock import Clock

__all__ = ["TokenBucket"]


class TokenBucket:
    """``rate`` tokens per second; the bucket holds one second's worth, at least one."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock = clock
        self._rate = rate
        self._size = max(rate, 1.0)
        self._tokens = self._size
        self._at = clock.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether there was a token to take. Never blocks."""
        with self._lock:
            now = self._clock.monotonic()
            self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
