"""What people and jobs do with a cache beside reading and writing: look into it, fill it, audit it, lock with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from headwater_cache.applier import Applier
from headwater_cache.audit import Auditor, Violation
from headwater_cache.connection import Connection
from headwater_cache.core import Core
from headwater_cache.epochs import drop_epoch, go_live, live_epoch
from headwater_cache.explain import Explanation, explain
from headwater_cache.hot import hot_keys, warm
from headwater_cache.loads import SourceReads
from headwater_cache.lock import Lock
from headwater_cache.stats import CacheStats, count
from headwater_cache.steps import Ask, Step
from headwater_schemas.durations import Duration

__all__ = ["Operations"]

T = TypeVar("T")


class Operations(Core):
    """Part of ``EntityCache``."""

    def explain(self, key: str) -> Explanation:
        """Everything Redis holds about a key: state, version, lease, last refusal, watermarks. Changes nothing."""
        return self._sync(explain(self._space, key))

    async def aexplain(self, key: str) -> Explanation:
        """``explain`` for asyncio."""
        return await self._async(explain(self._space, key))

    def hot_keys(self, count: int) -> list[str]:
        """The keys that were read most of late, hottest first. Scans; needs a Redis with an LFU eviction policy.

        Keep them outside of Redis, to ``warm`` another one with them.

        Raises:
            UsageError: Redis does not count reads, or this is a Cluster.
        """
        return self._sync(self._checked(hot_keys(self._space, count)))

    async def ahot_keys(self, count: int) -> list[str]:
        """``hot_keys`` for asyncio."""
        return await self._async(self._checked(hot_keys(self._space, count)))

    def warm(self, keys: Iterable[str], *, rate: float = 1000, progress: Callable[[int], None] | None = None) -> int:
        """Load those of ``keys`` that are missing, before readers ask (cache mode); how many of them are there now.

        Through the same leases as any read, so it may run beside the traffic and in several processes; keys that are
        there cost one GET, so it may be stopped and begun again. Blocks; one load after the other (``awarm``: as many
        at once as ``policy.loads``). Be ready for traffic when it has returned.

        Args:
            keys: hottest first.
            rate: keys a second, at most.
            progress: told after each batch how many are done.
        """
        return self._sync(self._checked(warm(self._space, self._sourced(), keys, rate, progress)))

    async def awarm(
        self, keys: Iterable[str], *, rate: float = 1000, progress: Callable[[int], None] | None = None
    ) -> int:
        """``warm`` for asyncio."""
        return await self._async(self._checked(warm(self._space, self._sourced(), keys, rate, progress)))

    def stats(self, *, limit: int = 100_000) -> CacheStats:
        """Count what the live epoch holds, by a scan of at most ``limit`` entries. Blocks for many round trips."""
        return self._sync(self._checked(count(self._space, limit)))

    async def astats(self, *, limit: int = 100_000) -> CacheStats:
        """``stats`` for asyncio."""
        return await self._async(self._checked(count(self._space, limit)))

    def lock(self, name: str, *, ttl: Duration = "30s", wait: Duration = "5s") -> Lock:
        """A lock over all processes, to be entered: ``with cache.lock("report") as lock: … lock.token``.

        For efficiency only: a holder that sleeps past ``ttl``, or a failover, lets another in. What must not be
        written by two has to check ``lock.token``, which grows from holder to holder. The work that is still going on
        after half of ``ttl`` calls ``extend``.

        Args:
            name: as a key of this cache; locks and entries do not share names.
            ttl: held at most so long, should the holder die.
            wait: for another to give it back; 0 = do not wait.

        Raises (on entering):
            LockTaken: another holds it, after ``wait``.
        """
        return Lock(self._space, name, ttl, wait, _Runner(self._connection))

    # Epochs and audit

    def live_epoch(self) -> int:
        """The epoch that processes without a fixed one read."""
        return self._sync(live_epoch(self._space))

    async def alive_epoch(self) -> int:
        """``live_epoch`` for asyncio."""
        return await self._async(live_epoch(self._space))

    def go_live(self) -> None:
        """Make the fixed epoch of this cache the live one; other processes follow within 5 s.

        Until the consumers have followed, readers of the new epoch may see versions that are older by as much.

        Raises:
            ViewNotReady: not every partition was marked ready in it.
            WrongEpoch: a later epoch is live.
        """
        self._sync(self._checked(go_live(self._space)))

    async def ago_live(self) -> None:
        """``go_live`` for asyncio."""
        await self._async(self._checked(go_live(self._space)))

    def drop_epoch(self, epoch: int) -> int:
        """Delete what a retired epoch has left, a page at a time; the number of names.

        Raises:
            UsageError: it is not retired.
        """
        return self._sync(self._checked(drop_epoch(self._space, epoch)))

    async def adrop_epoch(self, epoch: int) -> int:
        """``drop_epoch`` for asyncio."""
        return await self._async(self._checked(drop_epoch(self._space, epoch)))

    def auditor(self, *, share: float = 0.01, repair: bool = False) -> Auditor:
        """An auditor of a share of the keys; feed it change events, and pass it to ``audit`` now and then.

        Args:
            share: of the keys, more than 0, up to 1.
            repair: apply once more what is still wrong after 10 s.
        """
        return Auditor(self._space, share, Applier(self._space, self._continuity) if repair else None)

    def audit(self, auditor: Auditor) -> list[Violation]:
        """Look at what has come of age; what is wrong now. ``auditor.report()`` sums up."""
        return self._sync(self._checked(auditor.due()))

    async def aaudit(self, auditor: Auditor) -> list[Violation]:
        """``audit`` for asyncio."""
        return await self._async(self._checked(auditor.due()))

    def recall_snapshot(self) -> bytes | None:
        """What ``remember_snapshot`` was given last in this epoch; it is lost together with the entries."""
        return self._sync(self._snapshot(None))

    async def arecall_snapshot(self) -> bytes | None:
        """``recall_snapshot`` for asyncio."""
        return await self._async(self._snapshot(None))

    def remember_snapshot(self, data: bytes) -> None:
        """Keep beside the entries how far the snapshot of a table is; see ``TableView``."""
        self._sync(self._snapshot(data))

    async def aremember_snapshot(self, data: bytes) -> None:
        """``remember_snapshot`` for asyncio."""
        await self._async(self._snapshot(data))

    def _snapshot(self, data: bytes | None) -> Step[bytes | None]:
        if self._space.due():
            yield from self._space.look()
        name = self._space.snapshot
        found: bytes | None = yield Ask(("GET", name) if data is None else ("SET", name, data))
        return found

    def _sourced(self) -> SourceReads[Any]:
        """The reads of a cache; refused by a view."""
        raise NotImplementedError


class _Runner:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, step: Step[T]) -> T:
        return self._connection.driver.run(step)

    async def arun(self, step: Step[T]) -> T:
        return await self._connection.async_driver.run(step)
