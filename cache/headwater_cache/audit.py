"""The auditor: reads what a client would read, some time after each change, and counts what is still wrong.

The idea is that of Meta's Polaris ("Cache made consistent", 2022): a mismatch soon after a change is only lag, so it
is looked at again; what is counted is how much is wrong 1, 10, 60 and 300 seconds after. "Five nines within 60 s" is
then a measurement.

It may also repair what is still wrong after ten seconds, by the versioned apply and nothing else, so a repair that
comes too late changes nothing. A wrong value of the *same* version (somebody wrote past the cache) is fenced first.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from headwater_cache.applier import Applier
from headwater_cache.changes import ApplyOutcome, Change
from headwater_cache.entry import Entry, unpack
from headwater_cache.metrics import CONSISTENCY_CHECKED, CONSISTENCY_NINES, CONSISTENCY_REPAIRS, CONSISTENCY_VIOLATIONS
from headwater_cache.reads import fetch_many
from headwater_cache.scripts import INVALIDATE
from headwater_cache.space import Space
from headwater_cache.steps import Step, evaluate
from headwater_schemas.errors import UsageError

__all__ = ["AGES", "AuditReport", "Auditor", "Violation"]

AGES: tuple[int, ...] = (1, 10, 60, 300)
"""Seconds after a change at which it is looked at."""

REPAIR_AGE = 10
"""From this age on a mismatch is no lag."""


LONGEST_QUEUE = 100_000
"""Changes that wait to be looked at; beyond it new ones are not taken, so a cache that is all wrong fills no memory."""


class Violation(msgspec.Struct, frozen=True):
    """A key that did not show a change in time. ``found`` is what a client would have read.

    ``repair``: what the apply made of the repair, ``None`` if none was tried.
    """

    key: str
    expected: str
    found: str
    age: int
    repair: ApplyOutcome | None = None


class AuditReport(msgspec.Struct, frozen=True):
    """What an audit has seen so far, per age in seconds.

    Args:
        entity: name of the cache.
        checked: looks at that age. Later ages look only at what was wrong before.
        violations: what was wrong at that age.
        waiting: changes that are to be looked at (again).
        repaired: repairs that changed something.
    """

    entity: str
    checked: dict[int, int]
    violations: dict[int, int]
    waiting: int
    repaired: int = 0

    @property
    def decided(self) -> dict[int, int]:
        """Of how many changes it is known whether they showed within so many seconds."""
        found: dict[int, int] = {}
        known = 0
        for age, before in zip(AGES, (None, *AGES), strict=False):
            known += self.checked.get(age, 0) - (self.violations.get(before, 0) if before is not None else 0)
            if known > 0:
                found[age] = known
        return found

    @property
    def consistent(self) -> dict[int, float]:
        """The share of changes that showed within so many seconds; 1.0 = all."""
        return {age: 1 - self.violations.get(age, 0) / count for age, count in self.decided.items()}

    @property
    def nines(self) -> dict[int, float]:
        """The same as nines: 3.0 = 99.9 %. With nothing wrong, as many as the number of looks can show."""
        return {age: math.log10(count / max(1, self.violations.get(age, 0))) for age, count in self.decided.items()}


class Auditor:
    """Watches a sample of the keys of one cache. Feed it change events and call ``due`` now and then.

    Args:
        space: of the cache.
        share: of the keys, 0 to 1; by hash, so the same keys are watched everywhere and always.
        applier: repairs what is still wrong after 10 s; ``None`` = only count.
    """

    def __init__(self, space: Space, share: float, applier: Applier | None = None) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"share={share}: pass more than 0 and at most 1")
        self._space = space
        self._applier = applier
        self._repaired = 0
        self._limit = round(share * 2**32)
        self._queue: list[tuple[float, int, Change, int]] = []
        self._checked: Counter[int] = Counter()
        self._violations: Counter[int] = Counter()
        self._order = 0

    def observe(self, changes: Sequence[Change]) -> None:
        """Remember the changes of watched keys, to look at them after the first age."""
        now = self._space.clock.monotonic()
        for change in changes:
            if zlib.crc32(change.key.encode()) < self._limit and len(self._queue) < LONGEST_QUEUE:
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
            repair = None
            if self._applier is not None and AGES[step] >= REPAIR_AGE:
                repair = yield from self._repair(self._applier, change, entry)
            wrong.append(Violation(change.key, change.version, _shown(entry), AGES[step], repair))
            if step + 1 < len(AGES):
                self._push(began, change, step + 1)
        if looks:
            for age, nines in self.report().nines.items():
                CONSISTENCY_NINES.labels(self._space.name, str(age)).set(nines)
        return wrong

    def _repair(self, applier: Applier, change: Change, entry: Entry | None) -> Step[ApplyOutcome]:
        """Apply the change once more, out of turn: its version decides whether that is news."""
        if entry is not None and entry.version == change.version:
            yield from evaluate(INVALIDATE, [self._space.key(change.key)], [self._space.fence_ms, change.version])
        (result,) = yield from applier.apply([change], {})
        if result.outcome in ("applied", "fenced"):
            self._repaired += 1
        CONSISTENCY_REPAIRS.labels(self._space.name, result.outcome).inc()
        return result.outcome

    def report(self) -> AuditReport:
        """What has been seen so far."""
        return AuditReport(
            self._space.name, dict(self._checked), dict(self._violations), len(self._queue), self._repaired
        )

    def _push(self, began: float, change: Change, step: int) -> None:
        self._order += 1
        heapq.heappush(self._queue, (began + AGES[step], self._order, change, step))

    def _agrees(self, change: Change, entry: Entry | None) -> bool:
        """In cache mode what is not served is not wrong; a view must show the change, or a newer one.

        The same version must also be the same bytes, in a view, whose writers and events share one encoding.
        """
        state: Literal["V", "T", "N", "F"] | None = None if entry is None else entry.state
        if state is None or state == "F":
            return self._space.mode == "cache" or (state is None and change.value is None)
        if entry is None or state == "N" or entry.version != change.version or self._space.mode == "cache":
            return entry is not None and (state == "N" or entry.version >= change.version)
        return entry.payload == (change.value or b"") and (state == "T") == (change.value is None)


def _shown(entry: Entry | None) -> str:
    return "absent" if entry is None else f"{entry.state} {entry.version}"
