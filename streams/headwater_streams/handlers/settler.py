"""Settling what did not simply succeed: retry, parking, dead letter. Everything here ends acknowledged on Kafka.

A record is settled where it was read from only after the copy that takes its place is acknowledged by every in-sync
replica. A topic that refuses the copy stops the partition, loudly, until it takes it: nothing is skipped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Protocol

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.clock import Clock
from headwater_schemas.errors import HeadwaterError, Overloaded
from headwater_streams.handlers.emitter import Outlet
from headwater_streams.handlers.failure import FENCE, HOLD, HOLDS, due_stamp, failure_headers, merge
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences
from headwater_streams.handlers.lanes import Origin, Record
from headwater_streams.handlers.limits import DeadLimit, FloodGuard
from headwater_streams.handlers.message import Headers
from headwater_streams.handlers.policy import HandlerTimeout
from headwater_streams.handlers.waits import Waits
from headwater_streams.metrics import HandlerMetrics

__all__ = ["PartitionControl", "Settler"]

logger = logging.getLogger(__name__)


class PartitionControl(Protocol):
    """Who can stop and restart the fetching of partitions."""

    def pause(self, partitions: Iterable[TP]) -> None: ...

    def resume(self, partitions: Iterable[TP]) -> None: ...


class Settler:
    """Moves the failed and the parked records of one handler on one topic.

    Args:
        fences: by partition; their epoch marks what the current assignment writes.
        on_parked: called when a parked record is acknowledged, hence settled.

    Attributes:
        waits: what of the handler waits for a time.
    """

    def __init__(
        self,
        handler: str,
        family: Family,
        outlet: Outlet,
        control: PartitionControl,
        clock: Clock,
        metrics: HandlerMetrics,
        fences: Mapping[int, Fences],
        on_parked: Callable[[Record], None],
        dead_limit: DeadLimit | None = None,
    ) -> None:
        self._handler = handler
        self._family = family
        self._outlet = outlet
        self._control = control
        self._clock = clock
        self.waits = Waits(clock)
        self._metrics = metrics
        self._fences = fences
        self._on_parked = on_parked
        self._flood = None if dead_limit is None else FloodGuard(dead_limit)
        self._parking: deque[Record] = deque()  # not handed over yet, in order
        self._moving: dict[Record, None] = {}  # parked, not acknowledged
        self._marks: dict[Record, asyncio.Future[None]] = {}  # of ``_moving``
        self._mover: asyncio.Task[None] | None = None
        self._errands: dict[asyncio.Task[None], TP] = {}
        self._stopped: set[TP] = set()
        self.in_doubt = (
            0  # copies sent whose record is not settled yet: it is in the step that sees the acknowledgement
        )

    # -- what may become of a record ------------------------------------------------------------------------------

    async def retry(self, record: Record, error: BaseException, delay: float) -> None:
        """To a delay tier, for ``delay`` seconds from now. Returns when it is there."""
        reason: wire.Reason = "timeout" if isinstance(error, HandlerTimeout) else "handler"
        added = self._provenance(record) | failure_headers(self._handler, reason, error)
        added[wire.HW_ATTEMPT] = str(record.attempt + 1).encode()
        added[wire.HW_DUE_AT] = due_stamp(self._clock.time() + delay)
        await self._publish(record, self._family.tier_for(delay), added)
        self._metrics.settled("retry")

    def hop(self, record: Record, done: Callable[[], None]) -> None:
        """To the next tier of a delay that is longer than one. Returns at once; ``done`` is called when it is there."""
        tier = self._family.tier_for(record.due - self._clock.time())
        self._errand(record, self._publish(record, tier, self._provenance(record)), done)

    async def die(self, record: Record, error: BaseException, reason: wire.Reason, *, holding: bool = False) -> None:
        """To the dead letters, value and headers as they came. Returns when it is there.

        When too many die, it first stops the partition for a while; see ``DeadLimit``. ``holding`` says on the letter
        that its key waits for it.
        """
        if self._flood is not None and self._flood.died(self._metrics.settled_by("done")):
            await self._hold_back(record, self._flood, error)
        added = self._provenance(record)
        added |= failure_headers(added[wire.HW_HANDLER].decode("utf-8", "replace"), reason, error)
        added[wire.HW_ATTEMPT] = str(record.attempt + 1).encode()
        if holding:
            added[HOLD] = HOLDS
        await self._publish(record, self._family.dead, added)
        self._metrics.failed(reason)
        self._metrics.settled("dead")
        where = f"{record.tp.topic}[{record.tp.partition}]@{record.offset}"
        logger.warning("%s: dead letter (%s) %s: %s", self._handler, reason, where, error)

    def mark(self, record: Record, word: bytes) -> asyncio.Future[None]:
        """Say in the parking log that the record holds its key, or holds it no longer; done when it is there.

        What is parked after this call stands behind it.
        """
        origin, first = record.origin, record.first_failed_at
        mark = Record(record.message, record.tp, record.lane, origin, first_failed_at=first, hold=word)
        told = self._marks[mark] = asyncio.get_running_loop().create_future()
        self.park(mark)
        return told

    async def _hold_back(self, record: Record, flood: FloodGuard, error: BaseException) -> None:
        tp = record.tp
        self._metrics.dead_floods += 1
        self._control.pause([tp])
        logger.error(
            "%s[%d] is stopped for %.0f s: too many records of %s die, the last of: %s",
            tp.topic, tp.partition, flood.pause, self._handler, error,
        )  # fmt: skip
        await self.waits.sleep(flood.pause)
        flood.reset(self._metrics.settled_by("done"))
        self._control.resume([tp])

    def bury(self, record: Record, error: BaseException, reason: wire.Reason, done: Callable[[], None]) -> None:
        """``die`` for a record whose handler has returned. Returns at once; ``done`` is called when it is there."""
        self._errand(record, self.die(record, error, reason), done)

    def park(self, record: Record) -> None:
        """Behind the older records of its key, on Kafka. Returns at once; ``on_parked`` tells when it is there."""
        record.lane.parked += 1
        self._metrics.parked += 1
        self._moving[record] = None
        self._parking.append(record)
        if self._mover is None or self._mover.done():
            self._mover = asyncio.ensure_future(self._move())

    # -- account --------------------------------------------------------------------------------------------------

    @property
    def moving(self) -> int:
        """Records being parked that are not acknowledged."""
        return len(self._moving)

    def owes(self, partitions: Iterable[TP]) -> bool:
        """Whether records of these partitions are being parked."""
        gone = frozenset(partitions)
        return any(record.tp in gone for record in self._moving)

    def unsettled(self) -> Iterator[tuple[TP, int]]:
        """Partition and offset of each record that is being parked."""
        return ((record.tp, record.offset) for record in self._moving)

    def forget(self, partitions: Iterable[TP]) -> None:
        """Stop caring about records of partitions that are no longer ours."""
        gone = frozenset(partitions)
        for record in [record for record in self._moving if record.tp in gone]:
            del self._moving[record]
            self._marks.pop(record, None)
        for errand in [errand for errand, tp in self._errands.items() if tp in gone]:
            errand.cancel()
        self._parking = deque(record for record in self._parking if record.tp not in gone)
        self._stopped -= gone

    def close(self) -> None:
        """Stop moving; what is not acknowledged stays unsettled."""
        if self._mover is not None:
            self._mover.cancel()
        for errand in self._errands:
            errand.cancel()

    def _errand(self, record: Record, work: Coroutine[Any, Any, None], done: Callable[[], None]) -> None:
        """Do ``work`` by the side; the record counts as unsettled until it is done."""

        async def run() -> None:
            await work
            if record in self._moving:
                del self._moving[record]
                done()

        self._moving[record] = None
        task = asyncio.ensure_future(run())
        self._errands[task] = record.tp
        task.add_done_callback(lambda done: self._errands.pop(done, None))

    # -- sending --------------------------------------------------------------------------------------------------

    async def _move(self) -> None:
        """Hand parked records over in order. The acknowledgements come back to ``_parked``."""
        while self._parking:
            record = self._parking[0]
            message = record.message
            added = self._provenance(record)
            if record.first_failed_at is None:
                del added[wire.HW_FIRST_FAILED_AT]
            if record.hold is not None:
                added[HOLD] = record.hold
            headers = merge(message.headers(), added)
            try:
                self._outlet.send(
                    self._family.parked,
                    message.value() if record.hold is None else None,
                    message.key(),
                    headers,
                    record.tp.partition,
                    lambda error, _, record=record: self._parked(error, record),  # type: ignore[misc]
                )
            except Overloaded:
                await asyncio.sleep(0.01)
            except HeadwaterError as exc:
                self._stop(record.tp, self._family.parked, exc)
                await asyncio.sleep(1.0)
            else:
                if self._parking and self._parking[0] is record:
                    self._parking.popleft()

    def _parked(self, error: HeadwaterError | None, record: Record) -> None:
        if record not in self._moving:
            return  # the partition left
        if error is None:
            del self._moving[record]
            self._go_on(record.tp, self._family.parked)
            if (told := self._marks.pop(record, None)) is not None and not told.done():
                told.set_result(None)
            self._on_parked(record)
            return
        self._stop(record.tp, self._family.parked, error)
        self._parking.append(record)
        if self._mover is None or self._mover.done():
            self._mover = asyncio.ensure_future(self._move())

    async def _publish(self, record: Record, topic: str, added: dict[str, bytes]) -> None:
        message = record.message
        headers: Headers = merge(message.headers(), added)
        delay = 0.1
        while True:
            acknowledged: asyncio.Future[HeadwaterError | None] = asyncio.get_running_loop().create_future()
            error: HeadwaterError | None
            sent = False
            try:
                self._outlet.send(
                    topic,
                    message.value(),
                    message.key(),
                    headers,
                    record.tp.partition,
                    lambda error, _, waiting=acknowledged: waiting.done() or waiting.set_result(error),  # type: ignore[misc]
                )
                self.in_doubt += 1
                sent = True
                error = await acknowledged
            except HeadwaterError as exc:
                error = exc
            finally:
                self.in_doubt -= sent
            if error is None:
                self._go_on(record.tp, topic)
                return
            if not isinstance(error, Overloaded):
                self._stop(record.tp, topic, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)

    def _stop(self, tp: TP, topic: str, error: HeadwaterError) -> None:
        if tp not in self._stopped:
            self._stopped.add(tp)
            self._metrics.stopped.add(tp)
            self._control.pause([tp])
            logger.error(
                "%s[%d] is stopped, nothing is skipped: %s cannot be written: %s", tp.topic, tp.partition, topic, error
            )

    def _go_on(self, tp: TP, topic: str) -> None:
        if tp in self._stopped:
            self._stopped.discard(tp)
            self._metrics.stopped.discard(tp)
            self._control.resume([tp])
            logger.warning("%s[%d] goes on: %s takes records again", tp.topic, tp.partition, topic)

    def _provenance(self, record: Record) -> dict[str, bytes]:
        """Where the record came from first. What an earlier hop wrote wins."""
        message = record.message
        added = {
            wire.HW_ORIGINAL_TOPIC: self._family.topic.encode(),
            wire.HW_ORIGINAL_PARTITION: str(record.tp.partition).encode(),
            wire.HW_ORIGINAL_OFFSET: str(record.offset).encode(),
            wire.HW_ORIGINAL_TIMESTAMP: str(message.timestamp()[1]).encode(),
            wire.HW_HANDLER: self._handler.encode(),
            wire.HW_FIRST_FAILED_AT: f"{record.first_failed_at or self._clock.time():.3f}".encode(),
        }
        if record.origin is not Origin.TOPIC:
            known = dict(message.headers() or ())
            added = {name: known.get(name, value) for name, value in added.items()}
            if record.first_failed_at is not None:
                added[wire.HW_FIRST_FAILED_AT] = f"{record.first_failed_at:.3f}".encode()
        added[wire.HW_GROUP] = self._family.group.encode()
        added[FENCE] = self._fences[record.tp.partition].epoch
        return added
