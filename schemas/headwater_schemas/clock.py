"""Time as an argument: a clock that tests can turn by hand, so that no test sleeps to be right."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Two readings, both in seconds."""

    def time(self) -> float:
        """Wall-clock seconds since the epoch; may step. Use it for stamps that leave the process."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; the origin has no meaning. Use it for durations and deadlines."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until ``advance`` is called."""

    __slots__ = ("_monotonic", "_time")

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._time = start
        self._monotonic = 0.0

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both readings forward.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock only moves forward; got {seconds}")
        self._time += seconds
        self._monotonic += seconds
