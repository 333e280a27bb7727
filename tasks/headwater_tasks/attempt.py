"""An attempt that is under way, and the small questions about the record it came from."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from headwater_schemas.events import Task, TaskSubmitted
from headwater_schemas.wire import HW_REDRIVE_COUNT
from headwater_streams import DeadLetter, EventContext, RetryLater
from headwater_tasks.changes import TASKS
from headwater_tasks.context import TaskContext
from headwater_tasks.function import TaskFunction

__all__ = ["Attempt", "acknowledged", "dead", "described", "origin"]


class Attempt:
    """An attempt that is under way."""

    __slots__ = ("context", "event", "function", "shown", "started", "task")

    def __init__(self, task: Task, function: TaskFunction[..., Any], event: EventContext, started: float) -> None:
        self.task = task
        self.function = function
        self.event = event
        self.started = started
        self.shown = False
        self.context = TaskContext(task, task.attempt)


def origin(submitted: TaskSubmitted, event: EventContext) -> tuple[TaskSubmitted, int, int]:
    """The submission and where it stands. A redriven dead letter is a run of its own, above the one that died."""
    message = event.message
    if message.topic() == TASKS:
        return submitted, message.partition(), message.offset()
    redriven = int(event.headers.get(HW_REDRIVE_COUNT, b"0"))
    if redriven:
        submitted = msgspec.structs.replace(submitted, run=submitted.run + redriven)
    return submitted, event.partition, event.offset


async def acknowledged(event: EventContext) -> None:
    """Wait until what was emitted is on the log. Settling does that for a handler that returns; one that raises must
    see to it itself, or a crash could leave the dead letter there and the state behind it."""
    while event.unacked and event.refused is None:  # noqa: ASYNC110 - the engine tells only its own settling
        await asyncio.sleep(0.001)


def described(error: BaseException) -> str:
    if isinstance(error, (DeadLetter, RetryLater)) and error.__cause__ is not None:
        return f"{error}"[:1000]
    return f"{type(error).__name__}: {error}"[:1000]


def dead(message: str, cause: Exception | None = None) -> DeadLetter:
    error = DeadLetter(message)
    error.__cause__ = cause
    return error
