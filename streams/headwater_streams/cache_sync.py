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
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
from faust.types import TP

from headwater_cache.changes import ApplyResult, Change, Position
from headwater_cache.continuity import Rewind as CacheRewind
from headwater_cache.continuity import TopicPartition, lost
from headwater_cache.errors import ContinuityLost, RefillNeeded
from headwater_cache.events import ChangeDecoder
from headwater_cache.versions import Version, log_version, version
from headwater_schemas.errors import BadRecord, SettingError, Unavailable, UsageError
from headwater_schemas.wire import change_topic
from headwater_streams.app import StreamApp
from headwater_streams.handlers.batch import RecordBatch, Rewind
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.policy import Retry
from headwater_streams.joint_apply import JointApply

__all__ = ["CacheSync", "sync_cache"]

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
        self,
        partitions: Sequence[int] = (),
        *,
        positions: Mapping[TopicPartition, int] | None = None,
        total: int,
        ends: Mapping[TopicPartition, int] | None = None,
        tombstones: float | None = None,
    ) -> Awaitable[None]: ...


def sync_cache(
    app: StreamApp,
    cache: SyncedCache,
    *,
    topic: str | None = None,
    epoch: int | None = 0,
    decoder: ChangeDecoder | None = None,
    max_records: int = 500,
) -> None:
    """Keep ``cache`` equal to its change topic, by a handler of ``app``.

    Args:
        topic: default ``<cache name>.changes``.
        epoch: view mode: the topic's epoch; a change's version is (epoch, offset), so raise it whenever the topic is
            made anew or its partition count changes. ``None`` takes the versions that the events carry (cache mode).
        decoder: for a topic whose records are not all ChangeEvents, such as a Debezium connector's. Its epoch counts.
        max_records: events of one pipelined apply.

    Raises:
        UsageError: the cache has a handler in this app already, or a number is out of range.
    """
    sync = CacheSync(app, cache, topic or change_topic(cache.name), decoder.epoch if decoder else epoch, decoder)
    sync.join(max_records)


