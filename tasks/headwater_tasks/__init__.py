"""Headwater tasks: background work on the log, with state that survives restarts.

The nouns: a ``task`` is a function with a name; ``install`` lets a worker run it; a ``TaskClient`` submits tasks and
knows their states; ``TaskContext`` is what a running task is told.

What a worker needs (Faust, most of a second to import) is imported when it is first asked for, so that those who only
submit tasks do not pay for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from headwater_schemas.events import Task, TaskState
from headwater_tasks.client import TaskClient
from headwater_tasks.context import TaskContext
from headwater_tasks.errors import TaskConflict, TaskFailed, TaskNotFound, TaskStopped
from headwater_tasks.handle import TaskHandle, TaskPage
from headwater_tasks.history import Transition

if TYPE_CHECKING:
    from headwater_tasks.function import TaskFunction, task
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

_WORKERS = {"TaskFunction": "function", "install": "worker", "task": "function"}


def __getattr__(name: str) -> object:
    if name in _WORKERS:
        return getattr(import_module(f"headwater_tasks.{_WORKERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
