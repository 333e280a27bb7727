"""Care for what handlers depend on: a circuit breaker per named dependency.

While a dependency is down nothing that needs it can succeed, so its failures are no failures of records: they use up
no attempts and make no dead letters. After a few of them in a row the breaker opens and the handlers that use the
dependency wait, records in hand; then one record every few seconds probes, and the first that succeeds lets all go on.
Handlers that do not use it never notice. (The pattern: M. Nygard, Release It!; KIP-1316 drafts the same for brokers.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from headwater_schemas.clock import Clock
from headwater_schemas.errors import BadRecord, Unavailable, UsageError
from headwater_streams.handlers.policy import DeadLetter, HandlerTimeout, RetryLater
from headwater_streams.handlers.waits import Waits
from headwater_streams.handlers.worker import Worker

__all__ = ["Breaker", "Dependencies", "DependencyDown"]

logger = logging.getLogger(__name__)

State = Literal["closed", "open", "half-open"]

_DECISIONS = (DeadLetter, RetryLater)


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
        self._closed = True
        self._waits = Waits(clock)

    @property
    def state(self) -> State:
        """``open`` lets nobody through; ``half-open``: a probe was let through and has not told yet."""
        if self._closed:
            return "closed"
        return "half-open" if self._probing else "open"

    async def enter(self) -> None:
        """Return when a call may be made: at once while closed, else when it closes or when it is our turn to probe.

        The next turn comes by time alone: a probe may be cancelled, hang, or fail of its own record, and tell nothing.
        """
        while not self._closed:
            now = self._clock.monotonic()
            left = self._probe_at - now
            if left <= 0:
                self._probing = True
                self._probe_at = now + self._probe_after
                return
            await self._waits.doze(left)

    def ring(self) -> None:
        """Let those look again whose turn it may be by the clock."""
        self._waits.ring()

    def succeeded(self) -> None:
        """A call came back."""
        self._failures = 0
        self._probing = False
        if not self._closed:
            logger.warning("%s answers again", self.name)
            self._closed = True
            self._waits.wake()

    def failed(self, error: BaseException) -> None:
        """A call did not."""
        self._failures += 1
        self._probing = False
        self._probe_at = self._clock.monotonic() + self._probe_after
        if self._failures >= self._threshold and self._closed:
            logger.error("%s is down, what needs it waits: %r", self.name, error)
            self._closed = False


class Dependencies:
    """The dependencies of one handler: the app's breakers, and which exceptions speak of which of them.

    Args:
        breakers: every breaker of the app, by name.
        errors: exception classes by the dependency they tell of, e.g. ``{"payments": (httpx.TransportError,)}``.
        never: exceptions that are dead letters at once, see ``Retry``.

    Attributes:
        waiting: how many calls of the handler wait for a breaker.
    """

    def __init__(
        self,
        breakers: dict[str, Breaker],
        clock: Clock,
        errors: Mapping[str, tuple[type[BaseException], ...]],
        never: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._breakers = breakers
        self._clock = clock
        self._errors = dict(errors)
        self.waiting = 0
        # What no waiting could mend.
        self._answers: tuple[type[BaseException], ...] = (*_DECISIONS, UsageError, BadRecord, *never)
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
            await self._enter(breaker)

    def ring(self) -> None:
        """Let those that wait look again at the clock."""
        for breaker in self._breakers.values():
            breaker.ring()

    async def _enter(self, breaker: Breaker) -> None:
        self.waiting += 1
        try:
            await breaker.enter()
        finally:
            self.waiting -= 1

    def succeeded(self) -> None:
        """The handler returned, so what it declares has answered."""
        for breaker in self._used:
            if breaker.state != "closed" or breaker._failures:
                breaker.succeeded()

    def translate(self, error: Exception) -> Exception:
        """``DependencyDown`` for an exception that tells of a declared dependency; others as they are."""
        if isinstance(error, (DependencyDown, *_DECISIONS)):
            return error
        for name, kinds in self._errors.items():
            if isinstance(error, kinds):
                self.breaker(name).failed(error)
                down = DependencyDown(name, error)
                down.__cause__ = error
                return down
        return error

    @asynccontextmanager
    async def guard(self, name: str, worker: Worker) -> AsyncIterator[None]:
        """Around calls of one dependency by the handler that ``worker`` runs; see ``EventContext.dependency``."""
        breaker = self.breaker(name)
        try:
            await self._enter(breaker)
            with self._judged(breaker, worker):
                yield
        except asyncio.CancelledError:
            if worker.overdue:
                worker.hung = name
            raise

    @contextmanager
    def _judged(self, breaker: Breaker, worker: Worker) -> Iterator[None]:
        try:
            yield
        except self._answers:
            breaker.succeeded()
            raise
        except asyncio.CancelledError:
            # Of a worker that ends it tells nothing; of one whose time is over, that no answer came.
            if worker.overdue:
                breaker.failed(HandlerTimeout(f"no answer from {breaker.name} within the handler's time limit"))
            raise
        except Exception as exc:
            breaker.failed(exc)
            raise DependencyDown(breaker.name, exc) from exc
        breaker.succeeded()
