"""The runner: takes batches of records, calls a handler with each, and knows which offsets are settled.

Shape: a few long-lived worker tasks pull records from the current batch. A record whose key is free runs at once,
inside the worker, without a task, a future or a queue entry of its own; a handler that never suspends lets one worker
run through the whole batch. When a handler does suspend, the next worker is woken and pulls on, up to ``concurrency``.
A record whose key is busy waits in that key's lane (see ``lanes``); what leaves the fast path goes on in ``attempts``.

Settling: nothing is written down for a record that runs and returns. Unsettled is what has not been pulled, plus what
lanes, heaps, parking and unacknowledged emits hold. The offset to commit is the lowest of these, found by looking at
them once per commit instead of at every record.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf
from time import perf_counter
from typing import Any

from faust.types import TP

from headwater_schemas.clock import Clock
from headwater_schemas.errors import HeadwaterError, RecordTooLarge
from headwater_schemas.wire import Reason
from headwater_streams.handlers.ahead import GAP, Ahead, by_partition
from headwater_streams.handlers.attempts import Attempts
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.dependency import Breaker, Dependencies
from headwater_streams.handlers.emitter import Emitter, Outlet, Prepare
from headwater_streams.handlers.failure import HOLDS
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences, original_offset
from headwater_streams.handlers.intake import take_new
from headwater_streams.handlers.lane_table import LaneTable
from headwater_streams.handlers.lanes import Lane, Origin, Record
from headwater_streams.handlers.message import Message
from headwater_streams.handlers.returns import Returns
from headwater_streams.handlers.schemas import Schemas
from headwater_streams.handlers.settler import PartitionControl, Settler
from headwater_streams.handlers.spec import HandlerSpec
from headwater_streams.handlers.worker import Worker, cancel_overdue
from headwater_streams.metrics import QUICK, HandlerMetrics

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

_KNOWN_PREFIXES = 10_000


class Runner:
    """Runs one handler on one topic's partitions that are ours. Every method belongs to the event loop's thread."""

    def __init__(
        self,
        spec: HandlerSpec,
        family: Family,
        *,
        decode: Callable[[bytes | None], Any],
        schemas: Schemas,
        outlet: Outlet,
        prepare: Prepare,
        control: PartitionControl,
        clock: Clock,
        metrics: HandlerMetrics,
        on_crash: Callable[[BaseException], None],
        breakers: dict[str, Breaker] | None = None,
        admits: Callable[[int], bool] | None = None,
    ) -> None:
        self.spec = spec
        self.family = family
        self.topics = family.consumed
        self.metrics = metrics
        self._decode = decode
        self._schemas = schemas
        self._clock = clock
        self._on_crash = on_crash
        self._emitter = Emitter(outlet, prepare, self._tell_settled, self._refused, admits)
        self._gap = None if admits is None else GAP
        self._fences: dict[int, Fences] = {}
        self._settler = Settler(
            spec.name,
            family,
            outlet,
            control,
            clock,
            metrics,
            self._fences,
            lambda _: self._tell_settled(),
            spec.dead_limit,
        )
        self._lanes = LaneTable(spec.ordered, self._settler.park, self._kick)
        self._returns = Returns(spec.name, family, control, clock, metrics, self._returned, self._hop)
        self._attempts = Attempts(
            spec,
            family,
            decode=decode,
            schemas=schemas,
            emitter=self._emitter,
            settler=self._settler,
            returns=self._returns,
            dependencies=Dependencies({} if breakers is None else breakers, clock, spec.depends_on, spec.retry.never),
            clock=clock,
            metrics=metrics,
            park_waiting=self._lanes.park_waiting,
        )

        self._tp = TP("", -1)
        self._batch: list[Message] = []
        self._pulling: Iterator[Message] = iter(self._batch)
        self._batches: deque[tuple[TP, list[Message]]] = deque()
        self._positions: dict[TP, int] = {}
        self._given_up: dict[TP, set[int]] = {}  # dropped one by one in a drain: unsettled, amidst what is settled
        self._known: set[bytes] = set()  # wire prefixes whose schema is at hand

        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._waking = False
        self._room = asyncio.Event()
        self._room.set()
        self._settled = asyncio.Event()
        self._closing = False
        self._watcher: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run what is fed."""
        if self.spec.timeout is not None and self.spec.is_async:
            self._watcher = asyncio.create_task(
                cancel_overdue(self._workers, self.spec.timeout), name=f"watch-{self.spec.name}"
            )

    async def close(self) -> None:
        """Stop at once: what runs is cancelled and stays unsettled. ``drain`` first for a graceful end."""
        self._closing = True
        tasks = [worker.task for worker in self._workers if worker.task is not None]
        if self._watcher is not None:
            tasks.append(self._watcher)
        self._returns.close()
        self._settler.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._attempts.close()

    @property
    def in_flight(self) -> int:
        """Records that are with the handler, wait in a lane, or are being parked."""
        return len(self._workers) - len(self._idle) + self._lanes.waiting + self._returns.held + self._settler.moving

    @property
    def fenced_keys(self) -> int:
        """Keys whose new records are parked because older ones are on Kafka."""
        return sum(1 for lane in self._lanes.full() if lane.fenced)

    @property
    def held_keys(self) -> int:
        """Keys that wait for an operator's decision on a dead letter."""
        return sum(1 for lane in self._lanes.full() if lane.hold is not None)

    @property
    def in_doubt(self) -> bool:
        """Whether a copy is sent whose record is not settled yet."""
        return self._settler.in_doubt > 0

    @property
    def busy(self) -> bool:
        """Whether something of it may still happen without a clock: a handler, a send, an acknowledgement."""
        waiting = len(self._settler.waits) + self._attempts.dependencies.waiting
        return len(self._workers) - len(self._idle) > waiting or bool(
            self._settler.moving or self._lanes.ready or self._emitter.owing
        )

    def ring(self) -> None:
        """Let go what waits for a time that is over by the clock; timers do it too, on the loop's own time."""
        self._returns.ring_all()
        self._settler.waits.ring()
        self._attempts.dependencies.ring()

    # -- partitions -----------------------------------------------------------------------------------------------

    def activate(self, partition: int, fences: Fences) -> None:
        """Accept records of this partition, of the topic and of its family; call it before feeding any."""
        self._fences[partition] = fences
        retrying = fences.retrying.get(self.spec.name, {})
        parked = fences.parked.get(self.spec.name, {})
        holds = fences.holds.get(self.spec.name, {})
        if self.spec.ordered:
            for key in retrying.keys() | parked.keys():
                lane = self._lanes.make(key, None, partition)
                lane.retrying = retrying.get(key, 0)
                lane.parked = parked.get(key, 0)
                lane.hold = holds.get(key)

    async def drain(self, partitions: Collection[TP], limit: float) -> None:
        """Take nothing new of these partitions and finish what runs, for at most ``limit`` seconds.

        Afterwards ``committable`` still knows them; call ``forget`` once its answer is taken.
        """
        gone = frozenset(partitions)
        self._drop_unstarted(gone)
        deadline = self._clock.monotonic() + limit
        while self._busy(gone):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                logger.warning(
                    "%s: records in flight did not finish within %.1f s; they come again", self.spec.name, limit
                )
                return
            self._settled.clear()
            try:
                await asyncio.wait_for(self._settled.wait(), left)
            except TimeoutError:
                continue

    def forget(self, partitions: Collection[TP]) -> None:
        """Drop every trace of these partitions. Handlers of theirs that still run are cancelled, unsettled."""
        gone = frozenset(partitions)
        numbers = {tp.partition for tp in gone}
        self._drop_unstarted(gone)
        for worker in [worker for worker in self._workers if worker.runs_for(gone)]:
            assert worker.task is not None
            self._workers.remove(worker)
            worker.task.cancel()
        self._lanes.forget(numbers)
        self._settler.forget(gone)
        self._emitter.forget(gone)
        self._returns.forget(gone)
        for tp in gone:
            self._given_up.pop(tp, None)
            self._positions.pop(tp, None)
            self._fences.pop(tp.partition, None)

    def _drop_unstarted(self, gone: frozenset[TP]) -> None:
        """Forget what is fetched and not begun: the next owner fetches it again, so commits end before it."""
        dropped = [(tp, messages[0].offset()) for tp, messages in self._batches if tp in gone]
        self._batches = deque(entry for entry in self._batches if entry[0] not in gone)
        if self._tp in gone:
            dropped += [(self._tp, message.offset()) for message in self._pulling]  # uses the shared iterator up
        for record in self._lanes.drop(gone):
            self._given_up.setdefault(record.tp, set()).add(record.offset)
        for tp, offset in dropped:
            self._positions[tp] = min(offset, self._positions.get(tp, offset))
        if not self._batches and not self._left():
            self._room.set()

    def _busy(self, partitions: frozenset[TP]) -> bool:
        running = any(worker.runs_for(partitions) for worker in self._workers)
        return running or self._settler.owes(partitions) or self._emitter.owes(partitions)

    # -- feeding --------------------------------------------------------------------------------------------------

    def feed(self, tp: TP, messages: list[Message]) -> None:
        """Take records of one partition, in offset order. Returns at once; await ``room`` before the next batch."""
        fences = self._fences.get(tp.partition)
        messages = take_new(self.spec.name, tp, messages, self._positions, fences)
        if fences is None or not messages:
            return
        if tp.topic == self.family.topic:
            self.metrics.consumed += len(messages)
            self._batches.append((tp, messages))
            self._room.clear()
            self._kick()
            return
        for message in messages:
            self._returns.take(message, tp, fences, self.spec.ordered)

    def reset(self, tp: TP, offset: int) -> None:
        """The partition is read again from ``offset``; what of it is in memory is dropped, what runs is not."""
        self._drop_unstarted(frozenset([tp]))
        self._given_up.pop(tp, None)
        self._positions[tp] = offset

    async def room(self) -> None:
        """Wait until every record that was fed has been begun or waits in a lane with room to spare."""
        await self._room.wait()

    # -- lanes ----------------------------------------------------------------------------------------------------

    def _returned(self, record: Record) -> None:
        """A record is back from a tier or the parking log, and due: it goes where its key is."""
        lane = record.lane = self._lanes.of(record.message, record.tp.partition)
        if record.origin is Origin.PARKED and (record.hold is not None or lane.hold is not None):
            of_the_hold = lane.hold is not None and original_offset(record.message) == lane.hold
            if of_the_hold and record.hold == HOLDS and lane.marker is None:
                lane.marker = record
                return
            if of_the_hold or record.hold is not None:  # a mark that is overtaken, or what died and holds the key
                self._settle(record)
                return
        (lane.held if record.origin is Origin.PARKED else lane.due).append(record)
        self._lanes.advance(lane)

    def _settle(self, record: Record) -> None:
        """The record is done where it was read from."""
        lane = record.lane
        lane.settle(record)
        if record.tp.topic != self.family.topic:
            self._returns.settled(record.tp)
        self._settled.set()
        self._lanes.advance(lane)

    def _tell_settled(self) -> None:
        self._settled.set()
        if self._gap is not None and self._batches:
            self._kick()  # the oldest may have been what held the next batch back

    # -- workers --------------------------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Have one more worker look for work, if one is free and none is on its way."""
        if self._waking:
            return
        if self._idle:
            worker = self._idle.pop()
            assert worker.wake is not None
            worker.wake.set_result(None)
        elif len(self._workers) < self.spec.concurrency and not self._closing:
            worker = Worker(self._attempts.dependencies)
            self._workers.append(worker)
            worker.task = asyncio.create_task(self._work(worker), name=f"{self.spec.name}-{len(self._workers)}")
            worker.task.add_done_callback(self._worker_ended)
        else:
            return
        self._waking = True

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        """A worker ends only by being cancelled. Anything else is a fault of ours: the process must not limp on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(error)

    async def _work(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        self._waking = False
        while True:
            while self._lanes.ready:
                record = self._lanes.ready.popleft()
                self._kick()
                await self._process(record, worker)
            if self._lanes.waiting < self.spec.max_waiting:
                if self._left():
                    await self._pull(worker)
                    continue
                if self._batches and not self._too_far():
                    self._tp, self._batch = self._batches.popleft()
                    self._pulling = iter(self._batch)
                    await asyncio.sleep(0)  # a handler that never suspends must not starve the loop
                    continue
                if not self._batches:
                    self._room.set()
            worker.wake = loop.create_future()
            self._idle.append(worker)
            await worker.wake
            self._waking = False

    def _too_far(self) -> bool:
        """Whether the next batch would run further ahead of the oldest unsettled record than a commit can tell."""
        if self._gap is None:
            return False
        tp, messages = self._batches[0]
        return messages[-1].offset() - self.committable([tp]).get(tp, 0) > self._gap

    def _left(self) -> int:
        """Records of the current batch that nobody has pulled."""
        return self._pulling.__length_hint__()  # type: ignore[attr-defined,no-any-return]  # a list iterator has it

    async def _pull(self, worker: Worker) -> None:
        """Run records of the current batch until it is used up, or a lane has something older to run."""
        pulling, tp = self._pulling, self._tp
        table, lanes, ready = self._lanes, self._lanes.by_key, self._lanes.ready
        emitter, decode, known = self._emitter, self._decode, self._known
        call, gated = self._attempts.call, self._attempts.gated
        ordered, takes_event, most = self.spec.ordered, self.spec.takes_event, self.spec.max_waiting
        metrics = self.metrics
        quick, quick_seconds = 0, 0.0  # most calls fall in the first bucket: those are counted here, all at once
        ended = perf_counter()
        for message in pulling:
            key: Any = message.key()
            if key is None or not ordered:
                table.serial = key = table.serial + 1
            else:
                lane = lanes.get(key)
                if lane is not None:
                    table.queue(message, tp, key, lane)
                    if table.waiting >= most:
                        break
                    continue
            lanes[key] = worker.message = message
            worker.started = ended
            if not self._waking:
                self._kick()
            value: Any = message.value()
            if gated or (value is not None and value[:5] not in known and not self._is_known(value)):
                await self._slow(message, key, worker, None)
                ended = perf_counter()
                continue
            try:
                if takes_event:
                    event = EventContext(message, emitter, 0, worker)
                    await call(decode(value), event)
                    if event.unacked or event.refused:
                        emitter.settle_after(event, tp)
                else:
                    await call(decode(value))
            except BaseException as error:
                await self._slow(message, key, worker, error)
            else:
                metrics.done += 1
                lane = lanes.pop(key, None)
                if lane is not message:
                    self._finish(key, lane, message)
            now = perf_counter()
            elapsed, ended = now - ended, now
            if elapsed <= QUICK:
                quick += 1
                quick_seconds += elapsed
            else:
                metrics.observe(elapsed)
            if ready:
                break
        worker.message = None
        worker.started = inf
        metrics.processing.add_quick(quick, quick_seconds)
        self._settled.set()

    def _is_known(self, value: bytes) -> bool:
        """Whether the value's schema is at hand (or will never be: then decoding says so)."""
        if self._schemas.missing_schema(value) is not None:
            return False
        if len(self._known) >= _KNOWN_PREFIXES:  # random bytes must not fill the memory
            self._known.clear()
        self._known.add(value[:5])
        return True

    def _finish(self, key: bytes | int, lane: Message | Lane | None, message: Message) -> None:
        """A record is done whose key got a lane while it ran; or whose partition left, then the key is not its own."""
        if lane is None:
            return
        self._lanes.by_key[key] = lane
        if isinstance(lane, Lane) and lane.running is not None and lane.running.message is message:
            self._settle(lane.running)

    async def _slow(self, message: Message, key: bytes | int, worker: Worker, error: BaseException | None) -> None:
        """Give a record of the fast path a lane, and go on with it there."""
        failure = None if error is None else self._attempts.failure_of(error, worker)
        lane = self._lanes.by_key.get(key)
        if lane is message:
            lane = self._lanes.make(key, message, message.partition())
        if isinstance(lane, Lane) and lane.running is not None and lane.running.message is message:
            await self._process(lane.running, worker, failure)

    async def _process(self, record: Record, worker: Worker, failure: Exception | None = None) -> None:
        """Try a record until it is settled: done, in a delay tier, or dead."""
        worker.message = record.message
        try:
            await self._attempts.run(record, worker, failure)
            self._settle(record)
        finally:
            worker.message = None

    def _hop(self, record: Record) -> None:
        """A tier's delay is over and the record's is not: on to the next tier. The key stays fenced by it."""

        def hopped() -> None:
            if self.spec.ordered and not record.counted and record.message.key() is not None:
                self._lanes.of(record.message, record.tp.partition).retrying += 1  # the copy will be counted
            self._returns.settled(record.tp)
            self._settled.set()

        self._settler.hop(record, hopped)

    def _refused(self, event: EventContext, tp: TP, error: HeadwaterError) -> None:
        """The broker refused for good what a record emitted after its handler had returned."""
        origin = Origin.TOPIC if tp.topic == self.family.topic else Origin.TIER
        self._lanes.serial += 1
        record = Record(event.message, tp, Lane(self._lanes.serial, tp.partition), origin)
        reason: Reason = "too-large" if isinstance(error, RecordTooLarge) else "handler"
        self._settler.bury(record, error, reason, self._tell_settled)

    # -- committing -----------------------------------------------------------------------------------------------

    def read(self) -> Mapping[TP, int]:
        """The offset after the last record that was fed, by partition."""
        return self._positions

    def committable(self, partitions: Collection[TP] | None = None) -> dict[TP, int]:
        """The offset up to which every record of each partition is settled: the next one to read."""
        low = {tp: at for tp, at in self._positions.items() if partitions is None or tp in partitions}
        for tp, offset in self._unsettled():
            if offset < low.get(tp, -1):
                low[tp] = offset
        return low

    def ahead(self, bases: Mapping[TP, int]) -> dict[TP, Ahead]:
        """What of these partitions is settled beyond their bases, which no unsettled record of ours is below."""
        high = {tp: at for tp, at in self._positions.items() if tp in bases}
        for tp, offset in self._unbegun():
            if tp in high:
                high[tp] = min(high[tp], offset)
        return by_partition(high, self._begun())

    def _unsettled(self) -> Iterator[tuple[TP, int]]:
        yield from self._unbegun()
        yield from self._begun()

    def _unbegun(self) -> Iterator[tuple[TP, int]]:
        """Where what is fetched and not begun starts; several times for a partition."""
        yield from ((tp, messages[0].offset()) for tp, messages in self._batches)
        left = self._left()
        if left:
            yield self._tp, self._batch[-left].offset()

    def _begun(self) -> Iterator[tuple[TP, int]]:
        """Each record that was begun and is not settled."""
        yield from ((tp, offset) for tp, offsets in self._given_up.items() for offset in offsets)
        yield from self._lanes.unsettled()
        yield from self._returns.unsettled()
        yield from self._settler.unsettled()
        yield from self._emitter.unsettled()
