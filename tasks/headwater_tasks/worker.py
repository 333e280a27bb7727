"""The worker: runs submitted tasks as a handler of a ``StreamApp``, and says on the log what becomes of them.

    app = StreamApp("billing")
    install(app, render, remind)

What is promised comes from the handler underneath: at least once, retries through delay tiers, dead letters, offsets
committed after the fact. Two things are the worker's own:

* A task's states are emitted through the record's context, so a task counts as settled only when its last state is
  acknowledged. A crash repeats the task, never loses it.
* RUNNING is written once the function has run for 50 ms, or at the next word of progress after that. A quicker task
  goes from PENDING to its end in one write, which tells when it started; a reader may never see it RUNNING.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from headwater_cache import EntityCache
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import HeadwaterError, Overloaded, UsageError
from headwater_schemas.events import Task, TaskCancelRequested, TaskSubmitted
from headwater_schemas.settings import KafkaSettings
from headwater_streams import DeadLetter, EventContext, HandlerTimeout, Retry, RetryLater, StreamApp
from headwater_streams.handlers.policy import Again, Die, Later, Pause, decide
from headwater_tasks.attempt import Attempt, acknowledged, dead, described, origin
from headwater_tasks.cancellations import Cancellations, LoggedCancellations
from headwater_tasks.changes import CHANGES, CONTROL, TASKS, TaskChanges, instant
from headwater_tasks.counters import TaskMetrics
from headwater_tasks.errors import TaskFailed
from headwater_tasks.function import TaskFunction
from headwater_tasks.state import (
    TERMINAL,
    Cancelled,
    Died,
    Event,
    Expired,
    Failed,
    Progressed,
    Retrying,
    Started,
    Succeeded,
    advance,
    begun,
    pending,
)
from headwater_tasks.view import task_view

__all__ = ["TaskWorker", "install"]

logger = logging.getLogger(__name__)

SHOWN_AFTER: Final = 0.05
"""Seconds after which a running task is said to be RUNNING, and between two looks at progress and time limits."""

RESULT_BYTES: Final = 256 * 1024
"""Largest result, as JSON. What is larger belongs in a store of its own, its address in the result."""

_REMEMBERED: Final = 100_000


def install(
    app: StreamApp,
    *functions: TaskFunction[..., Any],
    concurrency: int = 100,
    tiers: Sequence[Duration] = ("1s", "10s", "1m", "10m", "1h"),
    cancellations: Cancellations | None = None,
    view: EntityCache[Task] | None = None,
) -> TaskWorker:
    """Let ``app`` run these tasks. Call it before the app starts.

    A type belongs to one app: two apps (consumer groups) that install it would both run each task.

    Args:
        concurrency: tasks in flight at a time, per worker; as many threads for functions that are not coroutines.
        tiers: delays that get a topic of their own besides those of the tasks' retries; a submission's ``delay`` goes
            through as many of them as it takes, the last of it is waited for in memory.
        cancellations, view: other than those of the app's settings, for tests.

    Raises:
        UsageError: no function, or two of one type.
    """
    worker = TaskWorker(app, functions, concurrency, cancellations, view)
    delays = {delay for function in functions for delay in function.retry.delays} | {seconds(tier) for tier in tiers}
    app.handler(TASKS, name="tasks", retry=Retry(*sorted(delays)), concurrency=concurrency)(worker.handle)
    app.handler(CONTROL, name="task-cancel", retry=Retry(immediate=3), concurrency=10)(worker.cancel)
    app.task(worker.watch)
    return worker


class TaskWorker:
    """The tasks of one app. Belongs to its event loop's thread."""

    def __init__(
        self,
        app: StreamApp,
        functions: Sequence[TaskFunction[..., Any]],
        concurrency: int,
        cancellations: Cancellations | None,
        view: EntityCache[Task] | None,
    ) -> None:
        if not functions:
            raise UsageError("install(app, …) needs at least one task: a function decorated with @task(…)")
        self._functions = {function.type: function for function in functions}
        if len(self._functions) < len(functions):
            raise UsageError("two tasks have one type: give one of them another name")
        self._app = app
        self._clock = app.clock
        self._name = f"{app.conf.id}@{socket.gethostname()}"
        self._cancellations = cancellations
        self._view = view
        self._changes: TaskChanges | None = None
        self._preparing = asyncio.Lock()
        self._running: dict[str, Attempt] = {}
        self._over: OrderedDict[str, int] = OrderedDict()
        self._threads = ThreadPoolExecutor(concurrency, "headwater-task")
        self.metrics = TaskMetrics.shared()

    # -- one submission -------------------------------------------------------------------------------------------

    async def handle(self, submitted: TaskSubmitted, event: EventContext) -> None:
        """Do with a submission what there is to be done; the handler of the topic ``tasks``."""
        function = self._functions.get(submitted.type)
        if function is None:
            return  # another app's
        if self._changes is None:
            await self._prepare()
        submitted, partition, offset = origin(submitted, event)
        if self._over.get(submitted.id, 0) >= submitted.run:
            return
        # Only what has an idempotency key is looked up: an id of its own comes twice only after a crash.
        if submitted.idempotency_key is not None and await self._has_ended(submitted):
            return
        now = self._clock.time()
        assert self._cancellations is not None
        cancel = self._cancellations.of(submitted.id, submitted.run)
        if cancel is not None:
            self._end(pending(submitted, partition, offset), Cancelled(instant(now), cancel.reason), event)
        elif submitted.deadline is not None and now >= submitted.deadline.timestamp():
            self._end(pending(submitted, partition, offset), Expired(instant(now)), event)
        elif submitted.due_at is not None and event.attempt == 0:
            # A submission with a delay is put off exactly once, so its attempts are counted from there.
            due = submitted.due_at.timestamp()
            raise RetryLater(max(0.0, due - now), f"task {submitted.id} is due at {submitted.due_at}")
        else:
            await self._attempt(function, submitted, (partition, offset), now, event)

    async def _prepare(self) -> None:
        """Ask the registry and read the cancellations, once, off the loop.

        Raises:
            Unavailable: the registry or the log does not answer; the handler waits and tries again.
        """
        async with self._preparing:
            if self._cancellations is None:
                codec = self._app.codec
                self._cancellations = LoggedCancellations(KafkaSettings.from_env(self._app.env), codec)
            await self._cancellations.caught_up()
            if self._changes is None:
                self._changes = await asyncio.to_thread(TaskChanges, self._app.codec, self._app.conf.id)
                await asyncio.to_thread(self._app.codec.encoder, CHANGES)

    async def _has_ended(self, submitted: TaskSubmitted) -> bool:
        """Whether this run has, as far as the view knows. A repetition after a crash is run again (at least once)."""
        known = await self._states().aget(submitted.id)
        return known is not None and known.run >= submitted.run and known.state in TERMINAL

    def _states(self) -> EntityCache[Task]:
        if self._view is None:
            assert self._changes is not None
            self._view = task_view(self._app.env, self._changes)
        return self._view

    # -- one attempt ----------------------------------------------------------------------------------------------

    async def _attempt(
        self,
        function: TaskFunction[..., Any],
        submitted: TaskSubmitted,
        place: tuple[int, int],
        now: float,
        event: EventContext,
    ) -> None:
        number = event.attempt + (1 if submitted.due_at is None else 0)
        due = (submitted.due_at or submitted.submitted_at).timestamp()
        counters = self.metrics.of(submitted.type)
        counters.queued.observe(max(0.0, now - due))
        immediate = 0
        while True:
            task = begun(submitted, *place, Started(instant(now), number, self._name))
            attempt = Attempt(task, function, event, now)
            self._running[submitted.id] = attempt
            try:
                result, error = await self._call(attempt, submitted.payload)
            finally:
                del self._running[submitted.id]
            ended = self._clock.time()
            counters.ran.observe(max(0.0, ended - now))
            how, error = self._verdict(attempt, result, error, ended)
            if how is not None:
                self._end(attempt.task, how, event)
                return
            assert error is not None
            decision = decide(function.retry, error, attempt=number - 1, immediate=immediate, age=ended - due)
            match decision:
                case Again():
                    immediate += 1
                    now = ended
                case Pause():
                    raise error
                case Later(delay):
                    await self._put_off(attempt.task, error, delay, event)
                case Die():
                    await self._die(attempt.task, error, event)

    async def _call(self, attempt: Attempt, payload: bytes) -> tuple[Any, Exception | None]:
        """Call the function: what it returned or raised."""
        function, context = attempt.function, attempt.context
        result: Any = None
        error: Exception | None = None
        try:
            arguments = [function.payload(payload)]
            if function.takes_context:
                arguments.append(context)
            if function.is_async:
                context.bind(asyncio.current_task())
                result = await function.function(*arguments)
            else:
                result = await asyncio.get_running_loop().run_in_executor(self._threads, function.function, *arguments)
        except asyncio.CancelledError:
            if not context.release():
                raise
        except Exception as exc:
            error = exc
        context.release()
        return result, error

    def _verdict(
        self, attempt: Attempt, result: Any, error: Exception | None, ended: float
    ) -> tuple[Event | None, Exception | None]:
        """How the task ends by what its function did, or the error that decides about a retry."""
        now = instant(ended)
        match attempt.context.stopped:
            case "cancelled":
                return Cancelled(now, attempt.context.stop_message), None
            case "expired":
                return Expired(now), None
            case "timeout":
                return None, HandlerTimeout(f"task {attempt.task.type} did not end within {attempt.function.timeout} s")
        if isinstance(error, TaskFailed):
            return Failed(now, described(error)), None
        if error is not None:
            return None, error
        try:
            encoded = None if result is None else msgspec.json.encode(result)
        except (TypeError, OverflowError, ValueError) as exc:
            return None, dead(f"the result cannot be written as JSON: {exc}", exc)
        if encoded is not None and len(encoded) > RESULT_BYTES:
            return None, dead(f"the result has {len(encoded)} bytes, more than {RESULT_BYTES}: store it elsewhere")
        return Succeeded(now, encoded), None

    # -- what becomes of it ---------------------------------------------------------------------------------------

    def _end(self, task: Task, how: Event, event: EventContext) -> None:
        ended = advance(task, how)
        self._emit(ended, how.at, event)
        finished = self.metrics.of(ended.type).finished
        finished[ended.state] = finished.get(ended.state, 0) + 1
        self._over[ended.id] = ended.run
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    async def _put_off(self, task: Task, error: Exception, delay: float, event: EventContext) -> None:
        now = self._now()
        self._emit(advance(task, Retrying(now, now + timedelta(seconds=delay), described(error))), now, event)
        await acknowledged(event)
        raise RetryLater(delay, described(error)) from error

    async def _die(self, task: Task, error: Exception, event: EventContext) -> None:
        self._end(task, Died(self._now(), described(error)), event)
        await acknowledged(event)
        if isinstance(error, DeadLetter):
            raise error
        raise DeadLetter(described(error)) from error

    def _emit(self, task: Task, at: datetime, event: EventContext) -> None:
        assert self._changes is not None
        event.emit(CHANGES, self._changes.event(task, at), key=task.id)

    def _now(self) -> datetime:
        return instant(self._clock.time())

    # -- cancelling -----------------------------------------------------------------------------------------------

    async def cancel(self, request: TaskCancelRequested, event: EventContext) -> None:
        """Act on a cancellation at once where that can be done; the handler of the topic ``task.control``.

        Control and submissions have as many partitions, so this worker is the one that has the task's submission too:
        it runs here, or waits. A waiting one is said to be CANCELLED now, and skipped when its turn comes.
        """
        if self._changes is None:
            await self._prepare()
        assert self._cancellations is not None
        self._cancellations.add(request)
        if self._stop_running(request):
            return
        task = await self._states().aget(request.id)
        # Meanwhile it may have been taken up; then it is stopped as a running one.
        if self._stop_running(request) or task is None or task.type not in self._functions:
            return
        if task.run == request.run and task.state in ("PENDING", "RETRY_WAIT"):
            self._end(task, Cancelled(self._now(), request.reason), event)

    def _stop_running(self, request: TaskCancelRequested) -> bool:
        attempt = self._running.get(request.id)
        if attempt is None or attempt.task.run > request.run:
            return False
        attempt.context.stop("cancelled", request.reason)
        return True

    # -- watching -------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at what runs, until the app cancels this: one look for all instead of a timer for each."""
        try:
            while True:
                await asyncio.sleep(SHOWN_AFTER)
                self.look()
        finally:
            self._threads.shutdown(wait=False)
            if self._cancellations is not None:
                await asyncio.to_thread(self._cancellations.close)
            if self._view is not None:
                await self._view.aclose()

    def look(self) -> None:
        """Say what is RUNNING and how far it is; stop what is over its time."""
        now = self._clock.time()
        for attempt in list(self._running.values()):
            if attempt.function.timeout is not None and now - attempt.started > attempt.function.timeout:
                attempt.context.stop("timeout")
            elif attempt.context.deadline is not None and now >= attempt.context.deadline.timestamp():
                attempt.context.stop("expired")
            if now - attempt.started >= SHOWN_AFTER:
                self._show(attempt, now)

    def _show(self, attempt: Attempt, now: float) -> None:
        report = attempt.context.take_report()
        if attempt.shown and report is None:
            return
        if report is not None:
            attempt.task = advance(attempt.task, Progressed(instant(now), *report))
        try:
            self._emit(attempt.task, instant(now), attempt.event)
            attempt.shown = True
        except Overloaded:
            return  # said at the next look
        except HeadwaterError:
            logger.exception("the state of task %s cannot be said", attempt.task.id)
