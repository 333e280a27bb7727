"""The view of the tasks: an ``EntityCache`` in view mode whose versions come from the tasks' states."""

from __future__ import annotations

from headwater_cache import EntityCache, RedisSettings
from headwater_schemas.events import Task
from headwater_schemas.settings import Environment
from headwater_tasks.changes import DOMAIN, ENTITY, TaskChanges

__all__ = ["task_view"]


def task_view(env: Environment, changes: TaskChanges) -> EntityCache[Task]:
    """The view on the Redis of the settings. While it has not caught up with the log, absent raises ViewNotReady."""
    return EntityCache(
        ENTITY,
        RedisSettings.from_env(env),
        values=changes.values,
        domain=DOMAIN,
    )
