"""Apps that run in the test's process, and waiting for what they bring about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import faust

__all__ = ["running", "until"]

A = TypeVar("A", bound=faust.App)


@asynccontextmanager
async def running(app: A) -> AsyncIterator[A]:
    """Start it, and stop it in the end."""
    app.finalize()
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for what another thread or process brings about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a broker gives no event to wait for
            await asyncio.sleep(0.02)
