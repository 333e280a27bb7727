"""What may become of a task: one pure transition function over the states of ``contracts/Task.avsc``.

    PENDING ──> RUNNING ──> SUCCEEDED
       │         │  ▲  ├──> FAILED       the function says that it failed: nothing to repair, nothing to retry
       │         ▼  │  ├──> DEAD         given up: the submission is in the dead letters, to be repaired and redriven
       │      RETRY_WAIT ├─> CANCELLED   somebody asked for it
       │         │       └─> EXPIRED     its deadline passed
       └─────────┴─────────> any of the terminal five; RUNNING may go unwritten (see ``worker``)

The terminal states stay. Only a new *run* leaves them: a retry by hand, which starts at PENDING again.

Every state has a version, a number that grows with each transition of a task and is the same whoever computes it, so
that repeated and late writes are told from news without asking anybody.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from headwater_schemas.errors import UsageError
from headwater_schemas.events import Task, TaskState, TaskSubmitted

__all__ = [
    "MAX_RUN",
    "TERMINAL",
    "Cancelled",
    "Died",
    "Event",
    "Expired",
    "Failed",
    "IllegalTransition",
    "Progressed",
    "Retrying",
    "Started",
    "Succeeded",
    "advance",
    "begun",
    "pending",
    "purge_version",
    "version",
]

TERMINAL: Final = frozenset(
    {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.DEAD, TaskState.CANCELLED, TaskState.EXPIRED}
)

MAX_RUN: Final = 2**12 - 1
_ATTEMPT_BITS: Final = 15
_STEP_BITS: Final = 36
_LAST_ATTEMPT: Final = 2**_ATTEMPT_BITS - 1
_LAST_STEP: Final = 2**_STEP_BITS - 1
"""Steps are milliseconds since the submission: more than two years of them."""


class IllegalTransition(UsageError):
    """A task cannot go from its state by this event."""


class Started(msgspec.Struct, frozen=True, gc=False):
    """An attempt begins. ``attempt`` counts from 1; the same one begins again after a crash."""

    at: datetime
    attempt: int
    worker: str


class Progressed(msgspec.Struct, frozen=True, gc=False):
    """The function tells how far it is: 0 to 1, and a word about it."""

    at: datetime
    progress: float | None
    message: str | None


class Retrying(msgspec.Struct, frozen=True, gc=False):
    """The attempt failed and there will be another at ``due_at``."""

    at: datetime
    due_at: datetime
    error: str


class Succeeded(msgspec.Struct, frozen=True, gc=False):
    """The function returned; ``result`` is JSON."""

    at: datetime
    result: bytes | None


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The function said that it failed for good."""

    at: datetime
    error: str


class Died(msgspec.Struct, frozen=True, gc=False):
    """Retries are used up, or the submission is poison: it goes to the dead letters."""

    at: datetime
    error: str


class Cancelled(msgspec.Struct, frozen=True, gc=False):
    """Somebody asked for it before the task had ended."""

    at: datetime
    reason: str | None


class Expired(msgspec.Struct, frozen=True, gc=False):
    """The deadline passed before the task had ended."""

    at: datetime


Event = Started | Progressed | Retrying | Succeeded | Failed | Died | Cancelled | Expired


def pending(submitted: TaskSubmitted, partition: int, offset: int) -> Task:
    """The state that a submission puts a task in; where it stands on the log is part of it."""
    return Task(
        id=submitted.id,
        type=submitted.type,
        state=TaskState.PENDING,
        run=submitted.run,
        attempt=0,
        step=0,
        partition=partition,
        offset=offset,
        submitted_at=submitted.submitted_at,
        due_at=submitted.due_at,
        deadline=submitted.deadline,
        idempotency_key=submitted.idempotency_key,
    )


