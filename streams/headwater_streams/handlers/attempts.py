"""Attempts: the handler is called with one record until it is settled, and the policy decides after each failure.

This is the way of records that left the runner's fast path: those that failed, waited, came back, or must ask the rate
limit or a breaker first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from time import perf_counter
from typing import Any

from headwater_schemas.clock import Clock
from headwater_schemas.errors import BadRecord
from headwater_schemas.wire import Reason
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.dependency import Dependencies, DependencyDown
from headwater_streams.handlers.emitter import Emitter
from headwater_streams.handlers.failure import HOLDS, RELEASES
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import original_offset
from headwater_streams.handlers.lanes import Lane, Origin, Record
from headwater_streams.handlers.limits import TokenBucket
from headwater_streams.handlers.policy import Again, HandlerTimeout, Later, Pause, decide
from headwater_streams.handlers.returns import Returns
from headwater_streams.handlers.schemas import Schemas
from headwater_streams.handlers.settler import Settler
from headwater_streams.handlers.spec import HandlerSpec
from headwater_streams.handlers.worker import Worker
from headwater_streams.metrics import HandlerMetrics

__all__ = ["Attempts"]

logger = logging.getLogger(__name__)


class Attempts:
    """Calls one handler and deals with what it raises.

    Args:
        park_waiting: called with a lane that is fenced now: what waits in memory goes to the parking log.

    Attributes:
        call: the handler, as a coroutine function, also where it is a plain one.
        gated: whether each record must ask first (``gate``).
    """

    def __init__(
        self,
        spec: HandlerSpec,
        family: Family,
        *,
        decode: Callable[[bytes | None], Any],
        schemas: Schemas,
        emitter: Emitter,
        settler: Settler,
        returns: Returns,
        dependencies: Dependencies,
        clock: Clock,
        metrics: HandlerMetrics,
        park_waiting: Callable[[Lane], None],
    ) -> None:
        self._spec = spec
        self._family = family
        self._decode = decode
        self._schemas = schemas
        self._emitter = emitter
        self._settler = settler
        self._returns = returns
        self._clock = clock
        self._metrics = metrics
        self._park_waiting = park_waiting
        self._threads = None if spec.is_async else ThreadPoolExecutor(spec.concurrency, f"headwater-{spec.name}")
        self._bucket = None if spec.rate is None else TokenBucket(spec.rate, clock)
        self.dependencies = dependencies
        self.call = spec.function if spec.is_async else self._in_thread
        self.gated = self._bucket is not None or bool(spec.depends_on)

    def close(self) -> None:
        """Start no more threads. Those that run cannot be stopped."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def run(self, record: Record, worker: Worker, failure: Exception | None = None) -> None:
        """Try a record until it is settled: done, in a delay tier, or dead.

        Args:
            failure: what its first call raised, if that was made on the fast path.
        """
        if failure is None:
            failure = await self._attempt(record, worker)
        while failure is not None:
            failure = await self._fail(record, failure, worker)

    async def _attempt(self, record: Record, worker: Worker) -> Exception | None:
        """Call the handler once; the error it raised, if it did."""
        if record.hold == RELEASES:
            await self._release(record)
            return None
        if self.gated:
            await self._gate()
        started = worker.started = perf_counter()
        value: Any = record.message.value()
        try:
            if (missing := self._schemas.missing_schema(value)) is not None:
                await self._schemas.prefetch([missing])
            event = EventContext(record.message, self._emitter, record.attempt, worker)
            decoded = self._decode(value)
            await (self.call(decoded, event) if self._spec.takes_event else self.call(decoded))
            if record.lane.hold is not None:
                await self._release(record)
            if event.unacked or event.refused:
                self._emitter.settle_after(event, record.tp)
        except BaseException as error:
            return self.dependencies.translate(self.failure_of(error, worker))
        finally:
            worker.started = inf
            self._metrics.observe(perf_counter() - started)
        self._metrics.settled("done")
        if self.gated:
            self.dependencies.succeeded()
        return None

    async def _gate(self) -> None:
        """Wait for the rate limit and for what the handler depends on. The record keeps its lane meanwhile."""
        if self._bucket is not None:
            await self._bucket.take()
        await self.dependencies.enter()

    def failure_of(self, error: BaseException, worker: Worker) -> Exception:
        """The record's failure. What is none of its business (the worker is cancelled) is raised on."""
        worker.started = inf
        if isinstance(error, asyncio.CancelledError) and worker.overdue and worker.task is not None:
            worker.overdue = False
            worker.task.uncancel()
            late = HandlerTimeout(f"{self._spec.name} did not return within {self._spec.timeout} s")
            hung, worker.hung = worker.hung, None
            return late if hung is None else DependencyDown(hung, late)
        if not isinstance(error, Exception):
            raise error
        return error

    async def _in_thread(self, *args: Any) -> Any:
        """Run a synchronous handler off the loop. A thread cannot be stopped: a time-out is found afterwards."""
        assert self._threads is not None
        started = perf_counter()
        result = await asyncio.get_running_loop().run_in_executor(self._threads, self._spec.function, *args)
        if self._spec.timeout is not None and perf_counter() - started > self._spec.timeout:
            raise HandlerTimeout(f"{self._spec.name} took longer than {self._spec.timeout} s")
        return result

    async def _fail(self, record: Record, error: Exception, worker: Worker) -> Exception | None:
        """Do with a failed record what the policy says; the next error if it was tried again in place."""
        now = self._clock.time()
        first = record.first_failed_at or now
        decision = decide(
            self._spec.retry,
            error,
            attempt=record.attempt,
            immediate=record.immediate,
            age=now - first,
            unreadable=isinstance(error, BadRecord) and not self._reads(record),
        )
        if isinstance(decision, Pause):
            await self._outage(record, error)
            return await self._attempt(record, worker)
        record.first_failed_at = first
        if isinstance(decision, Again):
            record.immediate += 1
            return await self._attempt(record, worker)
        if isinstance(decision, Later) and self._family.tiers:
            await self._settler.retry(record, error, decision.delay)
            self._fence(record.lane)
            return None
        holding = self._spec.on_dead == "hold" and isinstance(record.lane.key, bytes)
        reason: Reason = "handler" if isinstance(decision, Later) else decision.reason
        await self._settler.die(record, error, reason, holding=holding)
        if holding and record.lane.hold is None:
            await self._hold(record)
        return None

    def _reads(self, record: Record) -> bool:
        """Whether the record can be decoded: then a ``BadRecord`` was raised by the handler, about something else.

        Found by decoding again, which fails alike and costs nothing while records can be read.
        """
        try:
            self._decode(record.message.value())
        except BadRecord:
            return False
        return True

    async def _hold(self, record: Record) -> None:
        """The record is dead and its key must not go on: say so where a restart finds it."""
        lane = record.lane
        lane.hold = record.offset if record.origin is Origin.TOPIC else original_offset(record.message)
        told = self._settler.mark(record, HOLDS)
        self._park_waiting(lane)
        await told

    async def _release(self, record: Record) -> None:
        """The record that held its key is done, or given up by an operator: what waits behind it may run."""
        lane = record.lane
        if lane.hold is None or original_offset(record.message) != lane.hold:
            return
        await self._settler.mark(record, RELEASES)
        lane.hold = None
        marker, lane.marker = lane.marker, None
        if marker is not None:
            lane.settle(marker)
            self._returns.settled(marker.tp)

    def _fence(self, lane: Lane) -> None:
        """A record of the key is in a tier now. Only now may newer ones be parked: after a crash before the
        acknowledgement, one of them in the parking log would stand ahead of it."""
        if isinstance(lane.key, bytes):
            lane.retrying += 1
            self._park_waiting(lane)

    async def _outage(self, record: Record, error: Exception) -> None:
        """Wait while something we depend on is away. The record keeps its lane; nothing is dead-lettered."""
        record.outages += 1
        if record.outages == 1 or record.outages % 20 == 0:
            logger.warning("%s waits, nothing is dead-lettered: %s", self._spec.name, error)
        await self._settler.waits.sleep(min(0.05 * 2 ** min(record.outages, 7), 5.0))
