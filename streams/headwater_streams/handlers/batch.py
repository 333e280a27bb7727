"""Batch handlers: one call for many records of one partition, in offset order, settled together.

Order is that of the partition, so nothing overtakes anything and no lane is needed. A batch that fails is tried again
in place, after the policy's delays; when these are used up its records are tried one by one, so that only those that
really fail become dead letters. The partition waits meanwhile: whoever cannot afford that uses a plain handler.
Dead letters that an operator sends back arrive through the group's retry topics as batches of their own, beside the
partition's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.clock import Clock
from headwater_schemas.errors import BadRecord, HeadwaterError, RecordTooLarge, Unavailable
from headwater_schemas.wire import Reason
from headwater_streams.handlers.ahead import Ahead, by_partition
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.emitter import Emitter, Outlet, Prepare
from headwater_streams.handlers.failure import header
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences
from headwater_streams.handlers.intake import take_new
from headwater_streams.handlers.lanes import NOWHERE, Origin, Record
from headwater_streams.handlers.message import Headers, Message
from headwater_streams.handlers.partition_tasks import PartitionTasks
from headwater_streams.handlers.policy import Die, HandlerTimeout, Later, decide
from headwater_streams.handlers.schemas import Schemas
from headwater_streams.handlers.settler import PartitionControl, Settler
from headwater_streams.handlers.spec import HandlerSpec
from headwater_streams.metrics import HandlerMetrics

__all__ = ["BatchRunner", "RecordBatch", "Rewind"]

logger = logging.getLogger(__name__)


class Rewind(Exception):
    """Raised by a batch handler: read these partitions again from here, whatever was settled. For followers of a log
    whose own store has lost what it had applied. A batch whose partition is not among them is given once more.

    Args:
        positions: the next offset to read, by partition. Partitions that are not ours are left alone.
        since: seconds since the epoch; if given, the partitions are read again from this time instead.
    """

    def __init__(self, positions: Mapping[TP, int], *, since: float | None = None) -> None:
        super().__init__(f"read again from {dict(positions)}" + (f", since {since}" if since is not None else ""))
        self.positions = positions
        self.since = since


class RecordBatch(Sequence[EventContext]):
    """Records of one partition, in offset order. ``values[i]`` belongs to ``batch[i]`` (key, headers, offset …).

    Attributes:
        tp: the partition of the handler's topic.
        values: the decoded values; ``None`` is a tombstone.
        redriven: these are dead letters that an operator sent back: a batch of their own, of offsets that this handler
            has passed long ago. Whoever keeps positions must not let such a batch move them.
    """

    __slots__ = ("_contexts", "_emitter", "_messages", "redriven", "tp", "values")

    def __init__(
        self, tp: TP, messages: list[Message], values: list[Any], emitter: Emitter, *, redriven: bool = False
    ) -> None:
        self.tp = tp
        self.values = values
        self.redriven = redriven
        self._messages = messages
        self._emitter = emitter
        self._contexts: dict[int, EventContext] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index if index >= 0 else len(self) + index
        context = self._contexts.get(position)
        if context is None:
            context = self._contexts[position] = EventContext(self._messages[position], self._emitter)
        return context

    @property
    def keys(self) -> list[str | None]:
        """The business keys, in order."""
        return [None if (key := m.key()) is None else key.decode("utf-8", "surrogateescape") for m in self._messages]

    @property
    def offsets(self) -> list[int]:
        """The offsets in the topic, in order; of a redriven batch in the order of their deaths."""
        if self.redriven:
            return [event.offset for event in self]
        return [message.offset() for message in self._messages]

    @property
    def timestamps(self) -> list[int]:
        """When each record was first written, in milliseconds since the epoch."""
        if self.redriven:
            return [round(event.timestamp * 1000) for event in self]
        return [message.timestamp()[1] for message in self._messages]

    def emit(self, topic: str, value: Any, *, key: str | bytes | None = None, headers: Headers | None = None) -> None:
        """Send an event whose delivery is part of the whole batch's settling; see ``EventContext.emit``."""
        self[0].emit(topic, value, key=key, headers=headers)

    def contexts(self) -> Iterator[EventContext]:
        """Those that somebody looked at: the ones that can have emitted."""
        return iter(self._contexts.values())


