"""A Bloom filter of the keys that exist: lookups of keys that never were reach neither the source nor a lease.

(Penetration: each made-up key is a miss, a lease, a load and a negative entry.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from rbloom import Bloom

from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError

__all__ = ["KeyFilter"]


class KeyFilter:
    """The keys of one namespace, as the log of its changes tells them.

    Feed it every change event from the beginning of the compacted topic (``add``), and say ``caught_up`` whenever the
    end has been read. Until then, and while the last ``caught_up`` is longer ago than ``max_lag``, it rules nothing
    out.
    A writer adds a key before it commits; too many keys do no harm.

    Weakness: for up to ``max_lag`` a row that another process inserted, and that is not in Redis yet, is taken for
    missing. A read with ``min_version`` does not ask the filter, nor does ``load`` or a cached function: their keys are
    not the source's. Deleted keys stay until ``rebuild``.

    Args:
        expected: how many keys there will be. Beyond it more and more missing keys pass.
        false_positives: share of missing keys that pass, at ``expected`` keys.
        max_lag: see above.
    """

    def __init__(
        self,
        expected: int,
        *,
        false_positives: float = 0.01,
        max_lag: Duration = "5s",
        clock: Clock | None = None,
    ) -> None:
        if expected < 1 or not 0 < false_positives < 1:
            raise UsageError(f"expected={expected}, false_positives={false_positives}: pass at least 1, and a share")
        self._size = (expected, false_positives)
        self._max_lag = seconds(max_lag)
        self._clock = clock or SystemClock()
        self._keys = Bloom(*self._size)
        self._next: Bloom | None = None
        self._good_until = float("-inf")
        self._lock = threading.Lock()

    def add(self, keys: Iterable[str]) -> None:
        """These keys exist, or are about to."""
        names = list(keys)
        with self._lock:
            self._keys.update(names)
            if self._next is not None:
                self._next.update(names)

    def caught_up(self) -> None:
        """Every change up to now has been added."""
        self._good_until = self._clock.monotonic() + self._max_lag

    def rebuild(self) -> None:
        """Begin a new filter, without the keys that were deleted; the old one answers until ``rebuilt``.

        From here on ``add`` the log from its beginning, beside what is new.
        """
        with self._lock:
            self._next = Bloom(*self._size)

    def rebuilt(self) -> None:
        """The log has been added from its beginning to its end since ``rebuild``: the new filter takes over."""
        with self._lock:
            if self._next is None:
                raise UsageError("there is no rebuild to end: call rebuild() first")
            self._keys, self._next = self._next, None

    @property
    def ready(self) -> bool:
        """Whether it may rule anything out."""
        return self._clock.monotonic() <= self._good_until

    def may_exist(self, key: str) -> bool:
        """False only if the key is certainly in no change up to the last ``caught_up``. Ask only while ``ready``."""
        return key in self._keys
