"""The write path: lease if the key is absent, fenced or negative -> the truth commits -> apply with its version."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Generic, Protocol, TypeVar

from headwater_cache.applier import OUTCOMES
from headwater_cache.changes import ChangeLog
from headwater_cache.errors import SourceFailed
from headwater_cache.filter import KeyFilter
from headwater_cache.metrics import APPLY, LEASE, VERSION_CONFLICT
from headwater_cache.scripts import ACQUIRE, RELEASE, apply_args
from headwater_cache.scripts import APPLY as APPLY_SCRIPT
from headwater_cache.source import Source
from headwater_cache.space import Space
from headwater_cache.steps import Call, Join, Step, evaluate
from headwater_cache.values import ValueCodec
from headwater_cache.versions import DOMAIN_WIDTH, Version, VersionToken, version
from headwater_schemas.errors import CacheUnavailable, HeadwaterError, Overloaded, UsageError

__all__ = ["Commit", "LogCommit", "SourceCommit", "Writes", "acquire", "lease_token", "release"]

_HOST = socket.gethostname()[:64]

V = TypeVar("V")
V_contra = TypeVar("V_contra", contravariant=True)


class Commit(Protocol[V_contra]):
    """How the truth takes a write: a step that returns its version, or raises, and then nothing is applied."""

    def commit(self, key: str, value: V_contra | None, payload: bytes | None, schema_id: int) -> Step[Version]: ...


class LogCommit(Generic[V]):
    """A view commits to its change topic."""

    def __init__(self, space: Space, log: ChangeLog | None) -> None:
        self._space = space
        self._log = log

    def commit(self, key: str, value: V | None, payload: bytes | None, schema_id: int) -> Step[Version]:
        if self._log is None:
            raise UsageError(
                f"{self._space.name} was made without a log, so it only reads: pass log=<a ChangeLog> to write"
            )
        position: Version = yield Join(self._log.append(self._space.name, key, payload, schema_id))
        return position


class SourceCommit(Generic[V]):
    """A cache commits to its source."""

    def __init__(self, space: Space, source: Source[V] | None, keys: KeyFilter | None = None) -> None:
        self._space = space
        self._source = source
        self._keys = keys

    def commit(self, key: str, value: V | None, payload: bytes | None, schema_id: int) -> Step[Version]:
        if self._source is None:
            raise UsageError(f"{self._space.name} was made without a source, so it only reads: pass source=<a Source>")
        if self._keys is not None and value is not None:
            self._keys.add([key])  # before the commit: nobody may be told that a committed row is missing
        try:
            return version((yield Call(self._source.write, (key, value))))
        except HeadwaterError:
            raise
        except Exception as exc:
            raise SourceFailed(f"the source of {self._space.name} did not commit {key!r}: {exc!r}") from exc


class Writes(Generic[V]):
    """``put`` and ``delete`` of one cache, in either mode."""

    def __init__(self, space: Space, values: ValueCodec[V], commit: Commit[V]) -> None:
        self._space = space
        self._values = values
        self._commit = commit

    def put(self, key: str, value: V) -> Step[VersionToken]:
        """Commit a value, then write it through."""
        if value is None:
            raise UsageError("a value of None can not be told from not found: use delete")
        schema_id, payload = self._values.encode(value)
        return (yield from self._write(key, value, self._space.check_size(payload), schema_id))

    def delete(self, key: str) -> Step[VersionToken]:
        """Commit a deletion, then write its tombstone through."""
        return (yield from self._write(key, None, None, 0))

    def _write(self, key: str, value: V | None, payload: bytes | None, schema_id: int) -> Step[VersionToken]:
        space = self._space
        space.key(key)  # a bad key is refused before the truth has it
        token = yield from self._lease(key)
        try:
            committed = yield from self._commit.commit(key, value, payload, schema_id)
        except GeneratorExit:
            raise  # nobody is left to run another step
        except BaseException:
            if token:
                yield from release(space, key, token)
            raise
        data, life = space.entry("T" if payload is None else "V", committed, payload or b"", schema_id)
        try:
            args = apply_args("W", False, space.fence_ms, [data, token, life])
            letters = yield from evaluate(APPLY_SCRIPT, [space.key(key)], args)
        except HeadwaterError as exc:  # the truth has it, and its change event will repair the cache
            APPLY.labels(space.name, "write", "failed").inc()
            _expect_unavailable(exc)
        else:
            outcome = OUTCOMES[letters[0]]
            APPLY.labels(space.name, "write", outcome).inc()
            if outcome == "conflict":
                VERSION_CONFLICT.labels(space.name).inc()
        return VersionToken(space.domain, committed)

    def _lease(self, key: str) -> Step[str]:
        """A token if one is needed and free; without one the apply leaves a fence."""
        space = self._space
        try:
            if space.due():
                yield from space.look()
            token = lease_token()
            reply = yield from acquire(space, key, token, "?")
        except (CacheUnavailable, Overloaded):
            return ""
        if reply[0] != b"g":
            return ""
        LEASE.labels(space.name, "granted").inc()
        return token


def lease_token() -> str:
    """A token of this process, which ``explain`` shows to whoever asks who holds a lease."""
    return f"{_HOST}:{os.getpid()}:{secrets.token_hex(8)}"


def acquire(space: Space, key: str, token: str, seen: str | bytes) -> Step[list[bytes]]:
    """Try to take the lease; see ``lease.lua`` for the replies."""
    reply: list[bytes] = yield from evaluate(
        ACQUIRE,
        [space.key(key)],
        [token, str(space.policy.milliseconds("lease_ttl")), space.domain.ljust(DOMAIN_WIDTH), seen],
    )
    return reply


def release(space: Space, key: str, token: str) -> Step[None]:
    """Give a lease back; if that fails it expires by itself."""
    try:
        yield from evaluate(RELEASE, [space.key(key)], [token])
    except (CacheUnavailable, Overloaded):
        return


def _expect_unavailable(exc: HeadwaterError) -> None:
    if not isinstance(exc, CacheUnavailable | Overloaded):
        raise exc
