"""One question for what many want to know of their own partitions at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

from faust.types import TP

__all__ = ["Together"]

A = TypeVar("A")


class Together(Generic[A]):
    """Call it like ``ask``: calls of one step of the loop become one call of ``ask`` with all their partitions.

    A worker that is given 200 partitions would otherwise ask the brokers hundreds of times, one after the other.
    """

    def __init__(self, ask: Callable[[Collection[TP]], Awaitable[A]]) -> None:
        self._ask = ask
        self._wanted: set[TP] = set()
        self._asking: asyncio.Task[A] | None = None

    async def __call__(self, partitions: Collection[TP]) -> A:
        """The answer for these partitions, and perhaps for others. A cancelled caller does not disturb the others."""
        self._wanted.update(partitions)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        return await asyncio.shield(self._asking)

    async def _ask_for_all(self) -> A:
        await asyncio.sleep(0)
        wanted, self._wanted, self._asking = self._wanted, set(), None
        return await self._ask(wanted)
