"""Waits by a clock: the loop's timers end them, and ``ring`` does where the clock was turned by hand."""

from __future__ import annotations

import asyncio

from headwater_schemas.clock import Clock

__all__ = ["Waits"]


class Waits:
    """What waits for a time by this clock, and may be woken before. ``len`` is how many do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[asyncio.Future[None], float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def sleep(self, seconds: float) -> None:
        """Return when this time is over by the clock."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            await self.doze(left)

    async def doze(self, seconds: float) -> None:
        """Return when this time is about over, or at ``wake``: look again whether what you wait for is there."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self._waiting[waiting] = self._clock.monotonic() + seconds
        timer = loop.call_later(seconds, _end, waiting)
        try:
            await waiting
        finally:
            timer.cancel()
            del self._waiting[waiting]

    def ring(self) -> None:
        """End the waits that are over by the clock."""
        now = self._clock.monotonic()
        for waiting, until in self._waiting.items():
            if until <= now:
                _end(waiting)

    def wake(self) -> None:
        """End all waits."""
        for waiting in self._waiting:
            _end(waiting)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
