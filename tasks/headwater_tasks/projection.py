"""The projection: keeps the view, the index and the histories of the tasks equal to the log.

Submissions put a task at PENDING, change events at everything later; both carry versions, so the two topics may be
applied in any order, again and again. Offsets are committed after the writes to Redis. It runs in a group of its own:
what waits for a worker must be visible while it waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from faust.types import TP

from headwater_cache import Change, ContinuityLost, EntityCache, Position, RedisSettings, TopicPartition
from headwater_cache import version as cache_version
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import BadRecord, Unavailable
from headwater_schemas.events import Task, TaskState, TaskSubmitted
from headwater_streams import RecordBatch, StreamApp
from headwater_streams.handlers.batch import Rewind
from headwater_tasks.changes import CHANGES, TASKS, TaskChanges, instant
from headwater_tasks.history import TaskHistory
from headwater_tasks.index import Placed, TaskIndex, place_id
from headwater_tasks.metrics import BY_STATE, OLDEST_PENDING
from headwater_tasks.purge import Purge
from headwater_tasks.state import pending, version
from headwater_tasks.view import task_view

__all__ = ["Parts", "Projection", "project"]

logger = logging.getLogger(__name__)

_LOOKED_AT: Final = 100
_LAG: Final = 0.1
_MOST_TYPES: Final = 500


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
        self.changes = changes
        self._clock = clock or SystemClock()
        self._recent = _Recent()

    async def submitted(self, batch: RecordBatch) -> None:
        """Apply submissions, unless something newer of the task has been applied already.

        A task that is run at once has ended some 20 ms after its submission, and then PENDING is no news. So this lags
        0.1 s behind on purpose: under load it spares half of all writes. (A submitter that waits for ``accepted`` puts
        PENDING into the view itself.)
        """
        await asyncio.sleep(min(_LAG, max(0.0, batch.timestamps[-1] / 1000 + _LAG - self._clock.time())))
        topic, partition = batch.tp
        tasks = [
            pending(msgspec.convert(value, TaskSubmitted), partition, offset)
            for offset, value in zip(batch.offsets, batch.values, strict=True)
            if value is not None and not self._recent.has(value["id"], value["run"])
        ]
        await self._apply(batch, [self.changes.change(task, Position(topic, partition, task.offset)) for task in tasks])
        await self.index.aput_many([Placed(task) for task in tasks])
        await self.history.aput_many(tasks)

    async def changed(self, batch: RecordBatch) -> None:
        """Apply change events.

        Whoever wrote a state after a newer one (a worker that had lost the partition and did not know it yet) changes
        nothing here. But the compacted log would keep the state that stands last, so the newest is written again.
        """
        changes: list[Change] = []
        placed: list[Placed] = []
        topic, partition = batch.tp
        for offset, value in zip(batch.offsets, batch.values, strict=True):
            if value is None:
                continue  # the tombstone behind a DELETE
            if value["op"] == "UPSERT":
                try:
                    task = self.changes.decode(value["schema_id"], value["value"])
                except BadRecord as exc:
                    logger.error("%s[%d]@%d does not hold a task: %s", topic, partition, offset, exc)
                    continue
                placed.append(Placed(task, offset, mends=value["source"] == self.changes.source))
            changes.append(_change(value, Position(topic, partition, offset)))
        deleted = [change for change in changes if change.value is None]
        gone = await self._apply(batch, changes, deleted)
        best, overtaken = newest(placed)
        overtaken |= set(await self.index.aput_many(best))
        await self.index.aremove_many([(change.key, int(change.version)) for change in deleted])
        await self.history.aput_many([entry.task for entry in placed])
        await self.history.aremove_many(gone)
        self._recent.add(entry.task for entry in best)
        await self._mend(batch, overtaken)

    async def _apply(self, batch: RecordBatch, changes: Sequence[Change], deleted: Sequence[Change] = ()) -> list[str]:
        """Into the view first: whoever lists trusts it, so the index may be behind and not ahead. Gives what of
        ``deleted`` is gone from it."""
        # Redriven records stand before what was applied long ago: they are no position of ours.
        positions = None if batch.redriven else {TopicPartition(*batch.tp): batch.offsets[-1] + 1}
        try:
            results = await self.view.aapply_many(changes, positions=positions)
        except ContinuityLost as lost:
            raise self._rewind(lost) from lost
        if not deleted:
            return []
        refused = {result.key for result in results if result.outcome == "stale"}
        return [change.key for change in deleted if change.key not in refused]

    async def _mend(self, batch: RecordBatch, ids: Iterable[str]) -> None:
        """Write the newest states of these tasks again, so that the log ends with them."""
        for id_, task in (await self.view.aget_many(sorted(ids))).items():
            logger.warning("task %s: an older state was written after %s; the log ends with it again", id_, task.state)
            batch.emit(CHANGES, self.changes.event(task, instant(self._clock.time())), key=id_)

    async def mark_ready(self, app: StreamApp) -> None:
        """Tell readers how far the log is applied, so that absent may mean not found.

        A task's submission and its changes have the same partition number; it is ready when both are applied.
        """
        settled = {topic: await app.caught_up(topic) for topic in (TASKS, CHANGES)}
        numbers = {tp.partition for ends in settled.values() for tp in ends}
        whole = [number for number in numbers if all(TP(topic, number) in settled[topic] for topic in settled)]
        positions = {
            TopicPartition(topic, number): ends[TP(topic, number)]
            for topic, ends in settled.items()
            for number in whole
        }
        if positions:
            try:
                await self.view.amark_ready(positions=positions, total=app.partitions_of(TASKS))
            except ContinuityLost as lost:
                await app.rewind(self._rewind(lost))

    def _rewind(self, lost: ContinuityLost) -> Rewind:
        logger.warning("task: %s", lost)
        self._recent.clear()
        positions = {TP(tp.topic, tp.partition): offset for tp, offset in lost.rewind.positions.items()}
        return Rewind(positions, since=lost.rewind.since)

    async def close(self) -> None:
        """Close the connections of the running loop."""
        for part in (self.view, self.index, self.history):
            await part.aclose()

    async def measure(self) -> None:
        """Set the gauges that come from the index."""
        counts = await self.index.acounts()
        # Types are the callers' to invent, labels must not be.
        for (type_, state), count in islice(counts.items(), _MOST_TYPES * len(TaskState)):
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


class _Recent:
    """The runs of tasks that had changes of late: two generations of so many, the older forgotten as a whole."""

    _MOST: Final = 50_000

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all: Redis may have."""
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def add(self, tasks: Iterable[Task]) -> None:
        """These changes have been applied."""
        self._young.update((task.id, task.run) for task in tasks)
        if len(self._young) > self._MOST:
            self._young, self._old = {}, self._young

    def has(self, id_: str, run: int) -> bool:
        """Whether this run of the task, or a later one, had a change."""
        return self._young.get(id_, 0) >= run or self._old.get(id_, 0) >= run