def begun(submitted: TaskSubmitted, partition: int, offset: int, started: Started) -> Task:
    """``advance(pending(submitted, …), started)`` in one step: most tasks go this way, and copies cost."""
    elapsed = int((started.at - submitted.submitted_at).total_seconds() * 1000)
    return Task(
        id=submitted.id,
        type=submitted.type,
        state=TaskState.RUNNING,
        run=submitted.run,
        attempt=started.attempt,
        step=min(max(elapsed, 1), _LAST_STEP - 1),
        partition=partition,
        offset=offset,
        submitted_at=submitted.submitted_at,
        deadline=submitted.deadline,
        started_at=started.at,
        idempotency_key=submitted.idempotency_key,
        worker=started.worker,
    )


def advance(task: Task, event: Event) -> Task:
    """The task after ``event``. Pure.

    Raises:
        IllegalTransition: the task has ended, or the event belongs to a running attempt and there is none.
    """
    if task.state in TERMINAL:
        raise IllegalTransition(f"task {task.id} is {task.state}: nothing but a retry by hand leaves that")
    match event:
        case Started(at, attempt, worker):
            first = task.attempt + 1 if task.state is TaskState.RETRY_WAIT else task.attempt
            if not first <= attempt < _LAST_ATTEMPT:
                raise IllegalTransition(f"task {task.id} is at attempt {task.attempt}: {attempt} cannot begin")
            return replace(
                task,
                state=TaskState.RUNNING,
                attempt=attempt,
                step=_next_step(task, at, same=attempt == task.attempt),
                due_at=None,
                started_at=at,
                progress=None,
                message=None,
                worker=worker,
            )
        case Progressed(at, progress, message):
            _must_run(task, event)
            return replace(task, step=_next_step(task, at), progress=progress, message=message)
        case Retrying(at, due_at, error):
            _must_run(task, event)
            return replace(task, state=TaskState.RETRY_WAIT, due_at=due_at, finished_at=at, error=error)
        case Succeeded(at, result):
            _must_run(task, event)
            return replace(task, state=TaskState.SUCCEEDED, finished_at=at, result=result, progress=1.0, error=None)
        case Failed(at, error):
            _must_run(task, event)
            return replace(task, state=TaskState.FAILED, finished_at=at, error=error)
        case Died(at, error):
            return replace(task, state=TaskState.DEAD, finished_at=at, error=error)
        case Cancelled(at, reason):
            return replace(task, state=TaskState.CANCELLED, finished_at=at, due_at=None, message=reason)
        case Expired(at):
            return replace(task, state=TaskState.EXPIRED, finished_at=at, due_at=None)


def version(task: Task) -> int:
    """Orders the states of a task: run, then attempt, then what happened in it. Below 2^63.

    All terminal states of a run have one version, the highest of the run: whichever is applied first stays, so two
    writers that do not know of each other (a cancellation and a success, a worker and the one that took over from it)
    cannot change a task that has ended.
    """
    if task.state in TERMINAL:
        attempt, step = _LAST_ATTEMPT, 0
    else:
        attempt, step = task.attempt, _LAST_STEP if task.state is TaskState.RETRY_WAIT else task.step
    return ((task.run << _ATTEMPT_BITS | attempt) << _STEP_BITS) | step


def purge_version(task: Task) -> int:
    """The version of the deletion of a task that has ended: above everything of its run, below a later one."""
    return version(task) + 1


def _must_run(task: Task, event: Event) -> None:
    if task.state is not TaskState.RUNNING:
        raise IllegalTransition(f"task {task.id} is {task.state}, not RUNNING: no {type(event).__name__} of it")


def _next_step(task: Task, at: datetime, *, same: bool = True) -> int:
    """Milliseconds since the submission, and more than before: an attempt that is run again after a crash goes on
    above what the first try had written, without having read it."""
    elapsed = int((at - task.submitted_at).total_seconds() * 1000)
    before = task.step if same else 0
    return min(max(elapsed, before + 1, 1), _LAST_STEP - 1)