class BatchRunner:
    """Runs one batch handler on one topic's partitions that are ours; partitions run beside each other."""

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
        on_rewind: Callable[[Rewind], Awaitable[None]],
        admits: Callable[[int], bool] | None = None,
    ) -> None:
        self.spec = spec
        self.family = family
        self.topics = family.consumed
        self.metrics = metrics
        self._decode = decode
        self._schemas = schemas
        self._clock = clock
        self._on_rewind = on_rewind
        self._threads = None if spec.is_async else ThreadPoolExecutor(spec.concurrency, f"headwater-{spec.name}")
        self._emitter = Emitter(outlet, prepare, self._tell_settled, self._refused, admits)
        self._name = spec.name.encode()
        self._fences: dict[int, Fences] = {}
        self._settler = Settler(spec.name, family, outlet, control, clock, metrics, self._fences, lambda _: None)
        self._queues: dict[TP, deque[Message]] = {}
        self._positions: dict[TP, int] = {}
        self._running: dict[TP, list[Message]] = {}
        self._tasks = PartitionTasks(on_crash)
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._room = asyncio.Event()
        self._room.set()
        self._settled = asyncio.Event()

    def start(self) -> None:
        """Nothing to start: tasks live while there are records."""

    async def close(self) -> None:
        """Stop at once; what runs is cancelled and stays unsettled."""
        tasks = self._tasks.cancel_all()
        self._settler.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    @property
    def in_flight(self) -> int:
        """Records that are with the handler or wait for it."""
        return sum(map(len, self._queues.values())) + sum(map(len, self._running.values()))

    @property
    def fenced_keys(self) -> int:
        """None: a batch handler keeps order by waiting."""
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
        return bool(self._tasks or self._settler.moving or self._emitter.owing)

    def ring(self) -> None:
        """Nothing waits by a clock here."""

    def activate(self, partition: int, fences: Fences) -> None:
        """Accept records of this partition."""
        self._fences[partition] = fences

    async def drain(self, partitions: Collection[TP], limit: float) -> None:
        """Take nothing new of these partitions and finish what runs, for at most ``limit`` seconds."""
        for tp in partitions:
            queue = self._queues.pop(tp, None)
            if queue:
                self._positions[tp] = queue[0].offset()
        self._make_room()
        deadline = self._clock.monotonic() + limit
        gone = frozenset(partitions)
        while any(tp in gone for tp in self._running) or self._emitter.owes(gone):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                logger.warning("%s: a batch did not finish within %.1f s; it comes again", self.spec.name, limit)
                return
            self._settled.clear()
            try:
                await asyncio.wait_for(self._settled.wait(), left)
            except TimeoutError:
                continue

    def forget(self, partitions: Collection[TP]) -> None:
        """Drop every trace of these partitions; a batch of theirs that still runs is cancelled, unsettled."""
        gone = frozenset(partitions)
        for tp in gone:
            self._tasks.cancel(tp)
            self._queues.pop(tp, None)
            self._running.pop(tp, None)
            self._positions.pop(tp, None)
            self._fences.pop(tp.partition, None)
        self._settler.forget(gone)
        self._emitter.forget(gone)
        self._make_room()

    def feed(self, tp: TP, messages: list[Message]) -> None:
        """Take records of one partition. Returns at once; await ``room`` before the next."""
        messages = take_new(self.spec.name, tp, messages, self._positions, self._fences.get(tp.partition))
        if tp.topic == self.family.topic:
            self.metrics.consumed += len(messages)
        else:
            messages = [message for message in messages if self._is_redriven(message, tp)]
        if not messages:
            return
        self._queues.setdefault(tp, deque()).extend(messages)
        if self.in_flight >= self.spec.max_waiting:
            self._room.clear()
        self._tasks.ensure(tp, lambda: self._work(tp), f"{self.spec.name}-{tp.partition}")

    def _is_redriven(self, message: Message, tp: TP) -> bool:
        """Whether a record of a retry topic is ours. Batch handlers write none there, operators do; so did an earlier
        release in which this was a handler of single records."""
        if header(message.headers(), wire.HW_HANDLER) != self._name:
            return False
        if self._fences[tp.partition].is_stale(message, tp):
            self.metrics.stale_retries += 1
            return False
        return True

    def reset(self, tp: TP, offset: int) -> None:
        """The partition is read again from ``offset``."""
        self._queues.pop(tp, None)
        self._positions[tp] = offset
        self._make_room()

    async def room(self) -> None:
        """Wait until fewer than ``max_waiting`` records are in memory."""
        await self._room.wait()

    def _make_room(self) -> None:
        if self.in_flight < self.spec.max_waiting:
            self._room.set()

    # -- running --------------------------------------------------------------------------------------------------

    async def _work(self, tp: TP) -> None:
        while queue := self._queues.get(tp):
            async with self._slots:
                messages = [queue.popleft() for _ in range(min(len(queue), self.spec.max_records))]
                self._running[tp] = list(messages)
                try:
                    await self._settle(tp, messages)
                except Rewind as rewind:
                    # Forget first: what this batch and the queue hold is read again, from further back.
                    for going in rewind.positions:
                        self._queues.pop(going, None)
                    unsettled = self._running.pop(tp, [])
                    if tp not in rewind.positions:
                        self._queues.setdefault(tp, deque()).extendleft(reversed(unsettled))
                    await self._on_rewind(rewind)
                self._running.pop(tp, None)
            self._settled.set()
            self._make_room()
            await asyncio.sleep(0)

    async def _settle(self, tp: TP, messages: list[Message]) -> None:
        started = self._clock.time()
        for attempt in range(len(self.spec.retry.delays) + 1):
            readable, values = await self._read(tp, messages)
            error = await self._call(tp, readable, values)
            if error is None:
                return
            messages = readable
            logger.warning("%s: a batch of %d failed: %s", self.spec.name, len(readable), error)
            decision = decide(
                self.spec.retry,
                error,
                attempt=attempt,
                immediate=self.spec.retry.immediate,
                age=self._clock.time() - started,
            )
            if not isinstance(decision, Later):
                break
            await asyncio.sleep(decision.delay)
        await self._one_by_one(tp, messages)

    async def _one_by_one(self, tp: TP, messages: list[Message]) -> None:
        for message in messages:
            readable, values = await self._read(tp, [message])
            error = await self._call(tp, readable, values) if readable else None
            if error is None:
                self._settled_early(tp, message)
            else:
                decision = decide(self.spec.retry, error, attempt=len(self.spec.retry.delays), immediate=0, age=0)
                reason: Reason = decision.reason if isinstance(decision, Die) else "handler"
                await self._die(tp, message, error, reason)

    async def _die(self, tp: TP, message: Message, error: Exception, reason: Reason) -> None:
        """To the dead letters; whoever asked to be told is told first, however long an outage takes."""
        tell = self.spec.before_dead
        if tell is not None:
            await self._outlast(lambda: tell(EventContext(message, self._emitter)))
        await self._settler.die(self._record(tp, message), error, reason)
        self._settled_early(tp, message)

    def _settled_early(self, tp: TP, message: Message) -> None:
        """A record is settled and the rest of its batch is not."""
        running = self._running.get(tp)
        if running is not None and message in running:
            running.remove(message)

    async def _read(self, tp: TP, messages: list[Message]) -> tuple[list[Message], list[Any]]:
        """Decode; what cannot be read goes to the dead letters, and a registry that is down is waited for."""
        readable: list[Message] = []
        values: list[Any] = []
        for message in messages:
            value = message.value()
            try:
                if (missing := self._schemas.missing_schema(value)) is not None:
                    await self._outlast(partial(self._schemas.prefetch, [missing]))
                values.append(self._decode(value))
            except BadRecord as exc:
                reason: Reason = "schema" if type(exc).__name__ == "SchemaMismatch" else "decode"
                await self._die(tp, message, exc, reason)
            else:
                readable.append(message)
        return readable, values

    async def _outlast(self, call: Callable[[], Awaitable[None]]) -> None:
        """Call it until nothing is unavailable any more. Other errors pass."""
        delay = 0.05
        while True:
            try:
                return await call()
            except Unavailable as exc:
                logger.warning("%s waits, nothing is dead-lettered: %s", self.spec.name, exc)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def _call(self, tp: TP, messages: list[Message], values: list[Any]) -> Exception | None:
        """Give the batch to the handler, waiting out outages; the error it raised, if it did."""
        if not messages:
            return None
        delay = 0.05
        while True:
            redriven = tp.topic != self.family.topic
            of = TP(self.family.topic, tp.partition)
            batch = RecordBatch(of, messages, values, self._emitter, redriven=redriven)
            started = perf_counter()
            try:
                await self._within(batch)
                emitting = [event for event in batch.contexts() if event.unacked or event.refused]
                if emitting:
                    await self._emitter.settle_batch(emitting, tp)
            except Unavailable as exc:
                logger.warning("%s waits, nothing is dead-lettered: %s", self.spec.name, exc)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            except Rewind:
                raise
            except Exception as exc:
                return exc
            else:
                self.metrics.settled("done", len(messages))
                return None
            finally:
                self.metrics.observe(perf_counter() - started)

    async def _within(self, batch: RecordBatch) -> None:
        try:
            async with asyncio.timeout(self.spec.timeout):
                if self.spec.is_async:
                    await self.spec.function(batch)
                else:
                    await asyncio.get_running_loop().run_in_executor(self._threads, self.spec.function, batch)
        except TimeoutError as exc:
            raise HandlerTimeout(f"{self.spec.name} did not return within {self.spec.timeout} s") from exc

    def _record(self, tp: TP, message: Message) -> Record:
        origin = Origin.TOPIC if tp.topic == self.family.topic else Origin.TIER
        return Record(message, tp, NOWHERE, origin, first_failed_at=self._clock.time())

    def _refused(self, event: EventContext, tp: TP, error: HeadwaterError) -> None:
        reason: Reason = "too-large" if isinstance(error, RecordTooLarge) else "handler"
        self._settler.bury(self._record(tp, event.message), error, reason, self._tell_settled)

    def _tell_settled(self) -> None:
        self._settled.set()

    # -- committing -----------------------------------------------------------------------------------------------

    def read(self) -> Mapping[TP, int]:
        """The offset after the last record that was fed, by partition."""
        return self._positions

    def committable(self, partitions: Collection[TP] | None = None) -> dict[TP, int]:
        """The offset up to which every record of each partition is settled: the next one to read."""
        low = {tp: at for tp, at in self._positions.items() if partitions is None or tp in partitions}
        for tp, waiting in (*self._running.items(), *self._queues.items()):
            if waiting and tp in low:
                low[tp] = min(low[tp], waiting[0].offset())
        for tp, offset in (*self._settler.unsettled(), *self._emitter.unsettled()):
            if tp in low:
                low[tp] = min(low[tp], offset)
        return low

    def ahead(self, bases: Mapping[TP, int]) -> dict[TP, Ahead]:
        """What of these partitions is settled beyond their bases, which no unsettled record of ours is below."""
        high = {tp: at for tp, at in self._positions.items() if tp in bases}
        for tp, queue in self._queues.items():
            if queue and tp in high:
                high[tp] = min(high[tp], queue[0].offset())
        running = ((tp, message.offset()) for tp, messages in self._running.items() for message in messages)
        return by_partition(high, (*running, *self._settler.unsettled(), *self._emitter.unsettled()))
