"""Readiness of a view: which partitions have been applied to their end, and when that was last seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from headwater_cache.continuity import Continuity, Rewind, TopicPartition, lost
from headwater_cache.errors import RefillNeeded
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Step

__all__ = ["Readiness"]

_SURE = 0.9
"""Of the time that a log keeps a deletion: clocks differ."""


class Readiness:
    """Marks a view as ready, as one consumer sees it. The marks live in Redis and go with what they speak of."""

    def __init__(self, space: Space, continuity: Continuity) -> None:
        self._space = space
        self._continuity = continuity
        self._marked: set[int] = set()
        self._beyond: set[TopicPartition] = set()
        self._losses = 0

    def mark(
        self,
        partitions: Sequence[int],
        positions: Mapping[TopicPartition, int] | None,
        total: int,
        ends: Mapping[TopicPartition, int] | None,
        tombstones: float | None,
    ) -> Step[None]:
        """Mark partitions, unless Redis lacks what was applied to them, or the log what was not.

        Raises:
            ContinuityLost: the first. Nothing is marked, and the next apply raises as well until the consumer is back.
            RefillNeeded: the second, of a view whose versions are offsets. It is not ready before a new epoch is.
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
        if self._space.mode == "view" and self._space.domain == "log":
            yield from self._check_log(numbers, total, tombstones)
            before, self._beyond = self._beyond, self._continuity.beyond(ends or {})
            if self._beyond & before:  # seen twice: an end may be as old as the last fetch
                yield from self._refuse(_made_anew(min(self._beyond & before)))
            if self._beyond:
                return
        stamp = self._space.now_ms()
        fields = [part for number in numbers for part in (number, stamp)]
        yield Ask(("HSET", self._space.readiness, "partitions", total, *fields))
        self._marked = numbers

    def _check_log(self, numbers: Collection[int], total: int, tombstones: float | None) -> Step[None]:
        stored, refused, *stamps = yield Ask(("HMGET", self._space.readiness, "partitions", "refused", *numbers))
        if refused is not None:
            raise self._refusal(refused.decode())
        if stored is not None and total > int(stored):
            yield from self._refuse(f"its topic had {int(stored)} partitions and has {total}, so keys have moved")
        if stored is not None and total < int(stored):
            raise self._refusal(
                f"its topic had {int(stored)} partitions and has {total} (if not, restart the sync: its count is old)"
            )
        oldest = min((int(stamp) for stamp in stamps if stamp is not None), default=None)
        away = 0.0 if oldest is None else self._space.clock.time() - oldest / 1000
        if tombstones is not None and away > tombstones * _SURE:
            yield from self._refuse(
                f"it did not follow its topic to the end for {away / 3600:.1f} h, and deletions vanish from that after "
                f"{tombstones / 3600:.1f} h (delete.retention.ms)"
            )

    def _refuse(self, why: str) -> Step[None]:
        """For good, in this epoch: every process hears of it, and no reader takes the view for complete."""
        yield Ask(("HSET", self._space.readiness, "partitions", 0, "refused", why))
        raise self._refusal(why)

    def _refusal(self, why: str) -> RefillNeeded:
        name = self._space.name
        return RefillNeeded(
            f"the view {name} is not ready: {why}; fill it anew: `headwater cache warm {name}`. If the topic was made "
            "anew or has other partitions, first pass an epoch= one higher to sync_cache, and --topic-epoch with it"
        )

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


def _made_anew(at: TopicPartition) -> str:
    return f"it was applied beyond the end of {at.topic}[{at.partition}], so that was made anew or cut"
