"""Failed deliveries in the log: loud, even when nobody looks at the ``Delivery``, and few even when thousands fail."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from headwater_schemas.clock import Clock
from headwater_schemas.errors import HeadwaterError

__all__ = ["Complaints"]

_QUIET_SECONDS: Final = 10.0

_log = logging.getLogger("headwater.producers")


class Complaints:
    """One line per topic and kind of error at once, then at most one each ten seconds with the number in between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, type], int] = {}
        self._until: dict[tuple[str, type], float] = {}

    def add(self, topic: str, failures: Sequence[HeadwaterError]) -> None:
        """Take down failures of a topic, and say so when it is time."""
        now = self._clock.monotonic()
        for failure in failures:
            kind = (topic, type(failure))
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if now >= self._until.get(kind, 0.0):
                self._until[kind] = now + _QUIET_SECONDS
                _log.error("%d events to %s were not delivered: %s", self._counts.pop(kind), topic, failure)

    def close(self) -> None:
        """Say what has not been said yet."""
        for (topic, kind), count in self._counts.items():
            _log.error("%d more events to %s were not delivered: %s", count, topic, kind.__name__)
        self._counts.clear()
