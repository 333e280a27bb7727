"""The source of truth behind a cache (cache mode): a database, a service."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Loaded", "Source"]

V = TypeVar("V")


class Loaded(NamedTuple, Generic[V]):
    """What a source gave.

    Args:
        value: the value.
        version: as ``headwater_cache.version`` takes it: a sequence number or an LSN.
        tags: what else the value depends on; ``invalidate_tags`` drops every entry that carries one of them.
    """

    value: V
    version: int | str
    tags: Sequence[str] = ()


class Source(Protocol[V]):
    """One kind of thing, at its source. Methods are plain or ``async``; from asyncio a plain one runs in a thread.

    Versions come from one sequence per namespace, or are the LSN. Not from a counter per row: that starts again at 1
    when a deleted row is inserted anew, and the new row would be refused for ever.
    """

    def load(self, key: str) -> Loaded[V] | Awaitable[Loaded[V] | None] | None:
        """The row as committed, ``None`` if there is none. Reads the primary, or a replica that has what was committed.

        Any error that it raises becomes a ``SourceFailed``, or a stale value where the policy allows one.
        """
        ...

    def write(self, key: str, value: V | None) -> int | str | Awaitable[int | str]:
        """Commit a value (``None`` deletes) and return its version. A delete gets a version of its own."""
        ...
