"""``@task``: a function that runs in the background, by name.

    @task("invoice.render", retry=Retry("1s", "10s", "1m"), timeout="30s")
    async def render(payload: RenderInvoice, ctx: TaskContext) -> dict: ...

The decorator declares and registers nothing: ``install(app, render)`` says which worker runs it. What it returns is
still called like the function, so a unit test needs no worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import msgspec

from headwater_schemas.durations import Duration, seconds
from headwater_schemas.errors import UsageError
from headwater_streams import DeadLetter, Retry
from headwater_streams.handlers.signature import annotation, positional
from headwater_tasks.names import check_type

__all__ = ["TaskFunction", "task"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """A declared task. Call it as the function that it is.

    Attributes:
        type: its name on the log.
        timeout: seconds for one attempt, or ``None``.
        is_async: whether it runs on the loop; others run in threads.
        takes_context: whether it has a second parameter.
    """

    def __init__(self, function: Callable[P, R], type_: str, retry: Retry, timeout: Duration | None) -> None:
        self.type = check_type(type_)
        self.retry = retry
        self.timeout = None if timeout is None else seconds(timeout)
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        payload, self.takes_context = _signature(function, type_)
        try:
            self._decoder = msgspec.json.Decoder(payload)
        except TypeError as exc:
            raise UsageError(f"task {type_}: its payload cannot be of type {payload!r}: {exc}") from exc
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", type_)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.type}>"

    def payload(self, data: bytes) -> Any:
        """The payload of a submission as the function wants it.

        Raises:
            DeadLetter: it does not fit; names the field.
        """
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as exc:
            raise DeadLetter(f"the payload does not fit: {exc}") from exc


def task(
    type: str,  # noqa: A002 - the field's name
    *,
    retry: Retry | None = None,
    timeout: Duration | None = None,
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]:
    """Declare a task. The function takes ``(payload)`` or ``(payload, ctx)`` and returns what JSON can hold.

    A payload parameter annotated with a msgspec struct, a dataclass or a typed dict is checked and made into one; else
    it is whatever the JSON is. The function may run more than once: make its effects idempotent, by ``ctx.id``.

    Args:
        type: the name by which it is submitted: words of ``a-z 0-9`` joined by ``. _ -``. One worker app runs a type.
        retry: when to try again after an exception; default ``Retry("1s", "10s", "1m")``. ``give_up_after`` counts from
            when the task was due.
        timeout: for one attempt. A coroutine is cancelled then; a thread cannot be stopped: its overrun counts when it
            returns.

    Raises:
        UsageError: a name or a signature that cannot be.
    """

    def declare(function: Callable[P, R]) -> TaskFunction[P, R]:
        return TaskFunction(function, type, retry or Retry("1s", "10s", "1m"), timeout)

    return declare


def _signature(function: Callable[..., Any], type_: str) -> tuple[Any, bool]:
    parameters = positional(function)
    if not 1 <= len(parameters) <= 2:
        raise UsageError(f"task {type_} must take (payload) or (payload, ctx); it takes {len(parameters)} arguments")
    payload = annotation(function, parameters[0])
    return Any if payload is None else payload, len(parameters) == 2
