"""Records in retry topics whose handler this app does not have: it was renamed, removed, or is not released here yet.

Nobody would ever run them, so they become dead letters: visible, counted, redrivable to another handler by name. One
``Orphans`` per family stands beside the runners, reads what they read of tiers and parking log, and settles the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.clock import Clock
from headwater_schemas.errors import UsageError
from headwater_streams.handlers.ahead import Ahead
from headwater_streams.handlers.emitter import Outlet
from headwater_streams.handlers.failure import HOLD, header
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences
from headwater_streams.handlers.lanes import NOWHERE, Origin, Record
from headwater_streams.handlers.message import Message
from headwater_streams.handlers.partition_tasks import PartitionTasks
from headwater_streams.handlers.settler import PartitionControl, Settler
from headwater_streams.metrics import HandlerMetrics

__all__ = ["NOBODY", "Orphans", "UnknownHandler"]

logger = logging.getLogger(__name__)

NOBODY = "(unregistered)"
"""Stands for the handler in metrics, and in the letters of records that name none."""

_HELD = 2_000  # records of one partition that may wait in memory before it is paused


class UnknownHandler(UsageError):
    """A record waits for a handler that this app does not have. Redrive it to another: ``--to-handler NAME``."""


class Orphans:
    """Makes dead letters of the records of one family's retry topics that name none of ``handlers``.

    A rolling release shows the other side of it: a worker of the old release that receives a partition makes dead
    letters of what the new release's new handler put there. Add a handler in one release and use it in the next, or
    redrive.
    """

    def __init__(
        self,
        family: Family,
        handlers: Collection[str],
        *,
        outlet: Outlet,
        control: PartitionControl,
        clock: Clock,
        metrics: HandlerMetrics,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.family = family
        self.topics = family.consumed[1:]
        self.metrics = metrics
        self._names = frozenset(name.encode() for name in handlers)
        self._control = control
        self._fences: dict[int, Fences] = {}
        self._settler = Settler(NOBODY, family, outlet, control, clock, metrics, self._fences, lambda _: None)
        self._positions: dict[TP, int] = {}
        self._queues: dict[TP, deque[Record]] = {}
        self._dead: dict[TP, set[int]] = {}
        self._paused: set[TP] = set()
        self._settled = asyncio.Event()
        self._tasks = PartitionTasks(on_crash, self._settled.set)

    def start(self) -> None:
        """Nothing to start: tasks live while there are records."""

    async def close(self) -> None:
        """Stop at once; what is not acknowledged stays unsettled."""
        tasks = self._tasks.cancel_all()
        self._settler.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def in_flight(self) -> int:
        """Records that are not dead letters yet."""
        return sum(map(len, self._queues.values()))

    @property
    def fenced_keys(self) -> int:
        """None: a handler that is not there has no order."""
        return 0

    @property
    def held_keys(self) -> int:
        """None."""
        return 0

    @property
    def in_doubt(self) -> bool:
        """Whether a copy is sent whose record is not settled yet."""
        return self._settler.in_doubt > 0

    @property
    def busy(self) -> bool:
        """Whether something of it may still happen."""
        return bool(self._tasks)

    def ring(self) -> None:
        """Nothing waits by a clock here: a record without a handler need not wait to be due."""

    def activate(self, partition: int, fences: Fences) -> None:
        """Accept records of this partition."""
        self._fences[partition] = fences

    async def drain(self, partitions: Collection[TP], limit: float) -> None:
        """Take nothing new of these partitions and wait at most ``limit`` seconds for what is being sent."""
        gone = frozenset(partitions)
        for tp in gone:
            self._drop_unstarted(tp)
        try:
            async with asyncio.timeout(limit):
                while self._tasks.of_any(gone):
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            logger.warning("dead letters without a handler were not acknowledged within %.1f s; they come again", limit)

    def forget(self, partitions: Collection[TP]) -> None:
        """Drop every trace of these partitions."""
        for tp in partitions:
            self._tasks.cancel(tp)
            self._queues.pop(tp, None)
            self._positions.pop(tp, None)
            self._dead.pop(tp, None)
            self._fences.pop(tp.partition, None)
            self._paused.discard(tp)
        self._settler.forget(partitions)

    def reset(self, tp: TP, offset: int) -> None:
        """The partition is read again from ``offset``."""
        self._drop_unstarted(tp)
        self._positions[tp] = offset

    async def room(self) -> None:
        """Returns at once: a partition with too much of it is paused by itself."""

    def feed(self, tp: TP, messages: list[Message]) -> None:
        """Take records of one tier or parking partition, in offset order."""
        expected = self._positions.get(tp, 0)
        fences = self._fences.get(tp.partition)
        if fences is None:
            return  # the partition left on the way here
        done = fences.done_of(NOBODY, tp)
        for message in messages:
            if message.offset() < expected:  # fetched twice, around a pause
                continue
            if done is not None and message.offset() in done:
                continue
            name = header(message.headers(), wire.HW_HANDLER)
            if name in self._names or header(message.headers(), HOLD) is not None:  # a mark is no event
                continue
            # No assignment of ours writes such records, so a mark says: ours at activation, or a zombie's.
            if fences.is_stale(message, tp):
                self.metrics.stale_retries += 1
                continue
            self.metrics.consumed += 1
            self._queues.setdefault(tp, deque()).append(_orphan(message, tp))
        self._positions[tp] = max(expected, messages[-1].offset() + 1)
        queue = self._queues.get(tp)
        if queue:
            self._tasks.ensure(tp, lambda: self._work(tp, queue), f"orphans-{tp.topic}")
        if queue and len(queue) >= _HELD and tp not in self._paused:
            self._paused.add(tp)
            self._control.pause([tp])

    def _drop_unstarted(self, tp: TP) -> None:
        queue = self._queues.get(tp)
        while queue and len(queue) > 1:  # the first is being sent
            self._positions[tp] = queue.pop().offset

    async def _work(self, tp: TP, queue: deque[Record]) -> None:
        while queue:
            record = queue[0]
            await self._settler.die(record, self._error(record), "handler")
            self._dead.setdefault(tp, set()).add(queue.popleft().offset)
            if tp in self._paused and len(queue) <= _HELD // 2:
                self._paused.discard(tp)
                self._control.resume([tp])

    def _error(self, record: Record) -> UnknownHandler:
        name = header(record.message.headers(), wire.HW_HANDLER)
        if name is None:
            return UnknownHandler(f"the record names no handler; those of {self.family.topic} have others to run")
        return UnknownHandler(f"no handler {name.decode('utf-8', 'replace')} is registered on {self.family.topic}")

    # -- committing -----------------------------------------------------------------------------------------------

    def read(self) -> Mapping[TP, int]:
        """The offset after the last record that was fed, by partition."""
        return self._positions

    def committable(self, partitions: Collection[TP] | None = None) -> dict[TP, int]:
        """The offset up to which no record without a handler waits."""
        return {
            tp: queue[0].offset if (queue := self._queues.get(tp)) else at
            for tp, at in self._positions.items()
            if partitions is None or tp in partitions
        }

    def ahead(self, bases: Mapping[TP, int]) -> dict[TP, Ahead]:
        """What of these partitions became a dead letter beyond their bases. Nothing is said of other records: the next
        release may have no handler for them."""
        parts = {}
        for tp, base in bases.items():
            dead = self._dead[tp] = {offset for offset in self._dead.get(tp, ()) if offset >= base}
            if dead:
                high = max(dead) + 1
                parts[tp] = Ahead(high, (offset for offset in range(base, high) if offset not in dead))
        return parts


def _orphan(message: Message, tp: TP) -> Record:
    attempt = header(message.headers(), wire.HW_ATTEMPT) or b""
    first = header(message.headers(), wire.HW_FIRST_FAILED_AT)
    return Record(
        message,
        tp,
        NOWHERE,
        Origin.TIER,
        attempt=int(attempt) if attempt.isdigit() else 0,
        first_failed_at=None if first is None else _seconds(first),
    )


def _seconds(raw: bytes) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None
