"""A circuit breaker before the broker: while it acknowledges nothing, an emit fails at once instead of after minutes.

Ours instead of a library's because those wrap a call and count its failures. Here the outcome comes minutes after the
call, by way of a queue, and what tells of an outage is silence. (The pattern: M. Nygard, Release It!)
"""

from __future__ import annotations

from headwater_schemas.clock import Clock

__all__ = ["Breaker"]


class Breaker:
    """Opens when records wait and none was acknowledged for ``after`` seconds; the next acknowledgement closes it.

    It needs no timer: what waits in librdkafka's queue is sent again and again and so is the probe, and when that queue
    is empty one record is let through. It sees the producer as a whole: while one partition is acknowledged, it stays
    closed for those that are not.

    Attributes:
        heard: set by whoever sees an acknowledgement.
    """

    __slots__ = ("_after", "_alive_at", "_clock", "heard", "open")

    def __init__(self, after: float, clock: Clock) -> None:
        self.open = False
        self.heard = False
        self._after = after
        self._clock = clock
        self._alive_at = clock.monotonic()

    def look(self, waiting: int) -> bool:
        """Judge by what was heard since the last look; whether it opened or closed. Look often, also when idle.

        Args:
            waiting: records that are not acknowledged.
        """
        was, now = self.open, self._clock.monotonic()
        if self.heard or (not waiting and not self.open):
            self._alive_at = now
            self.open = self.heard = False
        elif now - self._alive_at > self._after:
            self.open = True
        return self.open is not was
