"""The tasks that run records, and the one sweep that ends what overruns its time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING

from faust.types import TP

from headwater_streams.handlers.message import Message, tp_of

if TYPE_CHECKING:
    from headwater_streams.handlers.dependency import Dependencies

__all__ = ["Worker", "cancel_overdue"]


class Worker:
    """A task that runs records.

    Args:
        dependencies: of the handler that it runs.

    Attributes:
        started: when the handler was called; ``inf`` while none runs.
        overdue: the handler is being cancelled because its time is over.
        hung: the dependency whose answer it waited for then.
    """

    __slots__ = ("dependencies", "hung", "message", "overdue", "started", "task", "wake")

    def __init__(self, dependencies: Dependencies) -> None:
        self.dependencies = dependencies
        self.task: asyncio.Task[None] | None = None
        self.wake: asyncio.Future[None] | None = None
        self.message: Message | None = None
        self.started = inf
        self.overdue = False
        self.hung: str | None = None

    def runs_for(self, partitions: Collection[TP]) -> bool:
        """Whether it is with a record of these."""
        return self.message is not None and tp_of(self.message) in partitions


async def cancel_overdue(workers: Collection[Worker], timeout: float) -> None:
    """Cancel handlers that run for more than ``timeout`` seconds, until cancelled itself.

    One sweep for all: a timer per record would cost more than the record. So one may run for a quarter longer.
    """
    while True:
        await asyncio.sleep(min(timeout / 4, 1.0))
        late = perf_counter() - timeout
        for worker in workers:
            if worker.started < late and worker.task is not None:
                worker.overdue = True
                worker.started = inf
                worker.task.cancel()
