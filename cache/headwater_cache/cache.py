"""``EntityCache``: the one class to use."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from headwater_cache.applier import Applier
from headwater_cache.changes import ApplyResult, Change, ChangeLog
from headwater_cache.connection import Connection
from headwater_cache.continuity import Rewind, TopicPartition
from headwater_cache.filter import KeyFilter
from headwater_cache.loads import SourceReads
from headwater_cache.near import NearCache, NearPolicy
from headwater_cache.operations import Operations
from headwater_cache.readiness import Readiness
from headwater_cache.reads import Reading, ViewReads
from headwater_cache.scripts import INVALIDATE, TOUCH
from headwater_cache.settings import CachePolicy, RedisSettings
from headwater_cache.source import Source
from headwater_cache.space import Mode, Space
from headwater_cache.steps import Step, evaluate
from headwater_cache.tags import invalidate_tags
from headwater_cache.transactions import Buffer
from headwater_cache.values import MsgpackValues, ValueCodec
from headwater_cache.versions import Version, VersionToken, check_domain
from headwater_cache.wants import Load
from headwater_cache.writes import LogCommit, SourceCommit, Writes
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError
from headwater_schemas.settings import Environment

__all__ = ["EntityCache"]

T = TypeVar("T")
V = TypeVar("V")


class EntityCache(Operations, Generic[V]):
    """A versioned write-through cache of one kind of thing, over Redis. It converges on its source of truth.

    Every operation that asks Redis exists twice, ``get`` for threads and ``aget`` for asyncio, over one core; one
    object serves both, and any number of threads and loops. Nothing is connected before the first call, which also
    checks that this Redis can keep the promises (``check`` does so at once).

    Args:
        name: namespace of the keys, ``entity`` of the change events, label of the metrics.
        redis: settings, or a URL.
        mode: ``view``: the compacted change topic is the truth and Redis holds every key, so a miss means not found.
            ``cache``: a source is the truth, Redis holds some keys, and a miss loads.
        values: how values become bytes; plain data as msgpack unless given.
        log: view mode: where ``put`` and ``delete`` commit; without one the view only reads.
        source: cache mode: loads what is missing and takes writes; without one the cache only finds what ``load`` and
            events brought.
        domain: version domain: entries of another domain are never served (``log`` unless given).
        policy: durations and limits.
        near: keep values in this process as well (L1), invalidated by Redis; ``None`` = do not.
        keys: cache mode: a filter of the keys that the source has; what it rules out is not looked for there.
        epoch: ``None`` follows the live epoch; a number stays in that one (warm-up).
        cold: view mode, absent key, view not ready: ``raise`` ViewNotReady, or take it for a ``miss``.
        clock: time.

    Errors of every operation: ``CacheUnavailable`` (Redis does not answer within the timeout), ``NotPermitted``,
    ``InvalidKey``; at the first call also ``UnsafeRedis`` and ``WrongEpoch``.
    """

    def __init__(
        self,
        name: str,
        redis: RedisSettings | str,
        *,
        mode: Mode = "view",
        values: ValueCodec[V] | None = None,
        log: ChangeLog | None = None,
        source: Source[V] | None = None,
        domain: str = "log",
        policy: CachePolicy | None = None,
        epoch: int | None = None,
        near: NearPolicy | None = None,
        keys: KeyFilter | None = None,
        cold: Literal["raise", "miss"] = "raise",
        clock: Clock | None = None,
    ) -> None:
        settings = RedisSettings(redis) if isinstance(redis, str) else redis
        self._codec: ValueCodec[V] = values or MsgpackValues[V]()
        time = clock or SystemClock()
        connection = Connection(name, settings, time)
        space = Space(
            name, mode, check_domain(domain), policy or CachePolicy(), time, epoch, connection.cluster,
            settings.replicas, round(settings.timeout * 800),
        )  # fmt: skip
        super().__init__(connection, space)
        if near is not None and space.cluster:
            raise UsageError("a near cache hears from one primary: with redis+cluster:// pass near=None")
        if mode == "view":
            if source is not None:
                raise UsageError("a view has no source: pass mode='cache' with it, or the view's log")
            self._reads: ViewReads[V] | SourceReads[V] = ViewReads(space, self._codec, cold)
            self._writes = Writes(space, self._codec, LogCommit[V](space, log))
        else:
            if log is not None:
                raise UsageError("a cache writes to its source, not to a log: pass mode='view' with the log")
            self._reads = SourceReads(space, self._codec, source.load if source is not None else None, keys)
            self._writes = Writes(space, self._codec, SourceCommit[V](space, source, keys))
        self._near = NearCache[V](space, near, connection.tracking_connection) if near is not None else None
        self._readiness = Readiness(self._space, self._continuity)
        self._applier = Applier(self._space, self._continuity)

    @classmethod
    def from_env(
        cls,
        name: str,
        env: Environment | None = None,
        *,
        mode: Mode = "view",
        values: ValueCodec[V] | None = None,
        log: ChangeLog | None = None,
        source: Source[V] | None = None,
        policy: CachePolicy | None = None,
    ) -> EntityCache[V]:
        """A cache on the Redis of ``HEADWATER_REDIS_*``.

        Raises:
            SettingError: a setting is malformed.
        """
        return cls(name, RedisSettings.from_env(env), mode=mode, values=values, log=log, source=source, policy=policy)

    # Reading

    def get(
        self, key: str, *, min_version: VersionToken | None = None, max_staleness: Duration | None = None
    ) -> V | None:
        """The value, or ``None`` = not found. Blocks for one round trip, for a miss also for the load.

        Args:
            key: the business key.
            min_version: a token of a write: nothing older is returned.
            max_staleness: nothing is returned that may have been out of date for longer.

        Raises:
            NotVisibleYet: a newer version, or the token's, exists and did not arrive within ``policy.wait``.
            ViewNotReady: view mode: the key is absent and the view has not caught up with its log.
            SourceFailed: cache mode: the source raised, and no stale value may be served.
            SourceBusy: cache mode: too many loads are in flight, or another holds this one up.
            NoFreeConnection: more callers at once than connections to Redis; the source is not asked instead.
        """
        if self._near is not None and min_version is None and max_staleness is None:
            near = self._near.get(key)
            if near is not None:
                return near.value
        return self._sync(self._read(key, min_version, max_staleness)).value

    async def aget(
        self, key: str, *, min_version: VersionToken | None = None, max_staleness: Duration | None = None
    ) -> V | None:
        """``get`` for asyncio."""
        if self._near is not None and min_version is None and max_staleness is None:
            near = self._near.get(key)
            if near is not None:
                return near.value
        return (await self._async(self._read(key, min_version, max_staleness))).value

    def read(
        self, key: str, *, min_version: VersionToken | None = None, max_staleness: Duration | None = None
    ) -> Reading[V]:
        """``get`` with the version, and whether the value is stale."""
        return self._sync(self._read(key, min_version, max_staleness))

    async def aread(
        self, key: str, *, min_version: VersionToken | None = None, max_staleness: Duration | None = None
    ) -> Reading[V]:
        """``read`` for asyncio."""
        return await self._async(self._read(key, min_version, max_staleness))

    def _read(self, key: str, token: VersionToken | None, max_staleness: Duration | None) -> Step[Reading[V]]:
        limit = None if max_staleness is None else seconds(max_staleness)
        if self._near is None or token is not None or limit is not None:
            return self._reads.read(key, token, limit)
        return self._read_near(key, self._near)

    def _read_near(self, key: str, near: NearCache[V]) -> Step[Reading[V]]:
        found = near.get(key)
        if found is not None:
            return found
        mark, reading = near.reserve(key), None
        try:
            reading = yield from self._reads.read(key, None, None)
            return reading
        finally:
            near.fill(key, mark, reading)

    def _wrote(self, key: str, step: Step[T]) -> Step[T]:
        """Whatever became of a write, this process forgets what it kept of the key or is reading of it now."""
        try:
            return (yield from step)
        finally:
            if self._near is not None:
                self._near.evict(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, V]:
        """The values of those keys that are found, in one round trip."""
        return _found(keys, self._sync(self._read_many(keys)))

    async def aget_many(self, keys: Sequence[str]) -> dict[str, V]:
        """``get_many`` for asyncio."""
        return _found(keys, await self._async(self._read_many(keys)))

    def _read_many(self, keys: Sequence[str]) -> Step[list[Reading[V]]]:
        return self._reads.read_many(keys) if self._near is None else self._read_many_near(keys, self._near)

    def _read_many_near(self, keys: Sequence[str], near: NearCache[V]) -> Step[list[Reading[V]]]:
        found = {key: reading for key in keys if (reading := near.get(key)) is not None}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            marks = [near.reserve(key) for key in missing]
            read: dict[str, Reading[V]] = {}
            try:
                read.update(zip(missing, (yield from self._reads.read_many(missing)), strict=True))
            finally:
                for key, mark in zip(missing, marks, strict=True):
                    near.fill(key, mark, read.get(key))
            found.update(read)
        return [found[key] for key in keys]

    def load(self, key: str, function: Load, *args: Any) -> Reading[V]:
        """Read through ``function(*args)`` in place of the cache's source (cache mode); ``cached`` does this for you.

        On a miss one caller over all processes runs it. It gives ``Loaded``, a bare value, or ``None`` = not found.
        """
        return self._sync(self._sourced().through(key, function, args))

    async def aload(self, key: str, function: Load, *args: Any) -> Reading[V]:
        """``load`` for asyncio; the function may be async, a plain one runs in a thread."""
        return await self._async(self._sourced().through(key, function, args))

    def invalidate(self, key: str) -> bool:
        """Stop serving what is there and refuse a load in flight; the next read loads (cache mode). False if absent."""
        return self._sync(self._wrote(key, self._invalidate(key)))

    async def ainvalidate(self, key: str) -> bool:
        """``invalidate`` for asyncio."""
        return await self._async(self._wrote(key, self._invalidate(key)))

    def _invalidate(self, key: str) -> Step[bool]:
        self._sourced()
        if self._space.due():
            yield from self._space.look()
        return bool((yield from evaluate(INVALIDATE, [self._space.key(key)], [self._space.fence_ms, ""])))

    def invalidate_tags(self, *tags: str) -> None:
        """Serve nothing that was loaded before now and carries one of ``tags``. One command, however many entries."""
        self._sync(self._invalidate_tags(tags))

    async def ainvalidate_tags(self, *tags: str) -> None:
        """``invalidate_tags`` for asyncio."""
        await self._async(self._invalidate_tags(tags))

    def _invalidate_tags(self, tags: Sequence[str]) -> Step[None]:
        try:
            yield from self._checked(invalidate_tags(self._space, tags))
        finally:
            if self._near is not None:
                self._near.flush()

    def _sourced(self) -> SourceReads[V]:
        if isinstance(self._reads, ViewReads):
            raise UsageError(
                f"{self.name} is a view: its log is the truth, there is nothing to load from (mode='cache' has)"
            )
        return self._reads

    # Writing

    def put(self, key: str, value: V) -> VersionToken:
        """Commit a value to the truth, write it through, and return its version.

        Returning promises that the truth has it (view: acknowledged by every in-sync replica). It does not promise that
        Redis has it yet: if Redis is away, the change event brings it. Read with ``min_version`` to be sure.

        Raises:
            InvalidValue, RecordTooLarge, UsageError: nothing was committed.
            Unavailable: the truth did not confirm; it may or may not have the value.
        """
        return self._sync(self._wrote(key, self._writes.put(key, value)))

    async def aput(self, key: str, value: V) -> VersionToken:
        """``put`` for asyncio."""
        return await self._async(self._wrote(key, self._writes.put(key, value)))

    def delete(self, key: str) -> VersionToken:
        """Commit a deletion; promises and errors as ``put``. Deleting what is absent is no error."""
        return self._sync(self._wrote(key, self._writes.delete(key)))

    async def adelete(self, key: str) -> VersionToken:
        """``delete`` for asyncio."""
        return await self._async(self._wrote(key, self._writes.delete(key)))

    def buffer(self) -> Buffer[V]:
        """A buffer for the writes of one database transaction that the caller makes itself (cache mode).

        Tell it each write with its version, ``savepoint`` and ``rollback`` as the transaction does, and ``flush`` it
        after the commit. Without a lease, an absent key gets a fence, and its next read loads.
        """
        self._sourced()
        return Buffer(self._space, self._codec)

    def flush(self, buffer: Buffer[V]) -> list[VersionToken]:
        """After the commit: write a buffer through, in one round trip. If Redis is away the change events repair it."""
        return self._sync(buffer.flush())

    async def aflush(self, buffer: Buffer[V]) -> list[VersionToken]:
        """``flush`` for asyncio."""
        return await self._async(buffer.flush())

    def touch(self, key: str) -> bool:
        """Extend a value's life by the policy's TTLs, unread. False if none lives there. A view has no expiry."""
        return self._sync(self._touch(key))

    async def atouch(self, key: str) -> bool:
        """``touch`` for asyncio."""
        return await self._async(self._touch(key))

    def _touch(self, key: str) -> Step[bool]:
        space = self._space
        if space.due():
            yield from space.look()
        now = space.now_ms()
        soft, hard = (0, 0) if space.mode == "view" else space.expiries(now, "V")
        args: list[str | bytes] = [struct.pack(">QQ", soft, hard), space.life_ms(now, "V", hard), str(now)]
        return bool((yield from evaluate(TOUCH, [space.key(key)], args)))

    # The event path

    def apply_many(
        self, changes: Sequence[Change], *, positions: Mapping[TopicPartition, int] | None = None
    ) -> list[ApplyResult]:
        """Apply a batch of change events, then move the watermarks on. Commit offsets only after this has returned.

        Of each key only the newest change is applied. Any order, repetition and replay converges. Blocks for two round
        trips. On an error nothing is promised, and the whole batch is to be applied again.

        Args:
            changes: a batch, as consumed.
            positions: the next offset of each partition after this batch, where records without a change were skipped;
                derived from the changes unless given.

        Raises:
            ContinuityLost: Redis has forgotten what was applied before; rewind as it says.
            CacheUnavailable, CacheFull: pause, then apply the batch again.
        """
        return self._sync(self._applier.apply(changes, positions))

    async def aapply_many(
        self, changes: Sequence[Change], *, positions: Mapping[TopicPartition, int] | None = None
    ) -> list[ApplyResult]:
        """``apply_many`` for asyncio."""
        return await self._async(self._applier.apply(changes, positions))

    def fence(self, key: str, version: Version | None) -> ApplyResult:
        """Fence a key whose change can not be read (poison), before its record is parked: nothing older is served.

        ``None``: its version can not be read either; then nothing is served that is there now.
        """
        return self._sync(self._applier.fence(key, version))

    async def afence(self, key: str, version: Version | None) -> ApplyResult:
        """``fence`` for asyncio."""
        return await self._async(self._applier.fence(key, version))

    def check_continuity(self, positions: Mapping[TopicPartition, int]) -> Rewind | None:
        """Whether Redis still holds everything below ``positions``, the next offsets this consumer would read.

        Call it when partitions are assigned, after Redis was away, and now and then. ``None`` = read on; else seek as
        the ``Rewind`` says. Replay from any offset is safe.
        """
        return self._sync(self._checked(self._continuity.check(positions)))

    async def acheck_continuity(self, positions: Mapping[TopicPartition, int]) -> Rewind | None:
        """``check_continuity`` for asyncio."""
        return await self._async(self._checked(self._continuity.check(positions)))

    def mark_ready(
        self,
        partitions: Sequence[int] = (),
        *,
        positions: Mapping[TopicPartition, int] | None = None,
        total: int,
        ends: Mapping[TopicPartition, int] | None = None,
        tombstones: float | None = None,
    ) -> None:
        """Say that these partitions, of ``total``, are applied to their end now. Repeat it every second while so.

        Once every partition was marked, an absent key of the view means not found; the times bound ``max_staleness``.

        Args:
            partitions: by number. Only what this process itself has applied is then checked.
            positions: better: the partitions with the next offset of each; Redis must hold everything below.
            total: how many partitions the topic has.
            ends: the next offset that each partition's log would give; behind a transaction that is more than its
                position. A log that is shorter than what was applied of it was made anew.
            tombstones: seconds for which the topic keeps a deletion; a view that was away for longer may lack one.
                ``None`` = for ever.

        Raises:
            ContinuityLost: Redis lacks what was applied, perhaps while no event came by: rewind. Nothing is marked.
            RefillNeeded: the view can not become right by following this topic (``domain="log"``): fill a new epoch.
        """
        self._sync(self._checked(self._readiness.mark(partitions, positions, total, ends, tombstones)))

    async def amark_ready(
        self,
        partitions: Sequence[int] = (),
        *,
        positions: Mapping[TopicPartition, int] | None = None,
        total: int,
        ends: Mapping[TopicPartition, int] | None = None,
        tombstones: float | None = None,
    ) -> None:
        """``mark_ready`` for asyncio."""
        await self._async(self._checked(self._readiness.mark(partitions, positions, total, ends, tombstones)))

    # Life

    def close(self) -> None:
        """Finish background work, drop the near cache, close the connections of blocking callers."""
        if self._near is not None:
            self._near.close()
        super().close()

    async def aclose(self) -> None:
        """Finish background work, drop the near cache, close the connections of the running event loop."""
        if self._near is not None:
            self._near.close()
        await super().aclose()


def _found(keys: Sequence[str], readings: Sequence[Reading[V]]) -> dict[str, V]:
    return {key: reading.value for key, reading in zip(keys, readings, strict=True) if reading.value is not None}
