"""Running an app as this process: finding it, an event loop, Faust's worker around it, the health endpoints."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import faust

from headwater_ops.collector import calm
from headwater_schemas.errors import HeadwaterError, UsageError
from headwater_streams.health import HealthServer

__all__ = ["load", "run"]


def load(target: str) -> faust.App:
    """The app that ``MODULE:APP`` names; the working directory is looked into first.

    Raises:
        UsageError: there is no such module or app. Errors of the module itself are raised as they are.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"{target!r} names no app: pass MODULE:APP, such as billing.worker:app")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # the module is there and misses another
        raise UsageError(f"there is no module {exc.name} in {folder} nor among the installed packages") from exc
    found = getattr(module, name, None)
    if isinstance(found, faust.App):
        return found
    apps = ", ".join(f"{module_name}:{key}" for key, value in vars(module).items() if isinstance(value, faust.App))
    is_what = f"there is no {target}" if found is None else f"{target} is no app but of type {type(found).__name__}"
    raise UsageError(f"{is_what}; {f'pass {apps}' if apps else f'{module_name} makes no StreamApp'}")


def run(app: faust.App, log_level: str) -> None:
    """Run the app in this process until a signal stops it.

    Faust's own web server stays off: it would show tables to whoever asks.

    Raises:
        HeadwaterError: it could not start; the error says what to do.
        SystemExit: always otherwise; code 0 after a signal, 1 after a crash, which is logged.
    """
    asyncio.set_event_loop(_new_loop())
    app.conf.web_enabled = False
    worker = _Worker(app, HealthServer(app), loglevel=log_level, redirect_stdouts=False, quiet=True)
    worker.spinner = None
    calm()
    try:
        worker.execute_from_commandline()
    except SystemExit:
        if worker.refusal is not None:
            raise worker.refusal from None
        raise


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class _Worker(faust.Worker):
    """Keeps an error of ours that ends the start, for the command line to print; Faust would log a traceback."""

    refusal: HeadwaterError | None = None

    async def start(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().start(*args, **kwargs)
        except HeadwaterError as exc:
            self.refusal = exc
