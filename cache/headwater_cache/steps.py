"""The seam between what the cache does and how it waits.

Everything above is written once, as generators that yield requests and are sent the replies. Two small drivers run
them: ``SyncDriver`` blocks, ``AsyncDriver`` awaits. So there is one core and no twin to keep in step, and a test can
drive a core request by request and stop it anywhere.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec
from redis.exceptions import NoScriptError

from headwater_cache.scripts import SCRIPTS, Script
from headwater_schemas.errors import UsageError

__all__ = [
    "Ask", "AsyncDriver", "AsyncPort", "Batch", "Call", "Command", "Gather", "Join", "Pause", "Read", "Request",
    "Spawn", "Step", "SyncDriver", "SyncPort", "evaluate", "evaluate_many",
]  # fmt: skip

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]


class Ask(msgspec.Struct, frozen=True):
    """One Redis command; replies with its reply, or raises."""

    command: Command


class Read(Ask, frozen=True):
    """One Redis command whose caller has another place to ask: it is given up after ``RedisSettings.read_timeout``."""


class Batch(msgspec.Struct, frozen=True):
    """Pipelined commands, not a transaction; replies with a list in which an error reply stands as an exception."""

    commands: Sequence[Command]


class Pause(msgspec.Struct, frozen=True):
    """Wait so many seconds."""

    seconds: float


class Join(msgspec.Struct, frozen=True):
    """Wait for a future of any thread: its result, its error, or TimeoutError after ``timeout`` seconds."""

    future: Future[Any]
    timeout: float | None = None


class Call(msgspec.Struct, frozen=True):
    """Call a function of the user's: plain or async. In the async driver a plain one runs in a thread."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Spawn(msgspec.Struct, frozen=True):
    """Run a step in the background; replies at once. The step handles its own errors."""

    step: Step[None]


class Gather(msgspec.Struct, frozen=True):
    """Run steps side by side (async) or one after the other (sync); replies with their results."""

    steps: Sequence[Step[Any]]


Request = Ask | Read | Batch | Pause | Join | Call | Spawn | Gather
Step = Generator[Request, Any, T]


def evaluate(script: Script, keys: list[str], args: list[str | bytes]) -> Step[Any]:
    """Run a script by its hash; load the scripts and run it again if the server lacks them (restart, failover)."""
    command = script.call(keys, args)
    try:
        return (yield Ask(command))
    except NoScriptError:
        yield Batch([("SCRIPT", "LOAD", each.source) for each in SCRIPTS])
        return (yield Ask(command))


def evaluate_many(commands: Sequence[Command]) -> Step[list[Any]]:
    """Run script calls in one pipeline, all of them again if a script was missing: their order is kept, and they are
    idempotent. Raises the first error reply."""
    replies: list[Any] = yield Batch(commands)
    if any(isinstance(reply, NoScriptError) for reply in replies):
        yield Batch([("SCRIPT", "LOAD", each.source) for each in SCRIPTS])
        replies = yield Batch(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


class SyncPort(Protocol):
    """Redis, blocking."""

    def ask(self, command: Command) -> Any: ...

    def read(self, command: Command) -> Any: ...

    def batch(self, commands: Sequence[Command]) -> list[Any]: ...


class AsyncPort(Protocol):
    """Redis, awaited."""

    async def ask(self, command: Command) -> Any: ...

    async def read(self, command: Command) -> Any: ...

    async def batch(self, commands: Sequence[Command]) -> list[Any]: ...


class SyncDriver:
    """Runs a step by blocking the calling thread. ``Spawn`` uses two threads that are started when first needed."""

    def __init__(self, port: SyncPort) -> None:
        self._port = port
        self._pool = ThreadPoolExecutor(2, "headwater-cache")

    def run(self, step: Step[T]) -> T:
        """Drive ``step`` to its end and return what it returns."""
        port = self._port
        try:
            request = next(step)
            while True:
                try:
                    reply = port.ask(request.command) if type(request) is Ask else self._do(request)
                except BaseException as exc:  # the step cleans up and raises it again
                    request = step.throw(exc)
                else:
                    request = step.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _do(self, request: Request) -> Any:
        match request:
            case Read(command):
                return self._port.read(command)
            case Ask(command):
                return self._port.ask(command)
            case Batch(commands):
                return self._port.batch(commands)
            case Pause(duration):
                return time.sleep(duration)
            case Join(future, timeout):
                return future.result(timeout)
            case Call(function, args):
                return _plain(function, args)
            case Spawn(step):
                self._pool.submit(self.run, step)
                return None
            case Gather(steps):
                return [self.run(each) for each in steps]
        raise AssertionError(request)

    def close(self) -> None:
        """Wait for what runs in the background."""
        self._pool.shutdown(wait=True)


class AsyncDriver:
    """Runs a step on the running event loop."""

    def __init__(self, port: AsyncPort) -> None:
        self._port = port
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, step: Step[T]) -> T:
        """Drive ``step`` to its end and return what it returns. Cancelling raises in the step, where it stands."""
        port = self._port
        try:
            request = next(step)
            while True:
                try:
                    reply = await (port.ask(request.command) if type(request) is Ask else self._do(request))
                except BaseException as exc:  # a cancelled step may still give its lease back
                    request = step.throw(exc)
                else:
                    request = step.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            step.close()

    async def _do(self, request: Request) -> Any:
        match request:
            case Read(command):
                return await self._port.read(command)
            case Ask(command):
                return await self._port.ask(command)
            case Batch(commands):
                return await self._port.batch(commands)
            case Pause(duration):
                return await asyncio.sleep(duration)
            case Join(future, timeout):
                return await _joined(future, timeout)
            case Call(function, args):
                if inspect.iscoroutinefunction(function):
                    return await function(*args)
                return await asyncio.to_thread(function, *args)
            case Spawn(step):
                self._start(self.run(step))
                return None
            case Gather(steps):
                return await asyncio.gather(*(self.run(each) for each in steps))
        raise AssertionError(request)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Wait for what runs in the background."""
        while self._background:
            await asyncio.wait(self._background)


async def _joined(future: Future[T], timeout: float | None) -> T:
    """The result, if it comes in time. What comes later concerns others, and is no failure that nobody has seen."""
    waiter = asyncio.wrap_future(future)
    waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.wait_for(asyncio.shield(waiter), timeout)


def _plain(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    if inspect.iscoroutinefunction(function):
        raise UsageError(
            f"{function.__qualname__} is async: use the a… methods of the cache (aget, aput), or pass a plain one"
        )
    return function(*args)
