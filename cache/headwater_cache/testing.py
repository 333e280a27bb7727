"""Parts to test with: a change log in memory that behaves as the one on Kafka does."""

from __future__ import annotations

from concurrent.futures import Future

from headwater_cache.changes import Change, Position
from headwater_cache.versions import Version, log_version

__all__ = ["MemoryLog"]


class MemoryLog:
    """A change log of one partition. ``changes`` is what a consumer would read; appends are acknowledged at once.

    Set ``error`` to make every append fail with it.
    """

    def __init__(self, topic: str = "test.changes", *, epoch: int = 1) -> None:
        self.topic = topic
        self.epoch = epoch
        self.changes: list[Change] = []
        self.error: Exception | None = None

    def append(self, entity: str, key: str, value: bytes | None, schema_id: int) -> Future[Version]:
        future: Future[Version] = Future()
        if self.error is not None:
            future.set_exception(self.error)
            return future
        offset = len(self.changes)
        version = log_version(self.epoch, offset)
        self.changes.append(Change(key, version, value, schema_id, Position(self.topic, 0, offset)))
        future.set_result(version)
        return future
