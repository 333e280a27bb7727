"""What a task's function is told about its task, and what it can tell back."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Literal

from headwater_schemas.errors import UsageError
from headwater_schemas.events import Task
from headwater_tasks.errors import TaskStopped

__all__ = ["StopReason", "TaskContext"]

StopReason = Literal["cancelled", "timeout", "expired"]


class TaskContext:
    """One attempt of one task. All of it may be used from any thread.

    Attributes:
        id: the task's; the same in every attempt and every repetition: deduplicate effects by it.
        type: its type.
        attempt: which attempt this is, from 1.
        run: 1, then one more for each retry by hand.
        deadline: when its time is over, if ever.
        idempotency_key: the submitter's, if there is one.
    """

    __slots__ = (
        "_cancelling",
        "_job",
        "_noticed",
        "_reported",
        "_stop",
        "_stop_message",
        "attempt",
        "deadline",
        "id",
        "idempotency_key",
        "run",
        "type",
    )

    def __init__(self, task: Task, attempt: int) -> None:
        self.id = task.id
        self.type = task.type
        self.run = task.run
        self.attempt = attempt
        self.deadline: datetime | None = task.deadline
        self.idempotency_key = task.idempotency_key
        self._reported: tuple[float | None, str | None] | None = None
        self._stop: StopReason | None = None
        self._stop_message: str | None = None
        self._noticed = False
        self._job: asyncio.Task[object] | None = None
        self._cancelling = 0

    def progress(self, fraction: float | None, message: str | None = None) -> None:
        """Tell how far the task is. Returns at once; the last word within about 50 ms is what readers see.

        Args:
            fraction: 0 to 1; ``None`` if that cannot be said.
            message: for people, at most 500 characters.

        Raises:
            UsageError: a fraction out of range.
        """
        if fraction is not None and not 0 <= fraction <= 1:
            raise UsageError(f"progress of {fraction}: pass a fraction from 0 to 1, or None")
        self._reported = fraction, None if message is None else message[:500]

    @property
    def cancelled(self) -> bool:
        """Whether the task should stop: it was cancelled, or its timeout or deadline is over.

        A coroutine need not look: it is cancelled where it waits. A function in a thread should look now and then and
        return. A function that has seen ``True`` ends as CANCELLED (or as its timeout wants), whatever it returns.
        """
        if self._stop is None:
            return False
        self._noticed = True
        return True

    def check(self) -> None:
        """Raise ``TaskStopped`` if the task should stop."""
        if self.cancelled:
            raise TaskStopped(f"task {self.id}: {self._stop}")

    # -- the worker's side ----------------------------------------------------------------------------------------

    def bind(self, job: asyncio.Task[object] | None) -> None:
        """The asyncio task that runs a coroutine function; ``stop`` cancels it."""
        self._job = job
        self._cancelling = 0 if job is None else job.cancelling()

    def stop(self, reason: StopReason, message: str | None = None) -> None:
        """Ask the function to stop. The first reason counts. Belongs to the event loop's thread."""
        if self._stop is not None:
            return
        self._stop, self._stop_message = reason, message
        if self._job is not None:
            self._job.cancel()

    def release(self) -> bool:
        """The function has ended. Says whether a ``CancelledError`` that came out of it was of ``stop`` alone."""
        job, self._job = self._job, None
        if job is None or self._stop is None:
            return False
        self._noticed = True
        return job.uncancel() <= self._cancelling

    @property
    def stopped(self) -> StopReason | None:
        """Why the attempt, now ended, counts as stopped. A thread that never looked was not cancelled."""
        return self._stop if self._noticed or self._stop != "cancelled" else None

    def take_report(self) -> tuple[float | None, str | None] | None:
        """What ``progress`` was told since the last call."""
        reported, self._reported = self._reported, None
        return reported

    @property
    def stop_message(self) -> str | None:
        """What was said with ``stop``."""
        return self._stop_message
