"""Care for what handlers depend on: a circuit breaker per named dependency.

While a dependency is down nothing that needs it can succeed, so its failures are no failures of records: they use up
no attempts and make no dead letters. After a few of them in a row the breaker opens and the handlers that use the
dependency wait, records in hand; then one record at a time probes, and the first that succeeds lets all go on.
Handlers that do not use it never notice. (The pattern: M. Nygard, Release It!; KIP-1316 drafts the same for brokers.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

from headwater_schemas.clock import Clock
from headwater_schemas.errors import Unavailable, UsageError

__all__ = ["Breaker", "Dependencies", "DependencyDown"]

logger = logging.getLogger(__name__)

State = Literal["closed", "open", "half-open"]


class DependencyDown(Unavailable):
    """A call of a dependency failed; the cause says how. The record waits and is tried again in place."""

    def __init__(self, name: str, cause: BaseException) -> None:
        super().__init__(f"{name} failed: {cause!r}")
        self.name = name


class Breaker:
    """One dependency's circuit breaker, shared by all handlers of the process that use it.

    Args:
        threshold: failures in a row that open it.
        probe_after: seconds between probes while it is open.
    """

    def __init__(self, name: str, clock: Clock, *, threshold: int = 5, probe_after: float = 5.0) -> None:
        self.name = name
        self._clock = clock
        self._threshold = threshold
        self._probe_after = probe_after
        self._failures = 0
        self._probe_at = 0.0
        self._probing = False
        self._closed = asyncio.Event()
        self._closed.set()

    @property
    def state(self) -> State:
        """``open`` lets nobody through, ``half-open`` one."""
        if self._closed.is_set():
            return "closed"
        return "half-open" if self._probing else "open"

    async def enter(self) -> None:
        """Return when a call may be made: at once while closed, else when it closes or when it is our turn to probe."""
        while not self._closed.is_set():
            left = self._probe_at - self._clock.monotonic()
            if left <= 0 and not self._probing:
                self._probing = True
                return
            try:
                await asyncio.wait_for(self._closed.wait(), max(left, 0.05))
            except TimeoutError:
                continue

    def succeeded(self) -> None:
        """A call came back."""
        self._failures = 0
        self._probing = False
        if not self._closed.is_set():
            logger.warning("%s answers again", self.name)
            self._closed.set()

    def failed(self, error: BaseException) -> None:
        """A call did not."""
        self._failures += 1
        self._probing = False
        self._probe_at = self._clock.monotonic() + self._probe_after
        if self._failures >= self._threshold and self._closed.is_set():
            logger.error("%s is down, what needs it waits: %r", self.name, error)
            self._closed.clear()


class Dependencies:
    """The dependencies of one handler: the app's breakers, and which exceptions speak of which of them.

    Args:
        breakers: every breaker of the app, by name.
        errors: exception classes by the dependency they tell of, e.g. ``{"payments": (httpx.TransportError,)}``.
    """

    def __init__(
        self, breakers: dict[str, Breaker], clock: Clock, errors: Mapping[str, tuple[type[BaseException], ...]]
    ) -> None:
        self._breakers = breakers
        self._clock = clock
        self._errors = dict(errors)
        self._used = [self.breaker(name) for name in errors]

    def breaker(self, name: str) -> Breaker:
        """The breaker of this name, made if there is none."""
        if not name:
            raise UsageError("a dependency needs a name: event.dependency('payments')")
        found = self._breakers.get(name)
        if found is None:
            found = self._breakers[name] = Breaker(name, self._clock)
        return found

    async def enter(self) -> None:
        """Wait for those that the handler declares."""
        for breaker in self._used:
            await breaker.enter()

    def succeeded(self) -> None:
        """The handler returned, so what it declares has answered."""
        for breaker in self._used:
            if breaker.state != "closed" or breaker._failures:
                breaker.succeeded()

    def translate(self, error: Exception) -> Exception:
        """``DependencyDown`` for an exception that tells of a declared dependency; others as they are."""
        for name, kinds in self._errors.items():
            if isinstance(error, kinds):
                self.breaker(name).failed(error)
                down = DependencyDown(name, error)
                down.__cause__ = error
                return down
        return error

    @asynccontextmanager
    async def guard(self, name: str) -> AsyncIterator[None]:
        """Around calls of one dependency: every exception within tells of it. See ``EventContext.dependency``."""
        breaker = self.breaker(name)
        await breaker.enter()
        try:
            yield
        except Exception as exc:
            breaker.failed(exc)
            raise DependencyDown(name, exc) from exc
        breaker.succeeded()
