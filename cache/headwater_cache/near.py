"""The near cache (L1): decoded values in this process, in front of Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from theine_core import TlfuCore, spread

from headwater_cache.metrics import L1_ENTRIES, L1_EVICTIONS, L1_FLUSHES, REQUESTS
from headwater_cache.reads import Reading, Unstored
from headwater_cache.space import Space
from headwater_cache.tracking import Channel
from headwater_cache.versions import ZERO
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError

__all__ = ["NearCache", "NearPolicy"]

V = TypeVar("V")
_BATCH = 256


@dataclass(frozen=True, slots=True)
class NearPolicy:
    """How a process keeps values of its own.

    Args:
        entries: how many; W-TinyLFU chooses which.
        ttl: how long one is served at most, whatever the invalidations say; so much may it outlive its own expiry.
        ping: how long the invalidation channel may be silent before it is asked; a lost channel is noticed after this
            and one Redis timeout at most, and everything is dropped.
    """

    entries: int = 10_000
    ttl: Duration = "10s"
    ping: Duration = "1s"

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise UsageError(f"entries={self.entries}: pass at least 1")
        for name in ("ttl", "ping"):
            value = seconds(getattr(self, name))
            if value <= 0:
                raise UsageError(f"{name} must be more than 0 s: there is no near cache without an end")
            object.__setattr__(self, name, value)


class _Kept(NamedTuple, Generic[V]):
    reading: Reading[V]
    until: float
    number: int
    """By which the policy knows the key."""


class NearCache(Generic[V]):
    """Values by key. Every caller gets the same object: treat it as immutable, or do without a near cache.

    A reader reserves a key before it asks Redis and fills it only if the reservation is still there. An invalidation
    drops both, so a value read before a change is never kept after it. While the channel is down nothing is served or
    kept.

    Which keys stay is decided by W-TinyLFU (Einziger et al., ACM TOS 2017), in theine's core. A hit is a look into a
    dict; the policy is told of hits in batches, so that a read costs no lock.
    """

    def __init__(self, space: Space, policy: NearPolicy, connect: Callable[[], Any]) -> None:
        entity, self._clock = space.name, space.clock
        self._space = space
        self._epoch = space.epoch
        self._channel = Channel(
            connect, f"{{{entity}:", self._written, lambda live: self.flush(live=live), ping=seconds(policy.ping)
        )
        self._entries: dict[str, _Kept[V]] = {}
        self._keys: dict[int, str] = {}
        self._policy = TlfuCore(policy.entries)
        self._touched: list[int] = []
        self._reserved: dict[str, object] = {}
        self._ttl = seconds(policy.ttl)
        self._lock = threading.Lock()
        self._live = False
        self._hits = REQUESTS.labels(entity, "l1", "hit")
        self._size = L1_ENTRIES.labels(entity)
        self._evicted = L1_EVICTIONS.labels(entity)
        self._flushed = L1_FLUSHES.labels(entity)

    def get(self, key: str) -> Reading[V] | None:
        """What is kept of ``key``, ``None`` = ask Redis."""
        kept = self._entries.get(key)
        if kept is None or kept.until < self._clock.monotonic():
            return None
        self._touched.append(kept.number)
        if len(self._touched) >= _BATCH:
            self._tell_policy()
        return kept.reading

    def reserve(self, key: str) -> object:
        """Announce a read of Redis; hand the result to ``fill``."""
        self._channel.start()
        mark = object()
        with self._lock:
            self._reserved[key] = mark
        return mark

    def fill(self, key: str, mark: object, reading: Reading[V] | None) -> None:
        """Keep what a read brought, unless it was invalidated meanwhile or is older than what is kept."""
        with self._lock:
            if self._reserved.get(key) is not mark:
                return
            del self._reserved[key]
            if self._epoch != self._space.epoch:
                self._epoch = self._space.epoch
                self._clear()
            if (
                reading is None
                or not self._live
                or isinstance(reading, Unstored)
                or reading.stale
                or reading.value is None
                or reading.version is None
            ):
                return
            kept = self._entries.get(key)
            if kept is None or (kept.reading.version or ZERO) <= reading.version:
                self._keep(key, reading)

    def evict(self, key: str) -> None:
        """Drop a key, and whatever a read under way would keep of it."""
        with self._lock:
            self._reserved.pop(key, None)
            kept = self._entries.pop(key, None)
            if kept is not None:
                self._keys.pop(kept.number, None)
                self._policy.remove(kept.number)
                self._evicted.inc()
                self._size.set(len(self._entries))

    def flush(self, *, live: bool | None = None) -> None:
        """Drop everything, and whatever reads under way would keep.

        Args:
            live: whether invalidations arrive from here on; ``None`` = as before.
        """
        with self._lock:
            if live is not None:
                self._live = live
            self._reserved.clear()
            self._clear()
            self._flushed.inc()

    def close(self) -> None:
        """Stop listening, drop everything."""
        self._channel.close()
        self.flush(live=False)
        self._tell_policy()

    def _keep(self, key: str, reading: Reading[V]) -> None:
        number = spread(hash(key))
        other = self._keys.get(number, key)
        if other != key:  # one hash, two keys: the newer stays
            del self._entries[other]
            self._evicted.inc()
        self._keys[number] = key
        self._entries[key] = _Kept(reading, self._clock.monotonic() + self._ttl, number)
        for loser in self._policy.set([(number, 0)]):
            self._entries.pop(self._keys.pop(loser), None)
            self._evicted.inc()
        self._size.set(len(self._entries))

    def _clear(self) -> None:
        self._entries.clear()
        self._keys.clear()
        self._policy.clear()
        self._size.set(0)

    def _tell_policy(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, []
            self._policy.access(touched)
        self._hits.inc(len(touched))

    def _written(self, name: str) -> None:
        """A name in Redis was written: an entry of ours, its lease (no news), or something else of the namespace."""
        if name.endswith("}"):
            self.evict(name.split(":", 2)[2][:-1])
        elif name.endswith("}:tags"):  # which keys carry the tag is not known here
            self.flush()
