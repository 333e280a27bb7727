"""Cache sync: a batch handler that applies an entity's change events to its cache. Offsets are committed after applies.

    from headwater_streams.cache_sync import sync_cache
    sync_cache(app, EntityCache.from_env("flights"))

A Redis that does not answer pauses the partition; nothing is lost or skipped. A Redis that forgot what was applied
before (failed over, came back empty) makes the partition go back to where Redis stopped and replay; replay from any
offset is safe because every apply is versioned. The key of an event that becomes a dead letter is fenced before, so
that nothing older is served any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from faust.types import TP

from headwater_cache.changes import ApplyResult, Change, Position
from headwater_cache.continuity import Rewind as CacheRewind
from headwater_cache.continuity import TopicPartition, lost
from headwater_cache.errors import ContinuityLost, InvalidKey
from headwater_cache.versions import Version, log_version, version
from headwater_schemas.errors import Unavailable
from headwater_schemas.wire import change_topic
from headwater_streams.app import StreamApp
from headwater_streams.handlers.batch import RecordBatch, Rewind
from headwater_streams.handlers.context import EventContext
from headwater_streams.joint_apply import JointApply

__all__ = ["sync_cache"]

logger = logging.getLogger(__name__)


class SyncedCache(Protocol):
    """What is needed of a cache: the event path of ``EntityCache``."""

    @property
    def name(self) -> str: ...

    def aapply_many(
        self, changes: Sequence[Change], *, positions: Mapping[TopicPartition, int] | None = None
    ) -> Awaitable[list[ApplyResult]]: ...

    def afence(self, key: str, version: Version | None) -> Awaitable[ApplyResult]: ...

    def acheck_continuity(self, positions: Mapping[TopicPartition, int]) -> Awaitable[CacheRewind | None]: ...

    def amark_ready(
        self, partitions: Sequence[int] = (), *, positions: Mapping[TopicPartition, int] | None = None, total: int
    ) -> Awaitable[None]: ...


def sync_cache(
    app: StreamApp,
    cache: SyncedCache,
    *,
    topic: str | None = None,
    epoch: int | None = 0,
    max_records: int = 500,
) -> None:
    """Keep ``cache`` equal to its change topic, by a handler of ``app``.

    Args:
        topic: default ``<cache name>.changes``.
        epoch: view mode: the topic's epoch; a change's version is (epoch, offset), so raise it whenever the topic is
            made anew or its partition count changes. ``None`` takes the versions that the events carry (cache mode).
        max_records: events of one pipelined apply.
    """
    source = topic or change_topic(cache.name)

    async def fence(event: EventContext) -> None:
        if event.key is None:
            logger.error("%s: a change without a key can not be read; no key is fenced", cache.name)
            return
        try:
            await cache.afence(event.key, None if epoch is None else log_version(epoch, event.offset))
        except InvalidKey as exc:  # no entry can have such a key
            logger.warning("%s: %s", cache.name, exc)

    apply_jointly = JointApply(cache.aapply_many, max_records)

    @app.batch_handler(source, name=f"cache-sync-{cache.name}", max_records=max_records, on_unreadable=fence)
    async def apply(batch: RecordBatch) -> None:
        # What was redriven stands far behind: applying it is safe, it is versioned, but it is no progress. And it may
        # run beside a batch of the same partition, whose mark it must not overwrite: so it has no position at all.
        positions = {} if batch.redriven else {TopicPartition(*batch.tp): batch.offsets[-1] + 1}
        try:
            await apply_jointly(list(_changes(batch, epoch)), positions)
        except ContinuityLost as gap:
            raise _rewind(cache.name, gap) from gap

    compared: set[TP] = set()

    @app.timer(1.0, name=f"cache-ready-{cache.name}")  # type: ignore[untyped-decorator]  # Faust's
    async def follow() -> None:
        try:
            await compare()
            await mark_ready()
        except ContinuityLost as gap:
            await app.rewind(_rewind(cache.name, gap))
        except Unavailable as exc:
            logger.warning("%s: cannot say that the cache follows its topic: %s", cache.name, exc)

    async def compare() -> None:
        """Of partitions that were assigned to us: does Redis hold what the group has committed? No event need come."""
        settled = app.pool.settled(source) if app.pool is not None else {}
        compared.intersection_update(settled)
        fresh = {tp: offset for tp, offset in settled.items() if tp not in compared}
        if not fresh:
            return
        rewind = await cache.acheck_continuity({TopicPartition(*tp): offset for tp, offset in fresh.items()})
        compared.update(fresh)
        if rewind is not None:
            raise lost(rewind)

    async def mark_ready() -> None:
        """Tell readers which partitions are applied to their end, so that a miss may mean not found."""
        caught_up = {TopicPartition(*tp): offset for tp, offset in (await app.caught_up(source)).items()}
        total = app.partitions_of(source)
        if caught_up and total:
            await cache.amark_ready(positions=caught_up, total=total)


def _rewind(name: str, gap: ContinuityLost) -> Rewind:
    logger.warning("%s: %s", name, gap)
    positions = {TP(tp.topic, tp.partition): offset for tp, offset in gap.rewind.positions.items()}
    return Rewind(positions, since=gap.rewind.since)


def _changes(batch: RecordBatch, epoch: int | None) -> Iterable[Change]:
    topic, partition = batch.tp
    for offset, key, event, stamp in zip(batch.offsets, batch.keys, batch.values, batch.timestamps, strict=True):
        where = None if batch.redriven else Position(topic, partition, offset)
        if event is not None:
            yield _change(event, offset, epoch, where)
        elif key is not None and epoch is not None:
            # Compaction may have removed the DELETE before its tombstone.
            yield Change(key, log_version(epoch, offset), None, position=where, occurred_at=stamp / 1000)


def _change(event: Mapping[str, Any], offset: int, epoch: int | None, where: Position | None) -> Change:
    return Change(
        key=event["key"],
        version=version(event["version"]) if epoch is None else log_version(epoch, offset),
        value=event["value"] if event["op"] == "UPSERT" else None,
        schema_id=event["schema_id"] or 0,
        position=where,
        occurred_at=event["occurred_at"].timestamp(),
    )
