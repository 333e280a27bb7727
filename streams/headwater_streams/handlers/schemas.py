"""What running a handler needs of a codec besides a decoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Schemas"]


class Schemas(Protocol):
    """Fetches a schema without blocking the loop."""

    def missing_schema(self, value: bytes | None) -> int | None: ...

    async def prefetch(self, ids: Iterable[int]) -> None: ...
