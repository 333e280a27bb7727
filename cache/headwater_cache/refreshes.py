"""When a value is loaded anew behind its reader's back: past its soft expiry, or shortly before (XFetch)."""

from __future__ import annotations

import math

from headwater_cache.bucket import TokenBucket
from headwater_cache.entry import Entry
from headwater_cache.metrics import EARLY_REFRESH
from headwater_cache.reads import Verdict
from headwater_cache.space import Space

__all__ = ["Refreshes"]


class Refreshes:
    """The background refreshes of one cache in one process: one per key, and so many a second."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._tokens = TokenBucket(space.clock, space.policy.refreshes)
        self._under_way: set[str] = set()

    def early(self, load_ms: int) -> float:
        """How long before the expiry (ms) XFetch may fire at all; earlier it would not in 10^13 reads."""
        return 30 * load_ms * self._space.policy.early

    def wanted(self, entry: Entry, verdict: Verdict, now: int) -> bool:
        """Past the soft expiry, or XFetch: the nearer the expiry and the slower the load, the likelier."""
        if verdict == "soft":
            return True
        expiry = entry.soft or entry.hard
        strength = entry.load_ms * self._space.policy.early
        if verdict != "fresh" or not expiry or expiry - now > self.early(entry.load_ms):
            return False
        return now - strength * math.log(1.0 - self._space.random.random()) >= expiry

    def begin(self, key: str) -> bool:
        """Whether to refresh ``key`` now; then there must be one ``end``."""
        if key in self._under_way or not self._tokens.take():
            return False
        self._under_way.add(key)
        EARLY_REFRESH.labels(self._space.name).inc()
        return True

    def end(self, key: str) -> None:
        """It was refreshed, or not."""
        self._under_way.discard(key)
