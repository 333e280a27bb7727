"""The projection: keeps the view, the index and the histories of the tasks equal to the log.

Submissions put a task at PENDING, change events at everything later; both carry versions, so the two topics may be
applied in any order, again and again. Offsets are committed after the writes to Redis. It runs in a group of its own:
what waits for a worker must be visible while it waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec
from faust.types import TP

from headwater_cache import Change, ContinuityLost, EntityCache, Position, RedisSettings, TopicPartition
from headwater_cache import version as cache_version
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import BadRecord, Unavailable
from headwater_schemas.events import Task, TaskState, TaskSubmitted
from headwater_streams import RecordBatch, StreamApp
from headwater_streams.handlers.batch import Rewind
from headwater_tasks.changes import CHANGES, TASKS, TaskChanges
from headwater_tasks.history import TaskHistory
from headwater_tasks.index import TaskIndex, place_id
from headwater_tasks.metrics import BY_STATE, OLDEST_PENDING
from headwater_tasks.state import pending, version
from headwater_tasks.view import task_view

__all__ = ["Projection", "project"]

logger = logging.getLogger(__name__)

_LOOKED_AT: Final = 100


class Projection:
    """The view, the index and the histories as the log is applied to them."""

    def __init__(
        self,
        view: EntityCache[Task],
        index: TaskIndex,
        history: TaskHistory,
        changes: TaskChanges,
        clock: Clock | None = None,
    ) -> None:
        self.view = view
        self.index = index
        self.history = history
        self._changes = changes
        self._clock = clock or SystemClock()

    async def submitted(self, batch: RecordBatch) -> None:
        """Apply submissions."""
        topic, partition = batch.tp
        tasks = [
            pending(msgspec.convert(value, TaskSubmitted), partition, offset)
            for offset, value in zip(batch.offsets, batch.values, strict=True)
            if value is not None
        ]
        changes = [self._changes.change(task, Position(topic, partition, task.offset)) for task in tasks]
        await self._apply(batch, tasks, changes)

    async def changed(self, batch: RecordBatch) -> None:
        """Apply change events."""
        tasks: list[Task] = []
        changes: list[Change] = []
        topic, partition = batch.tp
        for offset, value in zip(batch.offsets, batch.values, strict=True):
            if value is None or value["op"] != "UPSERT":
                continue
            try:
                tasks.append(self._changes.decode(value["schema_id"], value["value"]))
            except BadRecord as exc:
                logger.error("%s[%d]@%d does not hold a task: %s", topic, partition, offset, exc)
                continue
            changes.append(
                Change(
                    value["key"],
                    cache_version(value["version"]),
                    value["value"],
                    value["schema_id"],
                    Position(topic, partition, offset),
                    occurred_at=value["occurred_at"].timestamp(),
                )
            )
        await self._apply(batch, tasks, changes)

    async def _apply(self, batch: RecordBatch, tasks: Sequence[Task], changes: Sequence[Change]) -> None:
        """The view first: whoever lists trusts the view, so the index may be behind it and not ahead."""
        try:
            await self.view.aapply_many(changes, positions={TopicPartition(*batch.tp): batch.offsets[-1] + 1})
        except ContinuityLost as lost:
            logger.warning("task: %s", lost)
            raise Rewind(
                {TP(tp.topic, tp.partition): offset for tp, offset in lost.rewind.positions.items()},
                since=lost.rewind.since,
            ) from lost
        await asyncio.gather(self.index.aput_many(newest(tasks)), self.history.aput_many(tasks))

    async def mark_ready(self, app: StreamApp) -> None:
        """Tell readers how far the log is applied, so that absent may mean not found."""
        partitions, total = [], 0
        for topic in (TASKS, CHANGES):
            partitions += [total + tp.partition for tp in await app.caught_up(topic)]
            total += app.partitions_of(topic)
        if partitions:
            await self.view.amark_ready(partitions, total=total)

    async def measure(self) -> None:
        """Set the gauges that come from the index."""
        for (type_, state), count in (await self.index.acounts()).items():
            BY_STATE.labels(type_, state).set(count)
            if state is TaskState.PENDING:
                OLDEST_PENDING.labels(type_).set(await self._oldest_pending(type_) if count else 0.0)

    async def _oldest_pending(self, type_: str) -> float:
        """For how long the oldest task has been due and waiting, in seconds. Looks at a hundred at most: those with a
        delay are not due yet."""
        members = await self.index.aoldest(type_, TaskState.PENDING, _LOOKED_AT)
        tasks = await self.view.aget_many([place_id(member) for member in members])
        now = self._clock.time()
        due = [
            (task.due_at or task.submitted_at).timestamp() for task in tasks.values() if task.state is TaskState.PENDING
        ]
        return max(0.0, now - min(due, default=now))


def newest(tasks: Sequence[Task]) -> list[Task]:
    """The newest state of each task."""
    best: dict[str, Task] = {}
    for task in tasks:
        known = best.get(task.id)
        if known is None or version(known) < version(task):
            best[task.id] = task
    return list(best.values())


def project(app: StreamApp, *, max_records: int = 1000) -> None:
    """Let ``app`` keep the view of the tasks on the Redis of its settings. Call it before the app starts.

    Give it an app of its own: a group that also runs tasks reads no further than they let it.

    Args:
        max_records: records of one round of writes.
    """
    made: list[Projection] = []
    making = asyncio.Lock()

    async def projection() -> Projection:
        async with making:
            if not made:
                changes = await asyncio.to_thread(TaskChanges, app.codec, app.conf.id)
                redis = RedisSettings.from_env(app.env)
                made.append(Projection(task_view(app.env, changes), TaskIndex(redis), TaskHistory(redis), changes))
            return made[0]

    @app.batch_handler(TASKS, name="task-submissions", max_records=max_records)
    async def submitted(batch: RecordBatch) -> None:
        await (await projection()).submitted(batch)

    @app.batch_handler(CHANGES, name="task-changes", max_records=max_records)
    async def changed(batch: RecordBatch) -> None:
        await (await projection()).changed(batch)

    @app.timer(1.0, name="task-view-ready")  # type: ignore[untyped-decorator]  # Faust's
    async def mark_ready() -> None:
        try:
            await (await projection()).mark_ready(app)
        except Unavailable as exc:
            logger.warning("the view of the tasks cannot be said to be ready: %s", exc)

    @app.timer(5.0, name="task-gauges")  # type: ignore[untyped-decorator]
    async def measure() -> None:
        try:
            await (await projection()).measure()
        except Unavailable as exc:
            logger.warning("the tasks cannot be counted: %s", exc)
