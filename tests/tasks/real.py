"""Workers and waiting, for tests on the real stack."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from headwater_ops.stack import Endpoints
from headwater_schemas.settings import Environment
from headwater_streams import StreamApp
from headwater_tasks import TaskFunction, install
from streams.running import running

T = TypeVar("T")
Workers = Callable[..., AbstractAsyncContextManager[StreamApp]]


@asynccontextmanager
async def running_worker(
    env: Environment, folder: Path, name: str, *functions: TaskFunction[..., Any], **options: Any
) -> AsyncIterator[StreamApp]:
    """A worker of these tasks in the running loop."""
    app = StreamApp(name, env=env, faust_settings={"web_enabled": False, "datadir": folder})
    install(app, *functions, **{"tiers": ("1s",), **options})
    try:
        async with running(app):
            yield app
    finally:
        app.codec.close()


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool], seconds: float = 20.0) -> T:
    """Look again and again until what is seen is good: other processes give no event to wait for."""
    async with asyncio.timeout(seconds):
        while not good(seen := await look()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return seen


class worker_process:  # noqa: N801 - used as a context manager
    """``headwater worker TARGET`` in a process of its own."""

    def __init__(self, target: str, endpoints: Endpoints, log: Path, **settings: str) -> None:
        self._command = [sys.executable, "-m", "headwater_ops.cli", "worker", target]
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
            **endpoints.settings(),
            "HEADWATER_WORKER_HTTP": "127.0.0.1:0",
            **settings,
        }
        self._log = log

    def __enter__(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, env=self._env, stdout=log, stderr=log)
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
