"""``@idempotent``: run a handler unless its record was handled already."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, Protocol, TypeVar

from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError
from headwater_streams.handlers.context import EventContext

__all__ = ["Store", "idempotent"]

F = TypeVar("F", bound=Callable[..., Any])
KeyOf = Callable[[Any, EventContext], str]

_LONGEST: Final = 200
_LOOK_SECONDS: Final = 0.001


class Store(Protocol):
    """Where it is remembered what was handled: ``RedisMarks`` or ``Inbox``.

    Attributes:
        gives: names of the arguments that it adds to the handler's.
    """

    gives: ClassVar[tuple[str, ...]]

    def run(self, name: str, key: str, ttl: float, call: Callable[..., object]) -> None:
        """Call ``call`` unless ``key`` was handled by ``name`` in the last ``ttl`` seconds. Blocks."""
        ...

    async def arun(self, name: str, key: str, ttl: float, call: Callable[..., Awaitable[object]]) -> None:
        """``run`` for coroutine functions."""
        ...


def idempotent(
    store: Store, *, key: KeyOf | None = None, ttl: Duration = "7d", name: str | None = None
) -> Callable[[F], Callable[..., Any]]:
    """Skip records that this handler has handled already. Stands below ``@app.handler``::

        marks = RedisMarks.from_env("billing")

        @app.handler("orders.placed")
        @idempotent(marks, key=lambda order, event: order.order_id, ttl="7d")
        async def charge(order: OrderPlaced, event: EventContext) -> None: ...

    A record counts as handled when the function has returned *and* everything that it emitted (``event.emit``) is
    acknowledged, so what a skipped record should have emitted stands on the log. A function that raises is not
    marked: its retries run. See the store for what a crash in between means.

    Args:
        store: where it is remembered; it says how far the promise goes.
        key: what makes two records the same, of the value and the event. Default ``event.id``, which catches what is
            delivered twice, but not what a sender emitted twice under two ids: name a business key for that.
        ttl: how long it is remembered. A repetition that comes later runs again, so it must exceed the longest way
            round: retry delays, how far you replay, how late an operator redrives a dead letter.
        name: stands in the store, so that each handler remembers for itself; keep it when you rename the function.
            Default: the function's name.

    Raises:
        UsageError: the function's parameters are not ``(value)``, ``(value, event)`` or, with ``Inbox``, ``(value,
            event, session)``; or ``ttl`` is zero.
    """
    memory = seconds(ttl)
    if memory < 0.001:
        raise UsageError(f"ttl={ttl!r}: pass how long a handled record is remembered, at least '1ms'")

    def decorate(function: F) -> Callable[..., Any]:
        label = name or function.__name__
        takes_event, value = _parameters(function, label, store.gives)
        key_of = key or _id_of

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(value: Any, event: EventContext) -> None:
                async def call(*given: Any) -> None:
                    await (function(value, event, *given) if takes_event else function(value))
                    await _acknowledged(event)

                await store.arun(label, _stored(key_of(value, event)), memory, call)

            handler: Callable[..., Any] = awaited
        else:

            @functools.wraps(function)
            def called(value: Any, event: EventContext) -> None:
                def call(*given: Any) -> None:
                    function(value, event, *given) if takes_event else function(value)
                    _await_acknowledged(event)

                store.run(label, _stored(key_of(value, event)), memory, call)

            handler = called
        # What the app reads: the value's type is the function's, and an event is always wanted.
        event = inspect.Parameter("event", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        handler.__signature__ = inspect.Signature([value, event])  # type: ignore[attr-defined]
        handler.awaits_acknowledgements = True  # type: ignore[attr-defined]
        return handler

    return decorate


def _parameters(function: Callable[..., Any], label: str, given: tuple[str, ...]) -> tuple[bool, inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    allowed = {3} if given else {1, 2}
    if len(parameters) not in allowed:
        wanted = ", ".join(("value", "event", *given)) if given else "value) or (value, event"
        raise UsageError(f"handler {label} must take ({wanted}); it takes {len(parameters)} arguments")
    return len(parameters) > 1, parameters[0].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _id_of(_value: Any, event: EventContext) -> str:
    return event.id


def _stored(key: str) -> str:
    """The key as it is stored: as it is, or its hash if it is long or has characters that a store may refuse."""
    if not isinstance(key, str) or not key:
        raise UsageError(f"key= gave {key!r}: an idempotency key is a text that is not empty")
    if len(key) <= _LONGEST and key.isprintable():
        return key
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


# Both look now and then instead of being told, because only a handler that emits as its last act ever waits here.


async def _acknowledged(event: EventContext) -> None:
    while event.unacked:  # noqa: ASYNC110 - see above
        await asyncio.sleep(_LOOK_SECONDS)
    if event.refused is not None:
        raise event.refused


def _await_acknowledged(event: EventContext) -> None:
    while event.unacked:
        time.sleep(_LOOK_SECONDS)
    if event.refused is not None:
        raise event.refused