def newest(placed: Iterable[Placed]) -> tuple[list[Placed], set[str]]:
    """The newest state of each task, and the tasks whose newest does not stand last, in offset order."""
    best: dict[str, Placed] = {}
    overtaken: set[str] = set()
    for entry in placed:
        id_ = entry.task.id
        known = best.get(id_)
        if known is None or version(known.task) < version(entry.task):
            best[id_] = entry
            overtaken.discard(id_)
        elif entry.mends and version(known.task) == version(entry.task):
            best[id_] = known._replace(offset=entry.offset, mends=True)
            overtaken.discard(id_)
        else:
            overtaken.add(id_)
    return list(best.values()), overtaken


def _change(event: Mapping[str, Any], where: Position) -> Change:
    return Change(
        event["key"],
        cache_version(event["version"]),
        event["value"] if event["op"] == "UPSERT" else None,
        event["schema_id"] or 0,
        where,
        event["occurred_at"].timestamp(),
    )


class Parts:
    """What the handlers and timers of one app share, made when it is first needed and off the loop."""

    def __init__(self, app: StreamApp) -> None:
        self._app = app
        self._making = asyncio.Lock()
        self._projection: Projection | None = None
        self._purge: Purge | None = None
        self._producer: EventProducer | None = None

    async def projection(self) -> Projection:
        async with self._making:
            if self._projection is None:
                app, redis = self._app, RedisSettings.from_env(self._app.env)
                changes = await asyncio.to_thread(TaskChanges, app.codec, f"{app.conf.id}/projection")
                await asyncio.to_thread(app.codec.encoder, CHANGES)
                view = task_view(app.env, changes)
                self._projection = Projection(view, TaskIndex(redis), TaskHistory(redis), changes, app.clock)
            return self._projection

    async def purge(self) -> Purge:
        projection = await self.projection()
        if self._purge is None:
            app, source = self._app, projection.changes.source
            self._producer = EventProducer(ProducerSettings.from_env(app.env), app.catalogue, app.codec, source=source)
            await asyncio.to_thread(self._producer.prepare, CHANGES)
            keep = app.env.duration("HEADWATER_TASKS_RETENTION")
            self._purge = Purge(projection.view, projection.index, projection.changes, self._producer, keep, app.clock)
        return self._purge

    async def live(self) -> None:
        """Wait until the app has stopped, then let go of everything."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Let go of connections."""
        if self._projection is not None:
            await self._projection.close()
        if self._producer is not None:
            await asyncio.to_thread(self._producer.close)


def project(app: StreamApp, *, max_records: int = 2000) -> Parts:
    """Let ``app`` keep the view of the tasks on the Redis of its settings. Call it before the app starts.

    Give it an app of its own: a group that also runs tasks reads no further than they let it.

    Args:
        max_records: records of one round of writes.
    """
    parts = Parts(app)
    app.task(parts.live)

    @app.batch_handler(TASKS, name="task-submissions", max_records=max_records)
    async def submitted(batch: RecordBatch) -> None:
        await (await parts.projection()).submitted(batch)

    @app.batch_handler(CHANGES, name="task-changes", max_records=max_records)
    async def changed(batch: RecordBatch) -> None:
        await (await parts.projection()).changed(batch)

    @app.timer(1.0, name="task-view-ready")  # type: ignore[untyped-decorator]  # Faust's
    async def mark_ready() -> None:
        try:
            await (await parts.projection()).mark_ready(app)
        except Unavailable as exc:
            logger.warning("the view of the tasks cannot be said to be ready: %s", exc)

    @app.timer(5.0, name="task-gauges")  # type: ignore[untyped-decorator]
    async def measure() -> None:
        try:
            await (await parts.projection()).measure()
        except Unavailable as exc:
            logger.warning("the tasks cannot be counted: %s", exc)

    @app.timer(30.0, name="task-purge")  # type: ignore[untyped-decorator]
    async def purge() -> None:
        if TP(CHANGES, 0) not in await app.caught_up(CHANGES):
            return  # another worker's, or later
        try:
            while await (await parts.purge()).once():
                pass
        except Unavailable as exc:
            logger.warning("ended tasks cannot be deleted: %s", exc)

    return parts