class CacheSync:
    """What ``sync_cache`` declares: one handler, and a timer that says how far it is."""

    def __init__(
        self, app: StreamApp, cache: SyncedCache, source: str, epoch: int | None, decoder: ChangeDecoder | None
    ) -> None:
        self._app = app
        self._cache = cache
        self._source = source
        self._epoch = epoch
        self._decoder = decoder
        self._compared: set[TP] = set()
        self._passed: dict[TP, int] = {}
        self._refusals: set[str] = set()
        self._tombstones: float | None = None

    def join(self, max_records: int) -> None:
        """Add them to the app."""
        self._apply_jointly = JointApply(self._cache.aapply_many, max_records)
        handler = self._app.batch_handler(
            self._source,
            name=f"cache-sync-{self._cache.name}",
            max_records=max_records,
            # The same record fails the same way for ever, and its partition would wait for each attempt.
            retry=Retry("1s", "10s", "1m", never=(BadRecord, UsageError)),
            on_unreadable=self.fence,
            decode=self._decoder.record if self._decoder else None,
        )
        handler(self.apply)
        self._app.timer(1.0, name=f"cache-ready-{self._cache.name}")(self.follow)

    # -- events ---------------------------------------------------------------------------------------------------

    async def apply(self, batch: RecordBatch) -> None:
        """Apply a batch, then move the partition's watermark on."""
        if self._decoder is None:
            changes = list(_changes(batch, self._epoch))
        else:
            changes = [change async for change in self._decoded(batch, self._decoder)]
        # What was redriven stands far behind: applying it is safe, it is versioned, but it is no progress. And it may
        # run beside a batch of the same partition, whose mark it must not overwrite: so it has no position at all.
        positions = {} if batch.redriven else {TopicPartition(*batch.tp): batch.offsets[-1] + 1}
        with self._sending_back():
            await self._compare([batch.tp])
            await self._apply_jointly(changes, positions)

    @contextmanager
    def _sending_back(self) -> Iterator[None]:
        """What Redis has forgotten is read again."""
        try:
            yield
        except ContinuityLost as gap:
            raise _rewind(self._cache.name, gap) from gap

    async def _decoded(self, batch: RecordBatch, decoder: ChangeDecoder) -> AsyncIterator[Change]:
        codec = self._app.codec
        for offset, event, record in zip(batch.offsets, batch, batch.values, strict=True):
            key = event.message.key()
            if (missing := codec.missing_schema(key)) is not None:  # of the key; that of the value is there
                await codec.prefetch([missing])
            change = decoder.change(key, record, Position(*batch.tp, offset))
            if change is not None:
                yield msgspec.structs.replace(change, position=None) if batch.redriven else change

    async def fence(self, event: EventContext) -> None:
        """Before a record becomes a dead letter: nothing older than it is served of its key from here on."""
        try:
            key = event.key if self._decoder is None else self._decoder.key_of(event.message.key())
        except BadRecord:
            key = None
        if key is None:
            logger.error("%s: a change without a key can not be read; no key is fenced", self._cache.name)
        else:
            await self._fence(key, None if self._epoch is None else log_version(self._epoch, event.offset))
        if event.message.topic() == self._source:
            await self._pass(TP(self._source, event.message.partition()), event.message.offset() + 1)

    async def _pass(self, tp: TP, after: int) -> None:
        """No apply will tell Redis that the partition is past this record: ``follow`` does, once all before it is."""
        with self._sending_back():
            await self._compare([tp])
        self._passed[tp] = max(after, self._passed.get(tp, 0))

    async def _fence(self, key: str, version: Version | None) -> None:
        try:
            await self._cache.afence(key, version)
        except SettingError:
            raise
        except UsageError as exc:  # no entry can have such a key, or something else than an entry has it
            logger.warning("%s: no fence for a change that can not be applied: %s", self._cache.name, exc)

    # -- how far ----------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Every second: tell readers which partitions are applied to their end, so that a miss may mean not found."""
        try:
            settled = self._settled()
            self._compared.intersection_update(settled)
            await self._compare(settled)
            await self._move_past_dead()
            await self._mark_ready()
        except ContinuityLost as gap:
            await self._go_back(gap)
        except RefillNeeded as exc:
            if str(exc) not in self._refusals:
                self._refusals.add(str(exc))
                logger.error("%s", exc)
        except Unavailable as exc:
            logger.warning("%s: cannot say that the cache follows its topic: %s", self._cache.name, exc)

    async def _go_back(self, gap: ContinuityLost) -> None:
        try:
            await self._app.rewind(_rewind(self._cache.name, gap))
        except Unavailable as exc:  # the next turn finds the same gap
            logger.warning("%s: cannot go back: %s", self._cache.name, exc)

    def _settled(self) -> dict[TP, int]:
        return self._app.pool.settled(self._source) if self._app.pool is not None else {}

    async def _compare(self, partitions: Iterable[TP]) -> None:
        """Of those that were assigned to us: does Redis hold what the group has committed? No event need come."""
        new = set(partitions) - self._compared
        settled = self._settled() if new else {}
        fresh = {TopicPartition(*tp): settled[tp] for tp in new & settled.keys()}
        if not fresh:
            return
        rewind = await self._cache.acheck_continuity(fresh)
        self._compared.update(TP(*tp) for tp in fresh)
        if rewind is not None:
            raise lost(rewind)

    async def _move_past_dead(self) -> None:
        settled = self._settled()
        self._passed = {tp: after for tp, after in self._passed.items() if tp in settled}
        for tp, after in list(self._passed.items()):
            if settled[tp] >= after:
                await self._apply_jointly((), {TopicPartition(*tp): after})
                if self._passed.get(tp) == after:
                    del self._passed[tp]

    async def _mark_ready(self) -> None:
        app, source = self._app, self._source
        # One that has just passed a dead letter is marked by the next turn.
        caught_up = {tp: offset for tp, offset in (await app.caught_up(source)).items() if tp not in self._passed}
        total = app.partitions_of(source)
        if not (caught_up and total):
            return
        if self._tombstones is None:
            self._tombstones = await app.tombstone_seconds(source)
        positions, ends = (
            {TopicPartition(*tp): offset for tp, offset in of.items()} for of in (caught_up, app.ends(caught_up))
        )
        await self._cache.amark_ready(positions=positions, total=total, ends=ends, tombstones=self._tombstones)


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
