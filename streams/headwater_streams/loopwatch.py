"""Finds who blocks the event loop: a thread that looks whether the loop still turns, and if not, where it stands."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

__all__ = ["LoopWatch"]

logger = logging.getLogger(__name__)

_BEAT = 0.1  # seconds between two beats of the loop


class LoopWatch:
    """Logs the stack of the loop's thread when it has not turned for ``limit`` seconds, once per blockage.

    Weakness: code that holds the GIL for the whole time (a C extension) is reported only when it lets go.
    """

    def __init__(self, limit: float = 1.0) -> None:
        self.limit = limit
        self.blocked = 0
        self.lag = 0.0
        self._beat_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch the running loop."""
        self._beat_at = time.monotonic()
        self._beat(asyncio.get_running_loop(), self._beat_at)
        self._thread = threading.Thread(
            target=self._look, args=(threading.get_ident(),), name="headwater-loopwatch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()
        if self._thread is not None:
            self._thread.join()

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = time.monotonic()
        self.lag = max(0.0, now - due)
        self._beat_at = now
        self._handle = loop.call_later(_BEAT, self._beat, loop, now + _BEAT)

    def _look(self, thread: int) -> None:
        told = 0.0
        while not self._stop.wait(_BEAT):
            beat = self._beat_at
            late = time.monotonic() - beat - _BEAT
            if late < self.limit or beat == told:
                continue
            told = beat
            self.blocked += 1
            frame = sys._current_frames().get(thread)
            stack = "".join(traceback.format_stack(frame)[-6:]) if frame is not None else "(no stack)"
            logger.error("the event loop is blocked since %.1f s, all handlers wait; it stands in:\n%s", late, stack)
