"""How long an event takes from ``emit`` to a reader of the cache, measured as a reader sees it.

One event in so many is a sample: from its emit on, its flight is read from the cache every few milliseconds until
the state shows the event. That measures what a client would, polling interval included; the reads cost the pipeline a
little, and count among its cache hits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from headwater_ops.demo.events import DemoEvent
from headwater_ops.demo.flights import shows
from headwater_ops.demo.topics import FLIGHT_TOPICS
from headwater_schemas.clock import Clock

__all__ = ["Visibility"]

_READ_TOGETHER = 256

ReadMany = Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]


class _Sample(NamedTuple):
    key: str
    topic: str
    emitted_at: float


class Visibility:
    """Samples on their way, and the times of those that arrived (seconds).

    Args:
        read_many: the flights of those keys that the cache holds.
        clock: its ``monotonic`` is what is measured with.
        every: one sample in so many flight events.
    """

    def __init__(self, read_many: ReadMany, clock: Clock, *, every: int = 200) -> None:
        self._read_many = read_many
        self._clock = clock
        self._every = every
        self._seen = 0
        self._waiting: list[_Sample] = []
        self.seconds: list[float] = []

    @property
    def waiting(self) -> int:
        """Samples not visible yet."""
        return len(self._waiting)

    @property
    def age(self) -> float:
        """Seconds that the oldest sample has been waiting; 0 when none is."""
        return self._clock.monotonic() - self._waiting[0].emitted_at if self._waiting else 0.0

    def emitted(self, event: DemoEvent) -> None:
        """Called right after each emit."""
        if event.topic not in FLIGHT_TOPICS:
            return
        self._seen += 1
        if self._seen % self._every == 0:
            self._waiting.append(_Sample(event.key, event.topic, self._clock.monotonic()))

    def look(self) -> None:
        """Read the waiting flights once, the oldest first. Blocks for one round trip."""
        if not self._waiting:
            return
        batch = self._waiting[:_READ_TOGETHER]
        states = self._read_many([sample.key for sample in batch])
        now = self._clock.monotonic()
        still = []
        for sample in batch:
            state = states.get(sample.key)
            if state is not None and shows(state, sample.topic):
                self.seconds.append(now - sample.emitted_at)
            else:
                still.append(sample)
        self._waiting[: len(batch)] = still
