"""A worker of tasks on the in-memory log, and a view that is read off that log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue
from headwater_schemas.clock import ManualClock
from headwater_schemas.codec import Codec
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.events import Task
from headwater_schemas.registry import LocalRegistry
from headwater_streams import StreamApp
from headwater_streams.testing import StreamKit
from headwater_tasks import TaskFunction, install
from headwater_tasks.cancellations import KnownCancellations
from headwater_tasks.changes import CHANGES, CONTROL, TASKS, TaskChanges, instant
from headwater_tasks.names import task_id
from headwater_tasks.state import version


class LogView:
    """What the projection would hold: of each task the state of the highest version on the log."""

    def __init__(self, changes: TaskChanges) -> None:
        self.kit: StreamKit | None = None
        self._changes = changes

    async def aget(self, id_: str) -> Task | None:
        states = self.states(id_)
        return max(states, key=version) if states else None

    async def aclose(self) -> None:
        return

    def states(self, id_: str) -> list[Task]:
        """Everything that was said about a task, in the order of the log."""
        assert self.kit is not None
        events = [event for event in self.kit.values(CHANGES) if event["key"] == id_]
        assert all(event["version"] == version(self._decode(event)) for event in events)
        return [self._decode(event) for event in events]

    def _decode(self, event: dict[str, Any]) -> Task:
        return self._changes.decode(event["schema_id"], event["value"])


class Bench:
    """A running worker."""

    def __init__(self, kit: StreamKit, view: LogView, worker: Any, cancellations: KnownCancellations) -> None:
        self.kit = kit
        self.view = view
        self.worker = worker
        self.cancellations = cancellations

    def submit(
        self,
        type_: str,
        payload: bytes = b"null",
        *,
        key: str | None = None,
        run: int = 1,
        id_: str | None = None,
        delay: Duration | None = None,
        deadline: Duration | None = None,
    ) -> str:
        """Put a submission on the log."""
        now = instant(self.kit.clock.time())
        number = len(self.kit.records(TASKS))
        made = id_ or (f"task-{number}" if key is None else task_id(type_, key))
        submission = {
            "id": made,
            "type": type_,
            "run": run,
            "payload": payload,
            "submitted_at": now,
            "due_at": None if delay is None else now + timedelta(seconds=seconds(delay)),
            "deadline": None if deadline is None else now + timedelta(seconds=seconds(deadline)),
            "idempotency_key": key,
        }
        self.kit.send(TASKS, submission, key=made)
        return made

    def cancel(self, id_: str, *, run: int = 1, reason: str | None = None) -> None:
        """Put a cancellation on the log."""
        now = instant(self.kit.clock.time())
        self.kit.send(CONTROL, {"id": id_, "run": run, "requested_at": now, "reason": reason}, key=id_)

    def states(self, id_: str) -> list[str]:
        """The names of the states that were said of a task."""
        return [str(task.state) for task in self.view.states(id_)]

    def last(self, id_: str) -> Task:
        """The state that a reader sees."""
        return max(self.view.states(id_), key=version)

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """Let everything come to rest beside the block, which brings about what is waited for."""
        rest = asyncio.create_task(self.kit.settle())
        yield
        await rest


@asynccontextmanager
async def bench(*functions: TaskFunction[..., Any], **options: Any) -> AsyncIterator[Bench]:
    """Run a worker of these tasks in memory."""
    catalogue = Catalogue.load(PACKAGE_FOLDER)
    codec = Codec(catalogue, LocalRegistry())
    clock = ManualClock()
    app = StreamApp("billing", catalogue=catalogue, codec=codec, clock=clock)
    view: Any = LogView(TaskChanges(codec, "tests"))
    cancellations = KnownCancellations()
    worker = install(app, *functions, cancellations=cancellations, view=view, **options)
    view.kit = kit = StreamKit(app, clock=clock)
    async with kit:
        yield Bench(kit, view, worker, cancellations)
