"""The event path: a batch of change events through the versioned apply, in one round trip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from headwater_cache.changes import ApplyOutcome, ApplyResult, Change
from headwater_cache.continuity import Continuity, TopicPartition, spans_of
from headwater_cache.entry import State
from headwater_cache.metrics import APPLY, EVENT_LAG, VERSION_CONFLICT
from headwater_cache.scripts import APPLY as APPLY_SCRIPT
from headwater_cache.scripts import INVALIDATE, apply_args
from headwater_cache.space import Space
from headwater_cache.steps import Command, Step, evaluate, evaluate_many
from headwater_cache.versions import ZERO, Version
from headwater_schemas.errors import CacheUnavailable

__all__ = ["OUTCOMES", "Applier"]

OUTCOMES: dict[int, ApplyOutcome] = {
    ord("a"): "applied",
    ord("c"): "created",
    ord("r"): "refreshed",
    ord("f"): "fenced",
    ord("s"): "stale",
    ord("e"): "equal",
    ord("l"): "lease_lost",
    ord("d"): "conflict",
}

CHUNK = 64
"""Changes per script call: Redis serves nobody else for about 0.2 ms. In a Cluster 1: keys sit in different slots."""


class Applier:
    """Applies change events to one cache."""

    def __init__(self, space: Space, continuity: Continuity, *, chunk: int | None = None) -> None:
        self._space = space
        self._continuity = continuity
        self._chunk = chunk or (1 if space.cluster else CHUNK)

    def apply(
        self, changes: Sequence[Change], positions: Mapping[TopicPartition, int] | None
    ) -> Step[list[ApplyResult]]:
        """Apply the newest change of each key, then move the watermarks on."""
        if self._space.due():
            yield from self._space.look()
        spans = spans_of(changes, positions)
        yield from self._continuity.start(spans)
        chosen = newest(changes)
        entries = [self._entry(change, "T" if change.value is None else "V") for change in chosen]
        batch, mark = self._continuity.mark(spans)
        letters = yield from self._run(entries, [*mark, *self._wait()])
        results = dict(zip((change.key for change in chosen), letters, strict=True))
        yield from self._continuity.advance(batch, spans)
        self._observe(changes, chosen, letters)
        winners = {id(change) for change in chosen}
        return [
            ApplyResult(change.key, change.version, results[change.key] if id(change) in winners else "superseded")
            for change in changes
        ]

    def fence(self, key: str, version: Version | None) -> Step[ApplyResult]:
        """Leave a fence for a change whose value can not be had (poison): nothing older is served from here on.

        Without a version what is there becomes the fence, and a load in flight loses its lease.
        """
        if self._space.due():
            yield from self._space.look()
        if version is None:
            yield from evaluate(INVALIDATE, [self._space.key(key)], [self._space.fence_ms, ""])
            APPLY.labels(self._space.name, "fence", "fenced").inc()
            return ApplyResult(key, ZERO, "fenced")
        data, life = self._space.entry("F", version)
        (outcome,) = yield from self._run([(self._space.key(key), data, life)], [])
        APPLY.labels(self._space.name, "fence", outcome).inc()
        return ApplyResult(key, version, outcome)

    def _entry(self, change: Change, state: State) -> tuple[str, bytes, str]:
        data, life = self._space.entry(
            state, change.version, change.value or b"", change.schema_id, written_at=int(change.occurred_at * 1000)
        )
        return self._space.key(change.key), data, life

    def _wait(self) -> list[Command]:
        """Behind the batch, on its connection: how many replicas have it."""
        space = self._space
        return [("WAIT", space.replicas, space.replica_ms)] if space.replicas else []

    def _run(self, entries: Sequence[tuple[str, bytes, str]], behind: Sequence[Command]) -> Step[list[ApplyOutcome]]:
        commands: list[Command] = []
        may_create = self._space.mode == "view"
        for start in range(0, len(entries), self._chunk):
            keys: list[str] = []
            fields: list[str | bytes] = []
            for key, data, life in entries[start : start + self._chunk]:
                keys.append(key)
                fields += data, "", life
            commands.append(APPLY_SCRIPT.call(keys, apply_args("E", may_create, self._space.fence_ms, fields)))
        replies = yield from evaluate_many([*commands, *behind])
        if behind and behind[-1][0] == "WAIT" and replies[-1] < self._space.replicas:
            raise CacheUnavailable(
                f"{replies[-1]} of {self._space.replicas} replicas (HEADWATER_REDIS_REPLICAS) have the batch after "
                f"{self._space.replica_ms} ms; apply it again"
            )
        return [OUTCOMES[letter] for reply in replies[: len(commands)] for letter in reply]

    def _observe(self, changes: Sequence[Change], chosen: Sequence[Change], outcomes: Sequence[ApplyOutcome]) -> None:
        counts = Counter[ApplyOutcome](outcomes)
        counts["superseded"] = len(changes) - len(chosen)
        for outcome, count in counts.items():
            APPLY.labels(self._space.name, "event", outcome).inc(count)
        if counts["conflict"]:
            VERSION_CONFLICT.labels(self._space.name).inc(counts["conflict"])
        oldest = min((change.occurred_at for change in changes if change.occurred_at), default=0.0)
        if oldest:
            EVENT_LAG.labels(self._space.name).observe(max(0.0, self._space.clock.time() - oldest))


def newest(changes: Sequence[Change]) -> list[Change]:
    """The newest change of each key; of equal versions the delete."""
    best: dict[str, Change] = {}
    for change in changes:
        other = best.get(change.key)
        if (
            other is None
            or change.version > other.version
            or (change.version == other.version and change.value is None and other.value is not None)
        ):
            best[change.key] = change
    return list(best.values())
