"""One task per partition that has records, gone when it has none left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from faust.types import TP

__all__ = ["PartitionTasks"]


class PartitionTasks:
    """Belongs to one event loop.

    Args:
        on_crash: told of an error that ended a task.
        on_ended: called when a partition's task has ended and no other has begun.
    """

    __slots__ = ("_on_crash", "_on_ended", "_tasks")

    def __init__(self, on_crash: Callable[[BaseException], None], on_ended: Callable[[], None] = lambda: None) -> None:
        self._on_crash = on_crash
        self._on_ended = on_ended
        self._tasks: dict[TP, asyncio.Task[None]] = {}

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def of_any(self, partitions: Collection[TP]) -> bool:
        """Whether one of these partitions has a task."""
        return any(tp in partitions for tp in self._tasks)

    def ensure(self, tp: TP, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Begin ``work`` unless the partition's task will still see what has just been queued."""
        working = self._tasks.get(tp)
        if working is not None and not working.done():
            return  # one that is done saw an empty queue, and is only not taken down yet
        task = self._tasks[tp] = asyncio.create_task(work(), name=name)
        task.add_done_callback(lambda done: self._ended(done, tp))

    def cancel(self, tp: TP) -> None:
        """End the partition's task, if it has one."""
        task = self._tasks.pop(tp, None)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """End every task; gives them, to be awaited."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        return tasks

    def _ended(self, task: asyncio.Task[None], tp: TP) -> None:
        if self._tasks.get(tp) is task:
            del self._tasks[tp]
            self._on_ended()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(error)
