"""Which partitions a worker remembers: each is restored from its change topic once, when its first batch arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["Memory"]

S = TypeVar("S")


class Memory(Generic[S]):
    """One store per partition. Belongs to one event loop.

    Args:
        restore: makes the store of a partition from the log.
    """

    def __init__(self, restore: Callable[[int], Awaitable[S]]) -> None:
        self._restore = restore
        self._stores: dict[int, asyncio.Future[S]] = {}

    async def of(self, partition: int) -> S:
        """The store of a partition; waits while it is restored, also if that was begun by another handler.

        Raises:
            Unavailable: the log cannot be read; the next call tries again.
        """
        store = self._stores.get(partition)
        if store is None:
            store = self._stores[partition] = asyncio.ensure_future(self._restore(partition))
        try:
            # Shielded: a batch that is cancelled must not cancel what the others wait for.
            return await asyncio.shield(store)
        except BaseException:
            if store.done() and self._stores.get(partition) is store:
                del self._stores[partition]
            raise

    def forget(self, partitions: Iterable[int]) -> None:
        """The partitions are no longer ours: what another worker does to them is not seen here."""
        for partition in partitions:
            self._stores.pop(partition, None)
