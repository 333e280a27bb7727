"""``TaskClient``: submit tasks, ask what has become of them, cancel and retry them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from headwater_cache import EntityCache, RedisSettings
from headwater_producers import Delivery, EventProducer, ProducerSettings
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import CacheUnavailable, InvalidValue, UsageError
from headwater_schemas.events import Task, TaskCancelRequested, TaskState, TaskSubmitted
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_tasks.changes import CONTROL, TASKS, TaskChanges, instant
from headwater_tasks.errors import TaskConflict, TaskNotFound
from headwater_tasks.handle import TaskHandle, TaskPage
from headwater_tasks.history import TaskHistory, Transition
from headwater_tasks.index import TaskIndex, check_cursor, place_id
from headwater_tasks.metrics import submitted as count_submitted
from headwater_tasks.names import check_type, task_id
from headwater_tasks.state import MAX_RUN, TERMINAL
from headwater_tasks.submissions import read_submission
from headwater_tasks.view import task_view

__all__ = ["TaskClient"]

_MOST: Final = 500


class TaskClient:
    """Submits tasks and knows their states. Make one per process and share it: threads and coroutines may all use it.

    States come from a view in Redis that a projection keeps equal to the log; it is some milliseconds behind. A task is
    in it as soon as its handle is accepted. Errors of everything that reads: ``CacheUnavailable`` (Redis does not
    answer in time), ``ViewNotReady`` (the task is absent, and the view has not caught up with its log yet).

    Everything that waits exists twice: ``get`` for threads, ``aget`` for asyncio.
    """

    def __init__(
        self,
        producer: EventProducer,
        changes: TaskChanges,
        view: EntityCache[Task],
        index: TaskIndex,
        history: TaskHistory,
        kafka: KafkaSettings,
        codec: Codec,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.producer = producer
        self.codec = codec
        self.max_record_bytes = kafka.max_record_bytes
        self._changes = changes
        self._view = view
        self._index = index
        self._history = history
        self._kafka = kafka
        self._clock = clock or SystemClock()

    @classmethod
    def from_env(cls, env: Environment | None = None, *, source: str = "tasks") -> TaskClient:
        """A client by the ``HEADWATER_*`` settings. Blocks for some registry requests; connects to nothing else yet.

        Args:
            source: the name of the submitting service: ``ce_source`` of its submissions.

        Raises:
            SettingError: a setting is unknown, malformed or missing.
            RegistryUnavailable: the registry does not answer.
        """
        env = env or Environment()
        codec = Codec.from_env(env)
        changes = TaskChanges(codec, source)
        redis = RedisSettings.from_env(env)
        producer = EventProducer(ProducerSettings.from_env(env), codec.catalogue, codec, source=source)
        producer.prepare(TASKS, CONTROL)
        kafka = KafkaSettings.from_env(env)
        return cls(producer, changes, task_view(env, changes), TaskIndex(redis), TaskHistory(redis), kafka, codec)

    # -- submitting -----------------------------------------------------------------------------------------------

    def submit(
        self,
        type: str,  # noqa: A002 - the field's name
        payload: Any = None,
        *,
        idempotency_key: str | None = None,
        delay: Duration | None = None,
        deadline: Duration | None = None,
    ) -> TaskHandle:
        """Queue a task for the log. Does not wait for Kafka: ``accepted()`` or ``await`` the handle for that.

        Args:
            type: which function runs it. Whether a worker has it is not looked at: a task that none has stays PENDING.
            payload: what the function is given: anything JSON can hold, msgspec structs and dataclasses included.
            idempotency_key: submissions of one type with the same key are one task, whoever makes them; a later one
                changes nothing, also when its payload is another.
            delay: not to be run before this long from now.
            deadline: not to be run, nor be running, after this long from now: then it is EXPIRED.

        Raises:
            InvalidValue: the payload cannot be written as JSON.
            RecordTooLarge: it is too large.
            UsageError: a type, key or duration that cannot be.
            Overloaded: the producer's queue is full.
        """
        now = self._clock.time()
        submitted = TaskSubmitted(
            id=task_id(check_type(type), idempotency_key),
            type=type,
            run=1,
            payload=_json(payload),
            submitted_at=instant(now),
            due_at=None if delay is None else instant(now + seconds(delay)),
            deadline=None if deadline is None else instant(now + seconds(deadline)),
            idempotency_key=idempotency_key,
        )
        return self._submit(submitted)

    def _submit(self, submitted: TaskSubmitted) -> TaskHandle:
        delivery = self.producer.emit(TASKS, submitted, key=submitted.id)
        count_submitted(submitted.type)
        return TaskHandle(self, submitted, delivery)

    def show(self, task: Task) -> None:
        """Put an accepted submission into the view ahead of the projection, so that its submitter finds it."""
        try:
            self._view.apply_many([self._changes.change(task)])
        except CacheUnavailable:
            return  # the log has it, and the projection brings it

    async def ashow(self, task: Task) -> None:
        """``show`` for asyncio."""
        try:
            await self._view.aapply_many([self._changes.change(task)])
        except CacheUnavailable:
            return

    # -- asking ---------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Task | None:  # noqa: A002
        """The task as it stands, or ``None``: there is none, or its state has been purged."""
        return self._view.get(id)

    async def aget(self, id: str) -> Task | None:  # noqa: A002
        """``get`` for asyncio."""
        return await self._view.aget(id)

    def list(
        self,
        *,
        state: TaskState | str | None = None,
        type: str | None = None,  # noqa: A002
        cursor: str | None = None,
        limit: int = 50,
    ) -> TaskPage:
        """Some tasks, newest submission first.

        The list comes from an index that may be some milliseconds behind the states; a task whose state has just moved
        on is left out, so a page may hold fewer than ``limit`` tasks and still have a cursor.

        Raises:
            UsageError: a state, type, cursor or limit that cannot be.
        """
        places = self._index.page(*_filters(state, type, cursor, limit))
        return _page(places, self._view.get_many([place_id(place) for place in places]), state, limit)

    async def alist(
        self,
        *,
        state: TaskState | str | None = None,
        type: str | None = None,  # noqa: A002
        cursor: str | None = None,
        limit: int = 50,
    ) -> TaskPage:
        """``list`` for asyncio."""
        places = await self._index.apage(*_filters(state, type, cursor, limit))
        return _page(places, await self._view.aget_many([place_id(place) for place in places]), state, limit)

    def history(self, id: str) -> Sequence[Transition]:  # noqa: A002
        """The states the task went through, oldest first, every attempt included, as far as Redis remembers them.

        Raises:
            TaskNotFound: there is none.
        """
        return self._history.of(_found(self.get(id), id))

    async def ahistory(self, id: str) -> Sequence[Transition]:  # noqa: A002
        """``history`` for asyncio."""
        return await self._history.aof(_found(await self.aget(id), id))

    def wait(self, id: str, timeout: Duration) -> Task:  # noqa: A002
        """Wait until the task has ended and give its last state. Asks Redis now and then. Blocks.

        Raises:
            TimeoutError: it has not ended in time.
        """
        deadline = self._clock.monotonic() + seconds(timeout)
        for pause in _pauses():
            task = self.get(id)
            if task is not None and task.state in TERMINAL:
                return task
            if self._clock.monotonic() + pause > deadline:
                raise TimeoutError(f"task {id} has not ended in {timeout}")
            time.sleep(pause)
        raise AssertionError("unreachable")

    async def await_end(self, id: str, timeout: Duration) -> Task:  # noqa: A002
        """``wait`` for asyncio."""
        deadline = self._clock.monotonic() + seconds(timeout)
        for pause in _pauses():
            task = await self.aget(id)
            if task is not None and task.state in TERMINAL:
                return task
            if self._clock.monotonic() + pause > deadline:
                raise TimeoutError(f"task {id} has not ended in {timeout}")
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    # -- changing -------------------------------------------------------------------------------------------------

    def cancel(self, id: str, *, reason: str | None = None) -> Task:  # noqa: A002
        """Ask for a task to be cancelled. Returns the task as it stood when the request was on the log.

        A waiting task becomes CANCELLED within moments and is skipped when its turn comes; a running one is stopped
        where it waits, or when it looks (``ctx.cancelled``), and may end first. Nothing is promised of a task that is
        taken up while the request is under way, but that it ends once. Blocks until the request is on the log.

        Raises:
            TaskNotFound: there is none.
            TaskConflict: it has ended otherwise. One that is CANCELLED already is no error.
            BrokerUnavailable: Kafka did not take the request in time.
        """
        task = _found(self.get(id), id)
        if _cancellable(task):
            self._request_cancel(task, reason).result(None)
        return task

    async def acancel(self, id: str, *, reason: str | None = None) -> Task:  # noqa: A002
        """``cancel`` for asyncio."""
        task = _found(await self.aget(id), id)
        if _cancellable(task):
            await self._request_cancel(task, reason)
        return task

    def _request_cancel(self, task: Task, reason: str | None) -> Delivery:
        if reason is not None and len(reason) > 500:
            raise UsageError(f"a reason of {len(reason)} characters: pass at most 500")
        request = TaskCancelRequested(id=task.id, run=task.run, requested_at=instant(self._clock.time()), reason=reason)
        return self.producer.emit(CONTROL, request, key=task.id)

    def retry(self, id: str) -> TaskHandle:  # noqa: A002
        """Run a task again that FAILED, is DEAD, CANCELLED or EXPIRED: the same submission, without delay or deadline.

        The submission is read from the log, where it stays for the retention of the topic ``tasks``. Blocks.

        Raises:
            TaskNotFound: there is none, or its submission is no longer on the log: submit it anew.
            TaskConflict: it has not ended, or it SUCCEEDED.
            BrokerUnavailable: the log cannot be read.
        """
        task = _found(self.get(id), id)
        return self._submit(self._next_run(task)).accepted()

    async def aretry(self, id: str) -> TaskHandle:  # noqa: A002
        """``retry`` for asyncio."""
        task = _found(await self.aget(id), id)
        return await self._submit(await asyncio.to_thread(self._next_run, task))

    def _next_run(self, task: Task) -> TaskSubmitted:
        if task.state not in TERMINAL or task.state is TaskState.SUCCEEDED:
            raise TaskConflict(
                f"task {task.id} is {task.state}: only FAILED, DEAD, CANCELLED and EXPIRED ones run again"
            )
        if task.run == MAX_RUN:
            raise TaskConflict(f"task {task.id} has run {MAX_RUN} times: submit it anew")
        submission = read_submission(self._kafka, self.codec, task)
        return msgspec.structs.replace(
            submission, run=task.run + 1, submitted_at=instant(self._clock.time()), due_at=None, deadline=None
        )

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait until what was submitted is on the log, and let go of connections.

        Raises:
            BrokerUnavailable: some of it was given up.
        """
        try:
            self.producer.close()
        finally:
            self._view.close()
            self._index.close()
            self._history.close()
            self.codec.close()

    async def aclose(self) -> None:
        """``close`` for asyncio; also closes the connections of the running loop."""
        for part in (self._view, self._index, self._history):
            await part.aclose()
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _pauses() -> Iterator[float]:
    """Seconds between looks: often at first, then four times a second."""
    pause = 0.005
    while True:
        yield pause
        pause = min(pause * 1.5, 0.25)


