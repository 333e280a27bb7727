"""What was handled, as marks in Redis: claimed with a lease, marked when done."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Literal, Self

from prometheus_client import Counter

from headwater_cache import RedisSettings
from headwater_cache.connection import Connection
from headwater_cache.steps import Ask, Call, Step
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import Unavailable, UsageError
from headwater_schemas.settings import Environment

__all__ = ["InProgress", "MetricName", "RedisMarks"]

MetricName = Literal["headwater_idempotent_calls_total"]
"""The metric of this module: calls of handlers that remember in Redis, by outcome."""

Outcome = Literal["done", "repeated", "failed", "in-progress", "unmarked", "overrun"]

_CALLS: Final = Counter(
    "headwater_idempotent_calls",
    "Calls of handlers that remember in Redis; unmarked and overrun ones may be repeated.",
    ("handler", "outcome"),
)

_CLAIM: Final = """
local held = redis.call('GET', KEYS[1])
if not held then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return ARGV[1] end
return held
"""

# A lease that ran out and that nobody took is marked all the same: the effect took place.
_MARK: Final = """
local held = redis.call('GET', KEYS[1])
if not held or held == ARGV[1] or held == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return 1
end
return 0
"""

_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

_DONE: Final = b"done:"

_log = logging.getLogger(__name__)


class InProgress(Unavailable):
    """The same record is being handled elsewhere, or its handler was killed and the lease is not over yet. The record
    waits and is tried again in place; it uses up no attempt."""


class RedisMarks:
    """Remembers in Redis what was handled; for ``@idempotent``.

    A call first claims its key for ``lease``, runs, and then leaves a mark that lives for ``ttl``. Who finds a mark
    skips; who finds a claim waits (``InProgress``). A handler that raises gives its claim back.

    This is at least once, with most repetitions taken out. An effect is repeated

    * when the process is killed after the effect and before the mark; the record comes again and runs when the lease
      is over;
    * when the handler outlives its lease: give the handler a ``timeout`` below it;
    * when the mark cannot be written (Redis is away: logged, counted as ``unmarked``, the record settles all the same);
    * when Redis forgets: after ``ttl``, by eviction (use ``maxmemory-policy noeviction``), or in a failover, which
      loses what was not replicated yet.

    Where none of these will do, put the effect into a database and use ``Inbox``, or give whatever you call an
    idempotency key of its own.

    Make one per process, after any fork.

    Args:
        redis: where; keys are ``hw:done:<group>:<handler>:<key>``.
        group: the consumer group: two groups handle the same record, each once.
        lease: how long a claim holds without a mark. Short lets a killed handler's record run soon; it must exceed
            the longest run.
        clock: for the circuit breaker only; Redis itself keeps the time of leases and marks.

    Raises:
        UsageError: no group, or a lease below a second.
    """

    gives: ClassVar[tuple[str, ...]] = ()

    def __init__(self, redis: RedisSettings, group: str, *, lease: Duration = "5m", clock: Clock | None = None) -> None:
        if not group:
            raise UsageError("group='' : pass the consumer group, which is the app's id")
        self._group = group
        self._lease = round(seconds(lease) * 1000)
        if self._lease < 1000:
            raise UsageError(f"lease={lease!r}: pass at least '1s', and more than the handler ever takes")
        self._connection = Connection("idempotency", redis, clock or SystemClock())
        # One owner for all claims of this object: a claim whose answer was lost is found to be ours at the next try.
        # What runs in this process is told apart by ``_running``.
        self._owner = secrets.token_hex(8).encode()
        self._running: dict[str, object] = {}

    @classmethod
    def from_env(cls, group: str, *, lease: Duration = "5m", env: Environment | None = None) -> Self:
        """By ``HEADWATER_REDIS_*``.

        Raises:
            SettingError: a setting is unknown or malformed.
        """
        return cls(RedisSettings.from_env(env), group, lease=lease)

    def run(self, name: str, key: str, ttl: float, call: Callable[..., object]) -> None:
        """Call ``call`` unless it was done for ``key`` already. Blocks.

        Raises:
            InProgress: somebody else holds the claim.
            CacheUnavailable: Redis does not answer; nothing was called.
        """
        self._connection.driver.run(self._once(name, key, ttl, call))

    async def arun(self, name: str, key: str, ttl: float, call: Callable[..., Awaitable[object]]) -> None:
        """``run`` for asyncio."""
        assert inspect.iscoroutinefunction(call)  # a plain one would run in a thread
        await self._connection.async_driver.run(self._once(name, key, ttl, call))

    def close(self) -> None:
        """Close the connections of blocking callers."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connection.aclose()

    def _once(self, name: str, key: str, ttl: float, call: Callable[..., Any]) -> Step[None]:
        at = f"hw:done:{self._group}:{name}:{key}"
        this = object()
        if self._running.setdefault(at, this) is not this:
            raise self._in_progress(name, key)
        try:
            yield from self._claimed(name, key, at, ttl, call)
        finally:
            del self._running[at]

    def _claimed(self, name: str, key: str, at: str, ttl: float, call: Callable[..., Any]) -> Step[None]:
        held: bytes = yield _eval(_CLAIM, at, self._owner, self._lease)
        if held.startswith(_DONE):
            self._count(name, "repeated")
            return
        if held != self._owner:
            raise self._in_progress(name, key)
        try:
            yield Call(call, ())
        except BaseException:  # cancelled too: nothing is marked, so whoever gets the record next may run at once
            self._count(name, "failed")
            yield from self._release(at)
            raise
        yield from self._mark(name, at, ttl)

    def _in_progress(self, name: str, key: str) -> InProgress:
        self._count(name, "in-progress")
        return InProgress(f"{name}: {key!r} is being handled, or its handler was killed less than a lease ago")

    def _mark(self, name: str, at: str, ttl: float) -> Step[None]:
        try:
            marked = yield _eval(_MARK, at, self._owner, _DONE + self._owner, round(ttl * 1000))
        except Unavailable as exc:
            # The effect took place. To fail the record now would repeat it for certain; to settle it, hardly ever.
            _log.warning("%s: done and not marked, so a repetition would run again: %s (%s)", name, at, exc)
            self._count(name, "unmarked")
            return
        if not marked:
            _log.warning("%s took longer than its lease, and %s was handled twice: raise the lease", name, at)
        self._count(name, "done" if marked else "overrun")

    def _release(self, at: str) -> Step[None]:
        try:
            yield _eval(_RELEASE, at, self._owner)
        except Unavailable as exc:
            _log.warning("a claim could not be given back and holds until its lease is over: %s (%s)", at, exc)

    @staticmethod
    def _count(name: str, outcome: Outcome) -> None:
        _CALLS.labels(name, outcome).inc()


def _eval(script: str, key: str, *arguments: bytes | int) -> Ask:
    return Ask(("EVAL", script, 1, key, *arguments))
