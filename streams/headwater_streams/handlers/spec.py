"""A handler's declaration, checked when it is made: what the decorators collect and the runner obeys."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError
from headwater_schemas.rates import per_second
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.limits import DeadLimit
from headwater_streams.handlers.policy import Retry
from headwater_streams.handlers.signature import annotation, positional

__all__ = ["BeforeDead", "HandlerSpec", "OnDead"]

OnDead = Literal["flow", "hold"]
BeforeDead = Callable[[EventContext], Awaitable[None]]
"""Awaited before a record becomes a dead letter."""


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler. Built by ``StreamApp.handler`` and ``StreamApp.batch_handler``.

    Attributes:
        value_type: the msgspec struct that values are made into; ``None`` gives dicts.
        takes_event: whether the function has a second parameter for the ``EventContext``.
        is_async: coroutine function, awaited on the loop; others run in threads.
        timeout: seconds for one attempt, or ``None``. A thread cannot be stopped: a synchronous handler that
            overruns is counted as timed out when it returns.
        rate: calls per second of this process, or ``None``.
        on_dead: what becomes of a key whose record died: it flows on, or is held.
        before_dead: of a batch handler: awaited before a record of it becomes a dead letter.
        decode: of a batch handler: reads a value in the codec's place.
        max_waiting: records that may wait in memory behind busy keys before the partitions are paused.
    """

    name: str
    topics: tuple[str, ...]
    function: Callable[..., Any]
    retry: Retry
    ordered: bool
    concurrency: int
    timeout: float | None
    value_type: type[Any] | None
    takes_event: bool
    is_async: bool
    max_waiting: int
    max_records: int
    rate: float | None = None
    depends_on: Mapping[str, tuple[type[BaseException], ...]] = field(default_factory=dict)
    dead_limit: DeadLimit | None = None
    batch: bool = False
    on_dead: OnDead = "flow"
    before_dead: BeforeDead | None = None
    decode: Callable[[bytes | None], Any] | None = None

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        topics: tuple[str, ...],
        *,
        name: str | None,
        retry: Retry | None,
        ordered: bool,
        concurrency: int,
        timeout: Duration | None,
        max_waiting: int,
        max_records: int,
        rate: str | None,
        depends_on: Mapping[str, tuple[type[BaseException], ...]] | None,
        dead_limit: DeadLimit | None,
        batch: bool,
        on_dead: OnDead = "flow",
        before_dead: BeforeDead | None = None,
        decode: Callable[[bytes | None], Any] | None = None,
    ) -> HandlerSpec:
        """Read the function's signature.

        Raises:
            UsageError: no topic, a number out of range, or a signature that a handler cannot have.
        """
        label = name or function.__name__
        if not topics:
            raise UsageError(f"handler {label} names no topic: @app.handler('orders.placed')")
        if concurrency < 1 or max_waiting < 1 or max_records < 1:
            raise UsageError(f"handler {label}: concurrency, max_waiting and max_records must be at least 1")
        if on_dead not in get_args(OnDead):
            raise UsageError(f"handler {label}: on_dead={on_dead!r} must be one of {', '.join(get_args(OnDead))}")
        policy = retry or Retry("1s", "10s", "1m")
        if on_dead == "hold" and not (ordered and policy.delays):
            raise UsageError(
                f"handler {label}: on_dead='hold' needs ordered=True and a retry delay: it keeps an order, and the"
                " letter comes back through a delay tier"
            )
        parameters = positional(function)
        most = 1 if batch else 2
        if not 1 <= len(parameters) <= most:
            wanted = "(batch)" if batch else "(value) or (value, event)"
            raise UsageError(f"handler {label} must take {wanted}; it takes {len(parameters)} arguments")
        return cls(
            name=label,
            topics=topics,
            function=function,
            retry=policy,
            ordered=ordered,
            concurrency=concurrency,
            timeout=None if timeout is None else seconds(timeout),
            value_type=None if batch else _value_type(function, parameters[0]),
            takes_event=len(parameters) == 2,
            is_async=inspect.iscoroutinefunction(function),
            max_waiting=max_waiting,
            max_records=max_records,
            rate=None if rate is None else per_second(rate),
            depends_on=dict(depends_on or {}),
            dead_limit=dead_limit,
            batch=batch,
            on_dead=on_dead,
            before_dead=before_dead,
            decode=decode,
        )


def _value_type(function: Callable[..., Any], parameter: inspect.Parameter) -> type[Any] | None:
    hint = annotation(function, parameter)
    return hint if isinstance(hint, type) and issubclass(hint, msgspec.Struct) else None
