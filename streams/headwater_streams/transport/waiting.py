"""Waiting for brokers: a worker that starts or rejoins while they are away waits for them, and says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headwater_schemas.errors import Unavailable

__all__ = ["until_available"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def until_available(call: Callable[[], Awaitable[T]], *, first: float = 0.2, longest: float = 5.0) -> T:
    """The answer of ``call``, asked again as long as it raises ``Unavailable``; never gives up. Other errors pass.

    Args:
        first: seconds before the second try; each wait is twice as long as the one before, up to ``longest``.
    """
    delay = first
    while True:
        try:
            return await call()
        except Unavailable as exc:
            logger.warning("waiting: %s", exc)
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)
