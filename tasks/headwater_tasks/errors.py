"""Errors of the tasks package: leaves of ``headwater_schemas.errors``, and what a task's function raises."""

from __future__ import annotations

from headwater_schemas.errors import UsageError

__all__ = ["TaskConflict", "TaskFailed", "TaskNotFound", "TaskStopped"]


class TaskNotFound(UsageError):
    """There is no task of this id, or its state has been purged."""


class TaskConflict(UsageError):
    """The task is not in a state in which this can be done to it."""


class TaskFailed(Exception):
    """Raised by a task's function: the task has failed, and neither a retry nor a repair would help. It ends as FAILED,
    not as a dead letter."""


class TaskStopped(Exception):
    """Raised by ``TaskContext.check``: the task was cancelled, or its time is over. Let it pass."""
