"""The index of the tasks: which are of a type and in a state, newest first. Redis sorted sets, one per type and state.

The view alone answers "what is task X"; this answers "which tasks are DEAD". The projection keeps both, the view first.
An entry moves by the version of its state, in one script, so repetition and disorder change nothing. It may be a moment
behind the view: whoever lists reads the tasks from the view and leaves out those that have moved on.

All keys share one hash tag, hence one slot of a Cluster.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

import msgspec
from redis.exceptions import NoScriptError

from headwater_cache import RedisSettings
from headwater_cache.connection import Connection
from headwater_cache.steps import Ask, Batch, Command, Step
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import UsageError
from headwater_schemas.events import Task, TaskState
from headwater_tasks.state import version

__all__ = ["TaskIndex", "check_cursor", "place_id"]

_INDEX: Final = "{task:index}"
_TYPES: Final = "{task:index}:types"
_TOGETHER: Final = 200
_SOURCE: Final = resources.files("headwater_tasks").joinpath("index.lua").read_text("utf-8")
_SHA: Final = hashlib.sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest()
_CURSOR: Final = re.compile(r"[0-9]{16}\.[!-~]{1,512}")


class TaskIndex:
    """Reads and writes the index. Like the cache: one core, ``a…`` for asyncio, the other for threads.

    A listed task is ``time.id``, which is also the cursor behind it; ``place_id`` takes it apart.

    Errors of every operation: ``CacheUnavailable`` when Redis does not answer.
    """

    def __init__(self, redis: RedisSettings, clock: Clock | None = None) -> None:
        self._connection = Connection("task-index", redis, clock or SystemClock())
        self._types: set[str] = set()

    async def aput_many(self, tasks: Sequence[Task]) -> None:
        """Put tasks where their states say, unless the index knows a newer state."""
        if tasks:
            await self._connection.async_driver.run(self._put_many(tasks))

    def page(
        self, types: Sequence[str] | None, states: Sequence[TaskState], after: str | None, limit: int
    ) -> list[str]:
        """Up to ``limit`` tasks of these types (``None``: all) and states, newest first, behind ``after``."""
        return self._connection.driver.run(self._page(types, states, after, limit))

    async def apage(
        self, types: Sequence[str] | None, states: Sequence[TaskState], after: str | None, limit: int
    ) -> list[str]:
        """``page`` for asyncio."""
        return await self._connection.async_driver.run(self._page(types, states, after, limit))

    async def acounts(self) -> Mapping[tuple[str, TaskState], int]:
        """How many tasks there are, by type and state."""
        return await self._connection.async_driver.run(self._counts())

    async def aoldest(self, type_: str, state: TaskState, limit: int) -> list[str]:
        """The first tasks of a type and state, oldest first."""
        command = ("ZRANGE", f"{_INDEX}:{_place(type_, state)}", 0, limit - 1)
        (members,) = await self._connection.async_driver.run(_ask([command]))
        return [member.decode() for member in members]

    def close(self) -> None:
        """Close the connections of blocking callers."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connection.aclose()

    # -- steps ----------------------------------------------------------------------------------------------------

    def _put_many(self, tasks: Sequence[Task]) -> Step[None]:
        new = {task.type for task in tasks} - self._types
        if new:
            yield Ask(("SADD", _TYPES, *sorted(new)))
            self._types |= new
        commands: list[Command] = []
        for start in range(0, len(tasks), _TOGETHER):
            # One argument for all: the client spends more on each argument than Redis on unpacking it.
            entries = [
                (task.id, f"{version(task):019d}", _time(task), _place(task.type, task.state))
                for task in tasks[start : start + _TOGETHER]
            ]
            commands.append(("EVALSHA", _SHA, 1, _INDEX, msgspec.msgpack.encode(entries)))
        replies = yield Batch(commands)
        lacking = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lacking:
            yield Ask(("SCRIPT", "LOAD", _SOURCE))
            yield from _ask([commands[at] for at in lacking])
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                raise reply

    def _page(
        self, types: Sequence[str] | None, states: Sequence[TaskState], after: str | None, limit: int
    ) -> Step[list[str]]:
        wanted = (yield from self._all_types()) if types is None else types
        start = "+" if after is None else f"({after}"
        pages = yield from _ask(
            [
                ("ZREVRANGEBYLEX", f"{_INDEX}:{_place(type_, state)}", start, "-", "LIMIT", 0, limit)
                for type_ in wanted
                for state in states
            ]
        )
        return heapq.nlargest(limit, (member.decode() for page in pages for member in page))

    def _all_types(self) -> Step[list[str]]:
        names = yield Ask(("SMEMBERS", _TYPES))
        return sorted(name.decode() for name in names)

    def _counts(self) -> Step[dict[tuple[str, TaskState], int]]:
        types = yield from self._all_types()
        places = [(type_, state) for type_ in types for state in TaskState]
        sizes = yield from _ask([("ZCARD", f"{_INDEX}:{_place(*place)}") for place in places])
        return dict(zip(places, sizes, strict=True))


def check_cursor(text: str) -> str:
    """``text`` itself, when it may be one that a list gave.

    Raises:
        UsageError: it may not.
    """
    if _CURSOR.fullmatch(text) is None:
        raise UsageError(f"cursor {text[:80]!r} is not one that a list gave")
    return text


def place_id(member: str) -> str:
    """The task's id of a listed member."""
    return member[17:]


def _ask(commands: Sequence[Command]) -> Step[list[Any]]:
    replies: list[Any] = (yield Batch(commands)) if commands else []
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _place(type_: str, state: str) -> str:
    return f"{type_}/{state}"


def _time(task: Task) -> str:
    return f"{round(task.submitted_at.timestamp() * 1_000_000):016d}"
