"""The ground of ``EntityCache``: one Redis, one namespace, steps that run for threads and for asyncio, and an end."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from headwater_cache.connection import Connection
from headwater_cache.continuity import Continuity
from headwater_cache.space import Space
from headwater_cache.steps import Step

__all__ = ["Core"]

T = TypeVar("T")


class Core:
    """Connects when first used; every operation is a step, run by ``_sync`` or ``_async``."""

    def __init__(self, connection: Connection, space: Space) -> None:
        self._connection = connection
        self._space = space
        self._continuity = Continuity(space)

    @property
    def name(self) -> str:
        """The namespace."""
        return self._space.name

    @property
    def domain(self) -> str:
        """The version domain."""
        return self._space.domain

    def check(self) -> None:
        """Connect and check now what the first call would check.

        Raises:
            UnsafeRedis: a view on a Redis that may evict keys.
            NotPermitted: wrong password, or no right to run scripts on the keys of this namespace.
            WrongEpoch: the live epoch is beyond the one passed.
            CacheUnavailable: Redis does not answer.
        """
        self._sync(self._space.look())

    async def acheck(self) -> None:
        """``check`` for asyncio."""
        await self._async(self._space.look())

    def close(self) -> None:
        """Finish background work, close the connections of blocking callers."""
        self._connection.close()

    async def aclose(self) -> None:
        """Finish background work, close the connections of the running event loop."""
        await self._connection.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _checked(self, step: Step[T]) -> Step[T]:
        if self._space.due():
            yield from self._space.look()
        return (yield from step)

    def _sync(self, step: Step[T]) -> T:
        return self._connection.driver.run(step)

    def _async(self, step: Step[T]) -> Coroutine[Any, Any, T]:
        return self._connection.async_driver.run(step)
