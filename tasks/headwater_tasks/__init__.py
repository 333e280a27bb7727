"""Headwater tasks: background work on the log, with state that survives restarts.

The nouns: a ``task`` is a function with a name; ``install`` lets a worker run it; a ``TaskClient`` submits tasks and
knows their states; ``TaskContext`` is what a running task is told.
"""

from headwater_schemas.events import Task, TaskState
from headwater_tasks.client import TaskClient, TaskHandle, TaskPage
from headwater_tasks.context import TaskContext
from headwater_tasks.errors import TaskConflict, TaskFailed, TaskNotFound, TaskStopped
from headwater_tasks.function import TaskFunction, task
from headwater_tasks.history import Transition
from headwater_tasks.worker import install

__all__ = [
    "Task",
    "TaskClient",
    "TaskConflict",
    "TaskContext",
    "TaskFailed",
    "TaskFunction",
    "TaskHandle",
    "TaskNotFound",
    "TaskPage",
    "TaskState",
    "TaskStopped",
    "Transition",
    "install",
    "task",
]
