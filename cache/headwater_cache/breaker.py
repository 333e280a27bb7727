"""A circuit breaker before Redis: a server that is down or too slow costs a few callers their timeout, not all.

Ours instead of a library's because one state serves threads and coroutines and its time is an argument.
"""

from __future__ import annotations

import threading
from typing import Literal

from headwater_cache.metrics import BREAKER_STATE
from headwater_schemas.clock import Clock

__all__ = ["Breaker"]

_GAUGE = {"closed": 0, "half-open": 1, "open": 2}


class Breaker:
    """Opens after ``failures`` bad calls in a row; after ``cooldown`` seconds one caller probes, and its call decides.

    A bad call failed or ran into its timeout. Successes in between reset the count, so a server that fails every other
    call stays closed: each of those failures still costs no more than one timeout.
    """

    def __init__(self, name: str, clock: Clock, *, failures: int = 5, cooldown: float = 1.0) -> None:
        self._clock = clock
        self._failures = failures
        self._cooldown = cooldown
        self.calm = True
        """Closed, and the last call was good: nothing to ask and nothing to tell."""
        self._bad = 0
        self._state: Literal["closed", "half-open", "open"] = "closed"
        self._probe_at = 0.0
        self._lock = threading.Lock()
        self._gauge = BREAKER_STATE.labels(name)

    def allows(self) -> bool:
        """Whether to call. After a True there must be one ``record``."""
        if self._state == "closed":
            return True
        with self._lock:
            now = self._clock.monotonic()
            if now < self._probe_at:
                return False
            self._move("half-open")
            self._probe_at = now + self._cooldown  # should the prober die, another may try then
            return True

    def record(self, ok: bool) -> None:
        """Tell how a call went."""
        if ok:
            if self._bad or self._state != "closed":
                with self._lock:
                    self._bad = 0
                    self._move("closed")
                    self.calm = True
            return
        with self._lock:
            self.calm = False
            self._bad += 1
            if self._bad >= self._failures or self._state == "half-open":
                self._move("open")
                self._probe_at = self._clock.monotonic() + self._cooldown

    def _move(self, state: Literal["closed", "half-open", "open"]) -> None:
        if state != self._state:
            self._state = state
            self._gauge.set(_GAUGE[state])
