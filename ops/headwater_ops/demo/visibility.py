"""How long an event takes from ``emit`` to a reader of the cache, measured as a reader sees it.

One event in so many is a sample: from its emit on, its flight is read from the cache every twenty milliseconds until
the state shows the event. That measures what a client would, polling interval included; the reads cost the pipeline a
little, and count among its cache hits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from headwater_ops.demo.events import DemoEvent
from headwater_ops.demo.flights import shows
from headwater_ops.demo.topics import FLIGHT_TOPICS
from headwater_schemas.clock import Clock

__all__ = ["Visibility"]

_INTERVAL = 0.02  # seconds between two looks: what a sample may be too long by
_READ_TOGETHER = 32

ReadMany = Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]


class _Sample(NamedTuple):
    key: str
    topic: str
    number: int
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
        self._waiting: deque[_Sample] = deque()
        self._looked_at = float("-inf")
        self.seconds: list[float] = []

    @property
    def waiting(self) -> int:
        """Samples not visible yet."""
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Flight events emitted since the oldest sample that is not visible yet; 0 when none waits."""
        return self._seen - self._waiting[0].number if self._waiting else 0

    def emitted(self, event: DemoEvent) -> None:
        """Called right after each emit."""
        if event.topic not in FLIGHT_TOPICS:
            return
        self._seen += 1
        if self._seen % self._every == 0:
            self._waiting.append(_Sample(event.key, event.topic, self._seen, self._clock.monotonic()))

    def look(self) -> None:
        """Read the flights that wait longest, at most once every twenty milliseconds. Blocks for one round trip."""
        if not self._waiting or self._clock.monotonic() < self._looked_at + _INTERVAL:
            return
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _READ_TOGETHER))]
        states = self._read_many([sample.key for sample in batch])
        now = self._looked_at = self._clock.monotonic()
        still = []
        for sample in batch:
            state = states.get(sample.key)
            if state is not None and shows(state, sample.topic):
                self.seconds.append(now - sample.emitted_at)
            else:
                still.append(sample)
        self._waiting.extendleft(reversed(still))
