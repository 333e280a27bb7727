"""Watermarks: how far Redis has applied each partition, kept in Redis itself, so that what Redis forgets is noticed.

A batch is applied in three steps: its entries; behind them, on the same connection, a mark of the batch; then, if
every entry was taken, the watermark moves on, provided that the mark and the previous watermark are still there.
Entries, mark and watermark travel in this order on one replication stream (or append-only file). So a replica that was
promoted, or a server that came back from an old snapshot, holds a prefix: its own watermark says exactly where to read
on, and a watermark can never be written on top of a gap.

In a Cluster the shards fail over one by one and the watermark lives on one of them. There it counts only while the
primaries are those under which it was written: they are named beside it, for each partition.

Weakness: a shard of a Cluster that is emptied and goes on running (FLUSHALL) is noticed only if it has the watermark.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from headwater_cache.changes import Change
from headwater_cache.errors import ContinuityLost
from headwater_cache.metrics import WATERMARK_OFFSET
from headwater_cache.scripts import WATERMARK
from headwater_cache.space import Space
from headwater_cache.steps import Ask, Batch, Command, Step, evaluate

__all__ = ["Continuity", "Rewind", "Span", "TopicPartition", "lost", "spans_of", "watermarks_of"]

_NODES = ":redis"


class TopicPartition(NamedTuple):
    """One partition of a change topic."""

    topic: str
    partition: int


class Span(NamedTuple):
    """Offsets of one partition in a batch: from ``first`` to before ``next``."""

    first: int
    next: int


class Rewind(NamedTuple):
    """Where a consumer must read on, because Redis lacks what came after.

    Args:
        reason: ``emptied`` (no watermark left) or ``failover`` (an older one).
        positions: next offset to read, per partition that must go back.
        since: if set, seek these partitions to the first record at or after this time (seconds since the epoch)
            instead: earlier events would only leave fences (cache mode).
    """

    reason: Literal["emptied", "failover"]
    positions: Mapping[TopicPartition, int]
    since: float | None = None


class Continuity:
    """The watermarks of one cache, as one consumer moves them.

    What this consumer has moved on stays in its memory, across an emptied Redis and a change of the live epoch too. Its
    batches must not overlap in time.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._known: dict[TopicPartition, str] = {}
        self.losses = 0
        """How often something was found missing."""

    def check(self, positions: Mapping[TopicPartition, int]) -> Step[Rewind | None]:
        """Compare what Redis holds with ``positions``, the next offsets the consumer would read.

        What is missing is remembered, so it is told once. A cache goes on where it was: what Redis forgot is loaded.
        """
        if not positions:
            return None
        key = self._space.watermarks
        marks, nodes = yield from self._stored(positions)
        gaps = self._gaps(positions, marks)
        for at, position in positions.items():
            start = self._expected(at, position) if self._space.mode == "cache" else _text(0)
            self._known[at] = marks.get(_field(at), start)
        missing = [at for at in positions if _field(at) not in marks]
        commands: list[Command] = [("HSETNX", key, _field(at), self._known[at]) for at in missing]
        commands += [("HSET", key, _nodes(at), nodes) for at in positions if nodes]
        if commands:
            _checked((yield Batch(commands)))
        self.losses += bool(gaps)
        return self._rewind(gaps)

    @property
    def partitions(self) -> Iterable[TopicPartition]:
        """Those of which this consumer knows a watermark."""
        return self._known.keys()

    def compare(self, positions: Mapping[TopicPartition, int]) -> Step[Rewind | None]:
        """As ``check``, but a view remembers nothing: what is missing now is found missing again by the next batch."""
        if not positions:
            return None
        marks, _ = yield from self._stored(positions)
        gaps = self._gaps(positions, marks)
        if gaps and self._space.mode == "cache":
            return (yield from self.check(positions))
        return self._rewind(gaps)

    def beyond(self, ends: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        """The partitions that were applied further than their log goes: it was cut, or made anew."""
        return {at for at, end in ends.items() if int(self._known.get(at, "0")) > end}

    def emptied(self, partitions: Iterable[TopicPartition]) -> Rewind:
        """How far to go back if Redis has nothing left of these."""
        return Rewind("emptied", dict.fromkeys(partitions, 0), self._window() if self._space.mode == "cache" else None)

    def _rewind(self, gaps: Mapping[TopicPartition, int]) -> Rewind | None:
        if not gaps:
            return None
        return Rewind("failover", gaps) if any(gaps.values()) else self.emptied(gaps)

    def _stored(self, positions: Iterable[TopicPartition]) -> Step[tuple[dict[str, str], str]]:
        """The watermarks of these, by field, and in a Cluster which primaries it has. One that was written under others
        is deleted: what they held may be gone."""
        key, places = self._space.watermarks, list(positions)
        fields = [name for at in places for name in (_field(at), _nodes(at))]
        infos: list[Command] = [("INFO", "server"), ("INFO", "replication")] if self._space.cluster else []
        values, *told = _checked((yield Batch([("HMGET", key, *fields), *infos])))
        identity = _identity(*told) if told else ""
        found = {name: value.decode() for name, value in zip(fields, values, strict=True) if value is not None}
        old = [_field(at) for at in places if identity and found.get(_nodes(at), identity) != identity]
        if old:
            yield Ask(("HDEL", key, *old))
        return {name: value for name, value in found.items() if name not in old}, identity

    def _expected(self, partition: TopicPartition, position: int) -> str:
        return max(self._known.get(partition, ""), _text(position))

    def _gaps(self, positions: Mapping[TopicPartition, int], marks: Mapping[str, str]) -> dict[TopicPartition, int]:
        """The partitions whose watermark is behind what was applied, with that watermark."""
        gaps = {}
        for partition, position in positions.items():
            stored, expected = marks.get(_field(partition), ""), self._expected(partition, position)
            if stored < expected and int(expected) > 0:
                gaps[partition] = int(stored or 0)
        return gaps

    def start(self, spans: Mapping[TopicPartition, Span]) -> Step[None]:
        """Before a batch: partitions that were never checked are checked now.

        Raises:
            ContinuityLost: Redis lacks what came before the batch. Raised once: afterwards the consumer is taken to
                have gone back as far as there is something to read.
        """
        unknown = {partition: span.first for partition, span in spans.items() if partition not in self._known}
        if unknown:
            yield from self._raise_gap(unknown)

    def mark(self, spans: Mapping[TopicPartition, Span]) -> tuple[str, list[Command]]:
        """The mark of a batch and the commands that write it, to be sent behind the batch's entries."""
        batch = secrets.token_hex(8)
        marks = [part for partition in spans for part in (f"{_field(partition)}:batch", batch)]
        return batch, [("HSET", self._space.watermarks, *marks)] if marks else []

    def advance(self, batch: str, spans: Mapping[TopicPartition, Span]) -> Step[None]:
        """The batch has been applied.

        Raises:
            ContinuityLost: Redis has forgotten the batch or what came before it.
        """
        if not spans:
            return
        args: list[str | bytes] = [batch]
        for partition, span in spans.items():
            args += _field(partition), self._known[partition], _text(span.next)
        letters = yield from evaluate(WATERMARK, [self._space.watermarks], args)
        if b"g" in letters:
            yield from self._raise_gap({partition: span.next for partition, span in spans.items()})
        for partition, span in spans.items():
            self._known[partition] = max(self._known[partition], _text(span.next))
            WATERMARK_OFFSET.labels(self._space.name, partition.topic, str(partition.partition)).set(span.next)

    def _raise_gap(self, positions: Mapping[TopicPartition, int]) -> Step[None]:
        rewind = yield from self.check(positions)
        if rewind is not None:
            raise lost(rewind)

    def _window(self) -> float:
        return self._space.clock.time() - self._space.policy.seconds_of("failover_window")


def lost(rewind: Rewind) -> ContinuityLost:
    """The error that tells a consumer to go back."""
    places = ", ".join(f"{at.topic}[{at.partition}] from {offset}" for at, offset in rewind.positions.items())
    return ContinuityLost(f"Redis lacks applied events ({rewind.reason}): replay {places or 'everything'}", rewind)


def spans_of(changes: Sequence[Change], positions: Mapping[TopicPartition, int] | None) -> dict[TopicPartition, Span]:
    """The offsets that a batch covers; ``positions`` (next offsets) also cover records without a change."""
    spans: dict[TopicPartition, Span] = {}
    for change in changes:
        if change.position is not None:
            topic, partition, offset = change.position
            at = TopicPartition(topic, partition)
            known = spans.get(at)
            if known is None:
                spans[at] = Span(offset, offset + 1)
            elif offset >= known.next:
                spans[at] = Span(known.first, offset + 1)
            elif offset < known.first:
                spans[at] = Span(offset, known.next)
    if positions is None:
        return spans
    return {at: Span(spans[at].first if at in spans else offset, offset) for at, offset in positions.items()}


def watermarks_of(stored: Mapping[bytes, bytes]) -> dict[str, int]:
    """The next offset to be applied, by ``topic:partition``, of the hash that holds more than that."""
    names = {name.decode(): value for name, value in stored.items()}
    return {name: int(at) for name, at in names.items() if ":" in name and not name.endswith((":batch", _NODES))}


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _field(partition: TopicPartition) -> str:
    return f"{partition.topic}:{partition.partition}"


def _nodes(partition: TopicPartition) -> str:
    return _field(partition) + _NODES


def _text(position: int) -> str:
    return f"{position:020d}"


def _identity(server: Mapping[str, Any], replication: Mapping[str, Any]) -> str:
    return f"{server.get('run_id', '?')}/{replication.get('master_replid', '?')}"
