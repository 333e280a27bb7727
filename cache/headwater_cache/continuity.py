"""Watermarks: how far Redis has applied each partition, kept in Redis itself, so that what Redis forgets is noticed.

The watermark of a batch is written after its entries, on the same replication stream (or append-only file). A replica
that was promoted, or a server that came back from an old snapshot, therefore holds a prefix: its own watermark says
exactly where to read on. Watermarks only move on from what they were; a gap is reported, never bridged.

Weakness: in a Cluster the shards fail over one by one and the watermark lives on one of them; there a changed
replication id rewinds by time instead (``CachePolicy.failover_window``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from headwater_cache.changes import Change
from headwater_cache.errors import ContinuityLost
from headwater_cache.metrics import WATERMARK_OFFSET
from headwater_cache.scripts import WATERMARK
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Batch, Step, evaluate

__all__ = ["Continuity", "Rewind", "TopicPartition"]


class TopicPartition(NamedTuple):
    """One partition of a change topic."""

    topic: str
    partition: int


class Rewind(NamedTuple):
    """Where a consumer must read on, because Redis lacks what came after.

    Args:
        reason: ``emptied`` (no watermark left) or ``failover`` (an older one).
        positions: next offset to read, per partition that must go back.
        since: if set, seek these partitions to the first record at or after this time (seconds since the epoch)
            instead: earlier events would only leave fences (cache mode), or the exact place is unknown (Cluster).
    """

    reason: Literal["emptied", "failover"]
    positions: Mapping[TopicPartition, int]
    since: float | None = None


class Continuity:
    """The watermarks of one cache, as one consumer moves them.

    What this consumer has moved on stays in its memory, across an emptied Redis and a change of the live epoch too.
    """

    def __init__(self, space: Space, *, cluster: bool = False) -> None:
        self._space = space
        self._cluster = cluster
        self._known: dict[TopicPartition, str] = {}

    def check(self, positions: Mapping[TopicPartition, int]) -> Step[Rewind | None]:
        """Compare what Redis holds with ``positions``, the next offsets the consumer would read."""
        key = self._space.watermarks
        stored, server, replication = yield Batch([("HGETALL", key), ("INFO", "server"), ("INFO", "replication")])
        for reply in (stored, server, replication):
            if isinstance(reply, Exception):
                raise reply
        marks = {name.decode(): value.decode() for name, value in stored.items()}
        identity = _identity(server, replication)
        moved = self._cluster and marks.get("redis", identity) != identity
        gaps = self._gaps(positions, marks)
        if marks.get("redis") != identity:
            yield Ask(("HSET", key, "redis", identity))
        if gaps and all(_field(partition) not in marks for partition in gaps):
            return Rewind("emptied", gaps, self._window() if self._space.mode == "cache" else None)
        if moved:
            return Rewind("failover", dict.fromkeys(positions, 0), self._window())
        return Rewind("failover", gaps) if gaps else None

    def _gaps(self, positions: Mapping[TopicPartition, int], marks: Mapping[str, str]) -> dict[TopicPartition, int]:
        gaps = {}
        for partition, position in positions.items():
            stored = marks.get(_field(partition), "")
            expected = max(self._known.get(partition, ""), _text(position) if position > 0 else "")
            if stored < expected:
                gaps[partition] = int(stored or 0)
            self._known[partition] = stored
        return gaps

    def advance(self, positions: Mapping[TopicPartition, int]) -> Step[None]:
        """Everything below ``positions`` has been applied.

        Raises:
            ContinuityLost: Redis no longer holds the watermark from which this was to move on.
        """
        unknown = [partition for partition in positions if partition not in self._known]
        if unknown:
            values = yield Ask(("HMGET", self._space.watermarks, *map(_field, unknown)))
            for partition, value in zip(unknown, values, strict=True):
                self._known[partition] = value.decode() if value else ""
        args: list[str | bytes] = []
        for partition, position in positions.items():
            args += _field(partition), self._known[partition], _text(position)
        letters = yield from evaluate(WATERMARK, [self._space.watermarks], args)
        if b"g" in letters:
            yield from self._lost(positions)
        for partition, position in positions.items():
            self._known[partition] = max(self._known[partition], _text(position))
            WATERMARK_OFFSET.labels(self._space.name, partition.topic, str(partition.partition)).set(position)

    def _lost(self, positions: Mapping[TopicPartition, int]) -> Step[None]:
        rewind = yield from self.check(positions)
        if rewind is not None:
            places = ", ".join(
                f"{partition.topic}[{partition.partition}] from {at}" for partition, at in rewind.positions.items()
            )
            raise ContinuityLost(f"Redis lost applied events ({rewind.reason}): replay {places}", rewind)

    def _window(self) -> float:
        return self._space.clock.time() - self._space.policy.seconds_of("failover_window")


def derive(changes: Sequence[Change]) -> dict[TopicPartition, int]:
    """The next offsets after these changes."""
    positions: dict[TopicPartition, int] = {}
    for change in changes:
        if change.position is not None:
            topic, partition, offset = change.position
            at = TopicPartition(topic, partition)
            if offset >= positions.get(at, 0):
                positions[at] = offset + 1
    return positions


def _field(partition: TopicPartition) -> str:
    return f"{partition.topic}:{partition.partition}"


def _text(position: int) -> str:
    return f"{position:020d}"


def _identity(server: Mapping[str, Any], replication: Mapping[str, Any]) -> str:
    return f"{server.get('run_id', '?')}/{replication.get('master_replid', '?')}"
