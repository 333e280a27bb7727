"""Forgetting tasks that ended long ago, on the log first: a DELETE and its tombstone, which the projection follows.

Without it the change topic, the view, the index and the histories would grow for ever. Tasks that have not ended stay.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

from headwater_cache import EntityCache
from headwater_producers import EventProducer
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.events import Task
from headwater_tasks.changes import CHANGES, TaskChanges, instant
from headwater_tasks.index import TaskIndex, place_id
from headwater_tasks.state import TERMINAL

__all__ = ["Purge"]

logger = logging.getLogger(__name__)

_TOGETHER: Final = 500
_ABOVE_ALL: Final = 2**63 - 1


class Purge:
    """Deletes ended tasks.

    Args:
        retention: seconds that a task is kept after its end.
    """

    def __init__(
        self,
        view: EntityCache[Task],
        index: TaskIndex,
        changes: TaskChanges,
        producer: EventProducer,
        retention: float,
        clock: Clock | None = None,
    ) -> None:
        self._view = view
        self._index = index
        self._changes = changes
        self._producer = producer
        self._retention = retention
        self._clock = clock or SystemClock()

    async def once(self) -> int:
        """Delete some of what is due, oldest first; how many. 0: nothing is due.

        Returning promises that the deletions are on the log, not that the projection has followed.

        Raises:
            CacheUnavailable, BrokerUnavailable: try again later; some may be deleted.
        """
        now = instant(self._clock.time())
        before = now - timedelta(seconds=self._retention)
        ids = [place_id(place) for place in await self._index.aended_before(before.timestamp(), _TOGETHER)]
        found = await self._view.aget_many(ids)
        await self._index.aremove_many([(id_, _ABOVE_ALL) for id_ in ids if id_ not in found])
        due = [
            task
            for task in found.values()
            if task.state in TERMINAL and (task.finished_at or task.submitted_at) < before
        ]
        deliveries = []
        for task in due:
            self._producer.emit(CHANGES, self._changes.deletion(task, now), key=task.id)
            deliveries.append(self._producer.emit(CHANGES, None, key=task.id))
        for delivery in deliveries:
            await delivery
        if due:
            logger.info("deleted %d tasks that ended before %s", len(due), before.isoformat(timespec="seconds"))
        return len(due)
