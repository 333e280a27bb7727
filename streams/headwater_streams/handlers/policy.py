"""What becomes of a record whose handler raised: one frozen policy, three exceptions, one function that decides.

Retry          how often and when to try again; given to ``@app.handler(retry=…)``
RetryLater     raised by a handler: try this record again after a delay
DeadLetter     raised by a handler: this record is poison, do not try again
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import (
    RecordTooLarge,
    SchemaMismatch,
    Unavailable,
    UsageError,
)
from headwater_schemas.wire import Reason

__all__ = [
    "Again",
    "DeadLetter",
    "Decision",
    "Die",
    "HandlerTimeout",
    "Later",
    "Pause",
    "Retry",
    "RetryLater",
    "decide",
]


class RetryLater(Exception):
    """Try this record again after ``delay`` (a duration such as ``"25s"``), outside the policy's own steps.

    It counts as an attempt; ``Retry.give_up_after`` still bounds it. The delay starts when the handler raised.
    """

    def __init__(self, delay: Duration, message: str = "") -> None:
        super().__init__(message or f"asked to be tried again after {delay}")
        self.delay = seconds(delay)


class DeadLetter(Exception):
    """Send this record to the dead-letter topic now; trying again cannot help."""


class HandlerTimeout(Exception):
    """The handler did not return within its time limit."""


class Retry:
    """When to try a failed record again.

    Args:
        delays: the waits before each further attempt, e.g. ``Retry("1s", "10s", "1m")``: three retries, each from a
            delay tier (a topic), so that a restart loses none. No delays: the first failure is a dead letter.
        immediate: tries in place, at once, before each delay is used. They do not survive a restart as counts.
        jitter: each delay is lengthened by up to this fraction at random, so that a herd does not return at once.
        never: exceptions that are dead letters at the first failure.
        give_up_after: a record older than this since its first failure is a dead letter (reason ``expired``).

    Raises:
        UsageError: a delay is malformed, or a number is out of range.
    """

    __slots__ = ("delays", "give_up_after", "immediate", "jitter", "never")

    def __init__(
        self,
        *delays: Duration,
        immediate: int = 0,
        jitter: float = 0.0,
        never: tuple[type[BaseException], ...] = (),
        give_up_after: Duration | None = None,
    ) -> None:
        self.delays = tuple(seconds(delay) for delay in delays)
        if any(delay < 0.001 for delay in self.delays):
            raise UsageError("a retry delay must be at least 1ms; use immediate=N for tries without delay")
        if immediate < 0 or not 0 <= jitter <= 1:
            raise UsageError(f"immediate={immediate} must be >= 0 and jitter={jitter} between 0 and 1")
        self.immediate = immediate
        self.jitter = jitter
        self.never = never
        self.give_up_after = None if give_up_after is None else seconds(give_up_after)

    def __repr__(self) -> str:
        return f"Retry{self.delays}"


@dataclass(frozen=True, slots=True)
class Again:
    """Try in place, now."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Something we depend on is away: wait here and try again; the record has not failed."""


@dataclass(frozen=True, slots=True)
class Later:
    """Try again after ``delay`` seconds, from a delay tier."""

    delay: float


@dataclass(frozen=True, slots=True)
class Die:
    """To the dead-letter topic."""

    reason: Reason


Decision = Again | Pause | Later | Die


def decide(
    policy: Retry,
    error: BaseException,
    *,
    attempt: int,
    immediate: int,
    age: float,
    unreadable: bool = False,
    uniform: Callable[[], float] = random.random,
) -> Decision:
    """The one place where a failed record's fate is decided. Pure.

    Args:
        attempt: failures before this one that ended in a delay tier (0 at the first).
        immediate: tries in place made since the last delay.
        age: seconds since the record first failed.
        unreadable: the error is that of reading the record itself; the same error from inside the handler, about what
            else it reads, is a failure like any other.
        uniform: a number in [0, 1), for the jitter.
    """
    # Bytes that cannot be read stay unreadable; a schema fix makes the second kind redrivable.
    if unreadable:
        return Die("schema" if isinstance(error, SchemaMismatch) else "decode")
    # An outage is nobody's fault: dead-lettering through it would empty the topic into the dead letters.
    if isinstance(error, Unavailable):
        return Pause()
    if isinstance(error, (DeadLetter, *policy.never)):
        return Die("handler")
    # What the handler tried to emit can never be sent.
    if isinstance(error, RecordTooLarge):
        return Die("too-large")
    if policy.give_up_after is not None and age > policy.give_up_after:
        return Die("expired")
    if isinstance(error, RetryLater):
        return Later(error.delay)
    if immediate < policy.immediate:
        return Again()
    if attempt < len(policy.delays):
        return Later(policy.delays[attempt] * (1 + policy.jitter * uniform()))
    return Die("timeout" if isinstance(error, HandlerTimeout) else "handler")
