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
from typing import Any, Final, NamedTuple

import msgspec
from redis.exceptions import NoScriptError

from headwater_cache import RedisSettings
from headwater_cache.connection import Connection
from headwater_cache.steps import Ask, Batch, Command, Step
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import UsageError
from headwater_schemas.events import Task, TaskState
from headwater_tasks.state import TERMINAL, version

__all__ = ["CURSOR_PATTERN", "Placed", "TaskIndex", "check_cursor", "place_id"]

_INDEX: Final = "{task:index}"
Entry = tuple[str, str, str, str, str, int]

_TYPES: Final = "{task:index}:types"
_TOGETHER: Final = 200
_NOWHERE: Final = " " * 20
_SOURCE: Final = resources.files("headwater_tasks").joinpath("index.lua").read_text("utf-8")
_SHA: Final = hashlib.sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest()
CURSOR_PATTERN: Final = r"[0-9]{16}\.[!-~]{1,512}"


class Placed(NamedTuple):
    """A state of a task, and the offset of its change event; ``None``: it comes from the submission.

    Args:
        mends: it only repeats the newest state, so that the log ends with it.
    """

    task: Task
    offset: int | None = None
    mends: bool = False


class TaskIndex:
    """Reads and writes the index. Like the cache: one core, ``a…`` for asyncio, the other for threads.

    A listed task is ``time.id``, which is also the cursor behind it; ``place_id`` takes it apart.

    Errors of every operation: ``CacheUnavailable`` when Redis does not answer.
    """

    def __init__(self, redis: RedisSettings, clock: Clock | None = None) -> None:
        self._connection = Connection("task-index", redis, clock or SystemClock())

    async def aput_many(self, entries: Sequence[Placed]) -> list[str]:
        """Put tasks where their states say, unless the index knows a newer state.

        Gives the tasks whose newest state was written to the log before the older one that is given here: the log must
        end with the newest, so it has to be said again.
        """
        return await self._connection.async_driver.run(self._run([_entry(each) for each in entries])) if entries else []

    async def aremove_many(self, ids: Sequence[tuple[str, int]]) -> None:
        """Take tasks out, unless the index knows a newer state than these versions."""
        entries = [(id_, f"{number:019d}", "", _NOWHERE, "", 0) for id_, number in ids]
        if entries:
            await self._connection.async_driver.run(self._run(entries))

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

    async def aended_before(self, seconds: float, limit: int) -> list[str]:
        """Up to ``limit`` tasks of each type and terminal state that were submitted before, oldest first."""
        return await self._connection.async_driver.run(self._ended_before(seconds, limit))

    def close(self) -> None:
        """Close the connections of blocking callers."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connection.aclose()

    # -- steps ----------------------------------------------------------------------------------------------------

    def _run(self, entries: Sequence[Entry]) -> Step[list[str]]:
        # One argument for all: the client spends more on each argument than Redis on unpacking it.
        commands: list[Command] = [
            ("EVALSHA", _SHA, 1, _INDEX, msgspec.msgpack.encode(entries[start : start + _TOGETHER]))
            for start in range(0, len(entries), _TOGETHER)
        ]
        replies = yield Batch(commands)
        lacking = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lacking:
            yield Ask(("SCRIPT", "LOAD", _SOURCE))
            again = yield Batch([commands[at] for at in lacking])
            for at, reply in zip(lacking, again, strict=True):
                replies[at] = reply
        return [id_.decode() for reply in _checked(replies) for id_ in reply]

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

    def _ended_before(self, seconds: float, limit: int) -> Step[list[str]]:
        types = yield from self._all_types()
        last = f"({_micros(seconds)}."
        pages = yield from _ask(
            [
                ("ZRANGEBYLEX", f"{_INDEX}:{_place(type_, state)}", "-", last, "LIMIT", 0, limit)
                for type_ in types
                for state in sorted(TERMINAL)
            ]
        )
        return [member.decode() for page in pages for member in page]

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
    if re.fullmatch(CURSOR_PATTERN, text) is None:
        raise UsageError(f"cursor {text[:80]!r} is not one that a list gave")
    return text


def place_id(member: str) -> str:
    """The task's id of a listed member."""
    return member[17:]


def _ask(commands: Sequence[Command]) -> Step[list[Any]]:
    return _checked((yield Batch(commands)) if commands else [])


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _entry(placed: Placed) -> Entry:
    task, offset, mends = placed
    where = _NOWHERE if offset is None else f"{offset:020d}"
    return task.id, f"{version(task):019d}", _time(task), where, _place(task.type, task.state), int(mends)


def _place(type_: str, state: str) -> str:
    return f"{type_}/{state}"


def _time(task: Task) -> str:
    return _micros(task.submitted_at.timestamp())


def _micros(seconds: float) -> str:
    return f"{round(seconds * 1_000_000):016d}"
