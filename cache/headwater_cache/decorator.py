"""``@cached``: read a function through a cache."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast

from headwater_cache.cache import EntityCache
from headwater_schemas.errors import UsageError

__all__ = ["CachedFunction", "cached"]

P = ParamSpec("P")
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
        key: a format of the function's parameter names. Every parameter that matters for the result belongs in it.

    Raises:
        UsageError: the format names what is no parameter.
    """

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        return CachedFunction(cache, key, function)

    return decorate


class CachedFunction(Generic[P, R]):
    """A function and the cache it is read through. Calling it blocks, or is awaited, as the function itself."""

    def __init__(self, cache: EntityCache[Any], key: str, function: Callable[P, R]) -> None:
        self._cache = cache
        self._format = key
        self._function = function
        self._signature = inspect.signature(function)
        self._is_async = inspect.iscoroutinefunction(function)
        update_wrapper(self, function)
        self._check()

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._format.format(**bound.arguments)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self.key(*args, **kwargs)
        if self._is_async:
            return cast("R", self._read(key, partial(self._function, *args, **kwargs)))
        return cast("R", self._cache.load(key, partial(self._function, *args, **kwargs)).value)

    async def _read(self, key: str, function: Callable[[], Any]) -> Any:
        return (await self._cache.aload(key, function)).value

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool | Awaitable[bool]:
        """Forget the result of a call; awaited if the function is async. False if there was none."""
        key = self.key(*args, **kwargs)
        return self._cache.ainvalidate(key) if self._is_async else self._cache.invalidate(key)

    def _check(self) -> None:
        try:
            self._format.format(**dict.fromkeys(self._signature.parameters, ""))
        except (KeyError, IndexError, ValueError) as exc:
            names = ", ".join(self._signature.parameters)
            raise UsageError(
                f"key={self._format!r} does not fit {self._function.__qualname__}({names}): name its parameters "
                "in braces"
            ) from exc