def _json(payload: Any) -> bytes:
    try:
        return msgspec.json.encode(payload)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidValue(f"the payload cannot be written as JSON: {exc}", field="payload") from exc


def _found(task: Task | None, id_: str) -> Task:
    if task is None:
        raise TaskNotFound(f"there is no task {id_}")
    return task


def _cancellable(task: Task) -> bool:
    if task.state in TERMINAL and task.state is not TaskState.CANCELLED:
        raise TaskConflict(f"task {task.id} is {task.state} already")
    return task.state not in TERMINAL


def _filters(
    state: TaskState | str | None, type_: str | None, cursor: str | None, limit: int
) -> tuple[list[str] | None, list[TaskState], str | None, int]:
    if not 1 <= limit <= _MOST:
        raise UsageError(f"limit={limit}: pass 1 to {_MOST}")
    try:
        states = list(TaskState) if state is None else [TaskState(state)]
    except ValueError:
        raise UsageError(f"state={state!r}: pass one of {', '.join(TaskState)}") from None
    types = None if type_ is None else [check_type(type_)]
    return types, states, None if cursor is None else check_cursor(cursor), limit


def _page(places: Sequence[str], tasks: dict[str, Task], state: TaskState | str | None, limit: int) -> TaskPage:
    found = [tasks[id_] for id_ in map(place_id, places) if id_ in tasks]
    kept = [task for task in found if state is None or task.state == state]
    return TaskPage(kept, places[-1] if len(places) == limit else None)
