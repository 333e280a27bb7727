"""Writing through a database transaction: nothing reaches the cache before the commit, or after a rollback."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from headwater_cache.applier import OUTCOMES
from headwater_cache.metrics import APPLY, VERSION_CONFLICT
from headwater_cache.scripts import APPLY as APPLY_SCRIPT
from headwater_cache.scripts import apply_args
from headwater_cache.space import Space
from headwater_cache.steps import Command, Step, evaluate_many
from headwater_cache.values import ValueCodec
from headwater_cache.versions import Version, VersionToken, version
from headwater_schemas.errors import CacheUnavailable, Overloaded, UsageError

__all__ = ["Buffer"]

V = TypeVar("V")


class _Write(NamedTuple):
    key: str
    version: Version
    payload: bytes | None
    schema_id: int


class Buffer(Generic[V]):
    """The cache writes of one database transaction, in order. It touches nothing until ``flush``."""

    def __init__(self, space: Space, values: ValueCodec[V]) -> None:
        self._space = space
        self._values = values
        self._writes: list[_Write] = []

    def put(self, key: str, value: V, of: int | str) -> None:
        """Remember that the transaction wrote ``value`` with version ``of``. A bad key or value is refused here."""
        if value is None:
            raise UsageError("a value of None can not be told from not found: use delete")
        self._space.key(key)
        schema_id, payload = self._values.encode(value)
        self._writes.append(_Write(key, version(of), self._space.check_size(payload), schema_id))

    def delete(self, key: str, of: int | str) -> None:
        """Remember that the transaction deleted ``key`` with version ``of``."""
        self._space.key(key)
        self._writes.append(_Write(key, version(of), None, 0))

    def savepoint(self) -> int:
        """Where a nested transaction begins; pass it to ``rollback`` if that one is rolled back."""
        return len(self._writes)

    def rollback(self, savepoint: int = 0) -> None:
        """Forget what came after a savepoint; without one, everything."""
        del self._writes[savepoint:]

    def flush(self) -> Step[list[VersionToken]]:
        """After the commit: apply everything in one round trip and forget it."""
        space, writes = self._space, self._writes
        self._writes = []
        tokens = [VersionToken(space.domain, write.version) for write in writes]
        try:
            if space.due():
                yield from space.look()
            replies = yield from evaluate_many([self._command(write) for write in writes])
        except (CacheUnavailable, Overloaded):  # committed, and the change events will repair the cache
            APPLY.labels(space.name, "write", "failed").inc(len(writes))
            return tokens
        for reply in replies:
            outcome = OUTCOMES[reply[0]]
            APPLY.labels(space.name, "write", outcome).inc()
            if outcome == "conflict":
                VERSION_CONFLICT.labels(space.name).inc()
        return tokens

    def _command(self, write: _Write) -> Command:
        space = self._space
        payload = write.payload
        data, life = space.entry("T" if payload is None else "V", write.version, payload or b"", write.schema_id)
        args = apply_args("W", False, space.fence_ms, [data, "", life])
        return APPLY_SCRIPT.call([space.key(write.key)], args)
