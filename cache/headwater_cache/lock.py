"""A lock with a fencing token: for efficiency, so that work is not done twice, and not for correctness.

Whoever holds it may have lost it without knowing: it slept past the end, or Redis failed over and forgot. So the thing
that is written to must take the token and refuse one that is smaller than the largest it has seen (Kleppmann, "How to
do distributed locking", 2016). Where it can not, two holders at once must do no harm.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, TypeVar

from headwater_cache.errors import LockLost, LockTaken
from headwater_cache.scripts import EXTEND, LOCK, RELEASE
from headwater_cache.space import Space
from headwater_cache.steps import Pause, Step, evaluate
from headwater_cache.writes import lease_token
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import CacheUnavailable, Overloaded, UsageError

__all__ = ["Lock", "Runner"]

T = TypeVar("T")


class Runner(Protocol):
    """Runs a step for a thread, or on the running event loop."""

    def run(self, step: Step[T], /) -> T: ...

    async def arun(self, step: Step[T], /) -> T: ...


class Lock:
    """A lock to be entered with ``with`` or ``async with``, once; see ``EntityCache.lock``."""

    def __init__(self, space: Space, name: str, ttl: Duration, wait: Duration, runner: Runner) -> None:
        self._space = space
        self._key = space.lock(name)
        self.name = name
        self._ttl, self._wait = seconds(ttl), seconds(wait)
        if self._ttl < 0.01 or self._wait < 0:
            raise UsageError(f"ttl={ttl!r}, wait={wait!r}: pass at least 10ms, and a wait of 0 or more")
        self._runner = runner
        self._token = 0
        self._name = lease_token()

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier holder. Hand it to whatever is written to.

        Raises:
            UsageError: the lock was not entered.
        """
        if not self._token:
            raise UsageError(f"the lock {self.name!r} is not held: enter it first (with cache.lock(…) as lock)")
        return self._token

    def extend(self) -> None:
        """Hold it for another ``ttl`` from now. Blocks for one round trip.

        Raises:
            LockLost: it has ended; another may hold it.
            CacheUnavailable: Redis did not say; it ends when it would have.
        """
        self._runner.run(self._extend())

    async def aextend(self) -> None:
        """``extend`` for asyncio."""
        await self._runner.arun(self._extend())

    def __enter__(self) -> Self:
        self._runner.run(self._take())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._release())

    async def __aenter__(self) -> Self:
        await self._runner.arun(self._take())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.arun(self._release())

    @property
    def _ttl_ms(self) -> str:
        return str(round(self._ttl * 1000))

    def _take(self) -> Step[None]:
        space = self._space
        if self._token:
            raise UsageError(f"the lock {self.name!r} was entered already: make another for another holder")
        if space.due():
            yield from space.look()
        deadline, pause = space.clock.monotonic() + self._wait, 0.01
        while True:
            token = yield from evaluate(LOCK, [self._key], [self._ttl_ms, self._name])
            if token:
                self._token = int(token)
                return
            left = deadline - space.clock.monotonic()
            if left <= 0:
                raise LockTaken(f"{self.name!r} of {space.name} is held by another, after a wait of {self._wait} s")
            yield Pause(min(left, pause * space.random.uniform(0.5, 1.0)))
            pause = min(2 * pause, 0.2)

    def _extend(self) -> Step[None]:
        if not (yield from evaluate(EXTEND, [self._key], [f"{self.token}:{self._name}", self._ttl_ms])):
            raise LockLost(f"{self.name!r} of {self._space.name} is no longer held with token {self.token}")

    def _release(self) -> Step[None]:
        """Give it back, unless it is another's by now; if Redis is away it ends by itself."""
        token, self._token = self._token, 0
        try:
            yield from evaluate(RELEASE, [self._key], [f"{token}:{self._name}"])
        except (CacheUnavailable, Overloaded):
            return
