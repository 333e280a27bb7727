"""``@cached``: read a function through a cache."""

from __future__ import annotations

import asyncio
import copy
import inspect
import re
from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper
from string import Formatter
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from headwater_cache.cache import EntityCache
from headwater_schemas.errors import UsageError

__all__ = ["CachedFunction", "cached"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


def cached(cache: EntityCache[Any], *, key: str) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
    """Read a function through ``cache`` (cache mode), plain or async alike.

        @cached(flights, key="flight:{number}")
        async def flight(number: str) -> Flight | None: ...

    On a miss one caller over all processes runs the function; ``None`` is remembered as not found for a short time. A
    bare result has no version: it lives until it expires or ``flight.invalidate("UA1")``; return ``Loaded(value,
    version)`` and change events keep it up to date as well.

    Args:
        cache: a cache in cache mode.
        key: a format of the function's parameter names. Every parameter that matters for the result belongs in it; of a
            method also what tells instances apart, such as ``{self.region}``.

    Raises:
        UsageError: the format names what is no parameter.
    """

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        return CachedFunction(cache, key, function)

    return decorate


class CachedFunction(Generic[P, R]):
    """A function and the cache it is read through. Calling it blocks, or is awaited, as the function itself.

    In a class body it is a method, and ``thing.method.invalidate(…)`` is that of the instance.
    """

    def __init__(self, cache: EntityCache[Any], key: str, function: Callable[P, R]) -> None:
        self._cache = cache
        self._format = key
        self._function = function
        self._signature = inspect.signature(function)
        self._is_async = inspect.iscoroutinefunction(function)
        self._bound: tuple[Any, ...] = ()
        update_wrapper(self, function)
        if self._is_async:
            _mark(self)
        self._check()

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(
        self: CachedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> CachedFunction[Q, R]: ...

    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[Any, R]:
        if instance is None:
            return self
        bound = copy.copy(self)
        bound._bound = (instance,)
        return bound

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call."""
        bound = self._signature.bind(*self._bound, *args, **kwargs)
        bound.apply_defaults()
        return self._format.format(**bound.arguments)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key, function = self.key(*args, **kwargs), cast("Callable[..., Any]", self._function)
        call = partial(function, *self._bound, *args, **kwargs)
        if self._is_async:
            return cast("R", self._read(key, call))
        return cast("R", self._cache.load(key, call).value)

    async def _read(self, key: str, function: Callable[[], Any]) -> Any:
        return (await self._cache.aload(key, function)).value

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool | Awaitable[bool]:
        """Forget the result of a call; awaited if the function is async. False if there was none."""
        key = self.key(*args, **kwargs)
        return self._cache.ainvalidate(key) if self._is_async else self._cache.invalidate(key)

    def _check(self) -> None:
        names = ", ".join(self._signature.parameters)
        try:
            fields = [field for _, field, _, _ in Formatter().parse(self._format) if field is not None]
        except ValueError:
            fields = [""]
        if not all(re.split(r"[.\[]", field, maxsplit=1)[0] in self._signature.parameters for field in fields):
            raise UsageError(
                f"key={self._format!r} does not fit {self._function.__qualname__}({names}): name its parameters "
                "in braces"
            )


def _mark(function: Any) -> None:
    """Say that calling it gives a coroutine, to those who ask ``asyncio`` or ``inspect``, such as FastAPI."""
    if hasattr(inspect, "markcoroutinefunction"):  # from Python 3.12 on
        inspect.markcoroutinefunction(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # the only way there
