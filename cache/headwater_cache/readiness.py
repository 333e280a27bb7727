"""Readiness of a view: which partitions have been applied to their end, and when that was last seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwater_cache.continuity import Continuity, Rewind, TopicPartition, lost
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Step

__all__ = ["Readiness"]


class Readiness:
    """Marks a view as ready, as one consumer sees it. The marks live in Redis and go with what they speak of."""

    def __init__(self, space: Space, continuity: Continuity) -> None:
        self._space = space
        self._continuity = continuity
        self._marked: set[int] = set()
        self._losses = 0

    def mark(self, partitions: Sequence[int], positions: Mapping[TopicPartition, int] | None, total: int) -> Step[None]:
        """Mark partitions, unless Redis lacks what was applied to them.

        Raises:
            ContinuityLost: it does. Nothing is marked, and the next apply raises as well until the consumer went back.
        """
        if self._losses != self._continuity.losses:  # it is known already that our marks went with what was lost
            self._losses = self._continuity.losses
            self._marked.clear()
        rewind = yield from self._continuity.compare(self._expected(partitions, positions))
        if rewind is None and self._marked:
            rewind = yield from self._vanished()
        if rewind is not None:
            self._marked.clear()
            raise lost(rewind)
        numbers = {*partitions, *(partition.partition for partition in positions or ())}
        stamp = self._space.now_ms()
        fields = [part for number in numbers for part in (number, stamp)]
        yield Ask(("HSET", self._space.readiness, "partitions", total, *fields))
        self._marked = numbers

    def _expected(
        self, partitions: Sequence[int], positions: Mapping[TopicPartition, int] | None
    ) -> Mapping[TopicPartition, int]:
        known = {partition: 0 for partition in self._continuity.partitions if partition.partition in partitions}
        return {**known, **(positions or {})}

    def _vanished(self) -> Step[Rewind | None]:
        """Our own marks are gone, so Redis was emptied, even if no event has come by to notice it."""
        marks = yield Ask(("HMGET", self._space.readiness, *self._marked))
        if None not in marks:
            return None
        return self._continuity.emptied(at for at in self._continuity.partitions if at.partition in self._marked)
