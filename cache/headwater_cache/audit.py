"""The auditor: reads what a client would read, some time after each change, and counts what is still wrong.

The idea is that of Meta's Polaris ("Cache made consistent", 2022): a mismatch soon after a change is only lag, so it
is looked at again; what is counted is how much is wrong 1, 10, 60 and 300 seconds after. "Five nines within 60 s" is
then a measurement.

It may also repair what is still wrong after ten seconds, by the versioned apply and nothing else, so a repair that
comes too late changes nothing. A wrong value of the *same* version (somebody wrote past the cache) is fenced first. In
cache mode a repair is a fence, and the next read asks the source.
"""

from __future__ import annotations

import heapq
import math
import zlib
from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from headwater_cache.applier import Applier
from headwater_cache.changes import ApplyOutcome, Change
from headwater_cache.entry import Entry, unpack
from headwater_cache.metrics import CONSISTENCY_CHECKED, CONSISTENCY_NINES, CONSISTENCY_REPAIRS, CONSISTENCY_VIOLATIONS
from headwater_cache.reads import fetch_many, judge
from headwater_cache.scripts import INVALIDATE
from headwater_cache.space import Space
from headwater_cache.steps import Step, evaluate
from headwater_cache.tags import holds
from headwater_schemas.errors import NotDecodable, UsageError

__all__ = ["AGES", "AuditReport", "Auditor", "Violation"]

AGES: tuple[int, ...] = (1, 10, 60, 300)
"""Seconds after a change at which it is looked at."""

REPAIR_AGE = 10
"""From this age on a mismatch is no lag."""

LATE = 2.0
"""Seconds by which a look may be late and still speak of its age."""

LONGEST_QUEUE = 100_000
"""Changes that wait to be looked at; beyond it new ones are not taken, so a cache that is all wrong fills no memory."""


class _Look(NamedTuple):
    """A change that is to be looked at, when it is as old as ``AGES[step]``."""

    began: float
    change: Change
    step: int

    def later(self) -> _Look:
        return self._replace(step=self.step + 1)


_Found = Entry | Literal["foreign"] | None
"""An entry, bytes that are none, or nothing."""


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
        self._queue: list[tuple[float, int, _Look]] = []
        self._wrong: list[Violation] = []
        self._checked: Counter[int] = Counter()
        self._violations: Counter[int] = Counter()
        self._order = 0

    def observe(self, changes: Sequence[Change]) -> None:
        """Remember the changes of watched keys, to look at them after the first age."""
        now = self._space.clock.monotonic()
        for change in changes:
            if zlib.crc32(change.key.encode()) < self._limit and len(self._queue) < LONGEST_QUEUE:
                self._push(_Look(now, change, 0))

    def due(self) -> Step[list[Violation]]:
        """Look at what has come of age, in one round trip; what is wrong is looked at again at the next age.

        On an error what was not looked at yet stays due, and the violations already found are told by the next call.
        """
        looks = self._come_of_age()
        try:
            found = yield from fetch_many([self._space.key(look.change.key) for look in looks], self._space.cluster)
            entries = iter(found)
            while looks:
                yield from self._look(looks.popleft(), next(entries))
        except BaseException:
            for look in looks:
                self._push(look)
            raise
        for age, nines in self.report().nines.items():
            CONSISTENCY_NINES.labels(self._space.name, str(age)).set(nines)
        wrong, self._wrong = self._wrong, []
        return wrong

    def _come_of_age(self) -> deque[_Look]:
        """What is to be looked at now.

        What was due long ago (Redis or this process stood still) waits for its next age: looked at now, it would pass
        for having shown long before.
        """
        now = self._space.clock.monotonic()
        looks: deque[_Look] = deque()
        while self._queue and self._queue[0][0] <= now:
            when, _, look = heapq.heappop(self._queue)
            if now - when > LATE and look.step + 1 < len(AGES):
                self._push(look.later())
            else:
                looks.append(look)
        return looks

    def _look(self, look: _Look, data: bytes | None) -> Step[None]:
        change, age = look.change, AGES[look.step]
        entry = _entry(data)
        self._checked[age] += 1
        CONSISTENCY_CHECKED.labels(self._space.name).inc()
        if self._agrees(change, entry) or (yield from self._tag_ended(entry)):
            return
        self._violations[age] += 1
        CONSISTENCY_VIOLATIONS.labels(self._space.name, str(age)).inc()
        if look.step + 1 < len(AGES):
            self._push(look.later())
        repair = None
        try:
            if self._applier is not None and age >= REPAIR_AGE and entry != "foreign":
                repair = yield from self._repair(self._applier, change, entry)
        finally:
            self._wrong.append(Violation(change.key, change.version, _shown(entry), age, repair))

    def _repair(self, applier: Applier, change: Change, entry: Entry | None) -> Step[ApplyOutcome]:
        """Apply the change once more, out of turn: its version decides whether that is news.

        A cache gets a fence, so that the next read asks its source: how its values are encoded, and for how long they
        live, its own program knows.
        """
        if self._space.mode == "cache":
            result = yield from applier.fence(change.key, change.version)
        else:
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

    def _push(self, look: _Look) -> None:
        self._order += 1
        heapq.heappush(self._queue, (look.began + AGES[look.step], self._order, look))

    def _agrees(self, change: Change, entry: _Found) -> bool:
        """In cache mode what is not served is not wrong; a view must show the change, or a newer one.

        The same version must also be the same bytes, in a view, whose writers and events share one encoding.
        """
        if entry == "foreign":
            return False
        if self._space.mode == "cache":
            verdict = judge(entry, self._space.domain, self._space.now_ms())
            served = entry is not None and entry.state != "N" and verdict not in ("fence", "expired")
            return not served or (entry is not None and entry.version >= change.version)
        if entry is None or entry.state == "F" or entry.domain != self._space.domain:
            return entry is None and change.value is None
        if entry.state == "N" or entry.version != change.version:
            return entry.state == "N" or entry.version >= change.version
        return entry.payload == (change.value or b"") and (entry.state == "T") == (change.value is None)

    def _tag_ended(self, entry: _Found) -> Step[bool]:
        """Whether an entry is not served because one of its tags was invalidated."""
        if entry is None or entry == "foreign" or not entry.tags or self._space.mode == "view":
            return False
        return not (yield from holds(self._space, entry))


def _entry(data: bytes | None) -> _Found:
    try:
        return unpack(data) if data is not None else None
    except NotDecodable:
        return "foreign"


def _shown(entry: _Found) -> str:
    if entry == "foreign":
        return "bytes of another program"
    return "absent" if entry is None else f"{entry.state} {entry.version}"
