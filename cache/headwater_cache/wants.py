"""What a caller asks of one key in cache mode, and how it was answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from headwater_cache.reads import Reading, Result
from headwater_cache.versions import ZERO, Version

__all__ = ["Found", "Load", "Want"]

V = TypeVar("V")
Load = Callable[..., Any]
"""A plain or async function that gives ``Loaded``, a bare value (no version: only leases order it) or ``None``."""


class Want(NamedTuple):
    """What a caller asks of one key."""

    key: str
    load: Load | None
    args: tuple[Any, ...]
    min_version: Version | None = None
    max_staleness: int | None = None
    """ms"""

    def allows(self, reading: Reading[Any]) -> bool:
        """Whether a reading is not older than this caller takes."""
        if self.max_staleness is not None and reading.stale:
            return False
        return self.min_version is None or (reading.version or ZERO) >= self.min_version


class Found(NamedTuple, Generic[V]):
    """A reading, and what its read is counted as."""

    reading: Reading[V]
    result: Result
    began: float = 0.0
    """When its flight began, on the clock's monotonic time."""

    @property
    def none_at_source(self) -> bool:
        """Whether the source was asked just now and has no such row. That is as new as it gets, and has no version."""
        return self.result in ("miss", "bypass") and self.reading.value is None and not self.reading.stale
