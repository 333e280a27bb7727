"""The auditor: reads what a client would read, some time after each change, and counts what is still wrong.

The idea is that of Meta's Polaris ("Cache made consistent", 2022): a mismatch soon after a change is only lag, so it
is looked at again; what is counted is how much is wrong 1, 10, 60 and 300 seconds after. "Five nines within 60 s" is
then a measurement.
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from headwater_cache.changes import Change
from headwater_cache.entry import Entry, unpack
from headwater_cache.metrics import CONSISTENCY_CHECKED, CONSISTENCY_VIOLATIONS
from headwater_cache.reads import fetch_many
from headwater_cache.space import Space
from headwater_cache.steps import Step
from headwater_schemas.errors import UsageError

__all__ = ["AGES", "AuditReport", "Auditor", "Violation"]

AGES: tuple[int, ...] = (1, 10, 60, 300)
"""Seconds after a change at which it is looked at."""


class Violation(msgspec.Struct, frozen=True):
    """A key that did not show a change in time. ``found`` is what a client would have read."""

    key: str
    expected: str
    found: str
    age: int


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit has seen so far, per age in seconds. ``consistent`` is the share that was right by then."""

    entity: str
    checked: dict[int, int]
    violations: dict[int, int]
    waiting: int

    @property
    def consistent(self) -> dict[int, float]:
        """1.0 = everything."""
        return {age: 1 - self.violations.get(age, 0) / count for age, count in self.checked.items() if count}


class Auditor:
    """Watches a sample of the keys of one cache. Feed it change events and call ``due`` now and then.

    Args:
        space: of the cache.
        share: of the keys, 0 to 1; by hash, so the same keys are watched everywhere and always.
    """

    def __init__(self, space: Space, share: float) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"share={share}: pass more than 0 and at most 1")
        self._space = space
        self._limit = round(share * 2**32)
        self._queue: list[tuple[float, int, Change, int]] = []
        self._checked: Counter[int] = Counter()
        self._violations: Counter[int] = Counter()
        self._order = 0

    def observe(self, changes: Sequence[Change]) -> None:
        """Remember the changes of watched keys, to look at them after the first age."""
        now = self._space.clock.monotonic()
        for change in changes:
            if zlib.crc32(change.key.encode()) < self._limit:
                self._push(now, change, 0)

    def due(self) -> Step[list[Violation]]:
        """Look at what has come of age, in one round trip; what is wrong is looked at again at the next age."""
        now = self._space.clock.monotonic()
        looks: list[tuple[float, Change, int]] = []
        while self._queue and self._queue[0][0] <= now:
            when, _, change, step = heapq.heappop(self._queue)
            looks.append((when - AGES[step], change, step))
        found = yield from fetch_many([self._space.key(change.key) for _, change, _ in looks], self._space.cluster)
        wrong = []
        for (began, change, step), data in zip(looks, found, strict=True):
            entry = unpack(data) if data is not None else None
            self._checked[AGES[step]] += 1
            CONSISTENCY_CHECKED.labels(self._space.name).inc()
            if self._agrees(change, entry):
                continue
            self._violations[AGES[step]] += 1
            CONSISTENCY_VIOLATIONS.labels(self._space.name, str(AGES[step])).inc()
            wrong.append(Violation(change.key, change.version, _shown(entry), AGES[step]))
            if step + 1 < len(AGES):
                self._push(began, change, step + 1)
        return wrong

    def report(self) -> AuditReport:
        """What has been seen so far."""
        return AuditReport(self._space.name, dict(self._checked), dict(self._violations), len(self._queue))

    def _push(self, began: float, change: Change, step: int) -> None:
        self._order += 1
        heapq.heappush(self._queue, (began + AGES[step], self._order, change, step))

    def _agrees(self, change: Change, entry: Entry | None) -> bool:
        """In cache mode what is not served is not wrong; a view must show the change, or a newer one."""
        state: Literal["V", "T", "N", "F"] | None = None if entry is None else entry.state
        if state is None or state == "F":
            return self._space.mode == "cache" or (state is None and change.value is None)
        return entry is not None and (state == "N" or entry.version >= change.version)


def _shown(entry: Entry | None) -> str:
    return "absent" if entry is None else f"{entry.state} {entry.version}"
