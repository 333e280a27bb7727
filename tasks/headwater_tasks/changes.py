"""How a task's state goes onto the log: a change event of the entity ``task`` whose value is a ``Task`` record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from headwater_cache import AvroValues, Change, Position
from headwater_cache import version as cache_version
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.events import Task
from headwater_tasks.state import purge_version, version

__all__ = ["CHANGES", "CONTROL", "DOMAIN", "ENTITY", "TASKS", "TaskChanges", "instant"]

ENTITY: Final = "task"
DOMAIN: Final = "task"
"""Version domain of the view: versions come from the states, not from offsets."""
TASKS: Final = "tasks"
CONTROL: Final = "task.control"
CHANGES: Final = "task.changes"
_CONTRACT: Final = "Task"


class TaskChanges:
    """Makes change events and cache changes of tasks, and reads them. Blocks for one registry request when made.

    Raises:
        RegistryUnavailable: the registry does not answer.
    """

    def __init__(self, codec: Codec, source: str) -> None:
        # Task is no topic's own value, so its registry subject is that of a topic of its name.
        schema = codec.catalogue.schema(_CONTRACT)
        alone = Codec(Catalogue.of(topics=[TopicSpec(_CONTRACT, _CONTRACT)], schemas=[schema]), codec.registry)
        self.values = AvroValues(alone.encoder(_CONTRACT), alone.decoder(_CONTRACT, type=Task))
        self.source = source

    def event(self, task: Task, at: datetime) -> dict[str, Any]:
        """The change event that puts ``task``."""
        schema_id, payload = self.values.encode(task)
        return {
            "entity": ENTITY,
            "key": task.id,
            "version": version(task),
            "op": "UPSERT",
            "schema_id": schema_id,
            "value": payload,
            "source": self.source,
            "occurred_at": at,
        }

    def deletion(self, task: Task, at: datetime) -> dict[str, Any]:
        """The change event that removes ``task``, which has ended."""
        return {
            "entity": ENTITY,
            "key": task.id,
            "version": purge_version(task),
            "op": "DELETE",
            "schema_id": None,
            "value": None,
            "source": self.source,
            "occurred_at": at,
        }

    def change(self, task: Task, position: Position | None = None) -> Change:
        """What a cache applies for ``task``."""
        schema_id, payload = self.values.encode(task)
        return Change(
            task.id, cache_version(version(task)), payload, schema_id, position, task.submitted_at.timestamp()
        )

    def decode(self, schema_id: int, payload: bytes) -> Task:
        """The task of a change event's value."""
        task: Task = self.values.decode(schema_id, payload)
        return task


def instant(seconds: float) -> datetime:
    """Seconds since the epoch as Avro's timestamps want them."""
    return datetime.fromtimestamp(seconds, UTC)
