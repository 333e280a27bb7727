"""What a task went through: the states that its last one does not tell.

The view keeps the last state of a task, and of a task that went straight through that tells everything: submitted,
started, ended. Whatever else happens (RUNNING for long, a failed attempt, another run) the projection also writes
here: a Redis hash per task, its fields the states' versions, so repetition changes nothing. Rebuilt from a compacted
log, only the last states remain: history is as long as Redis remembers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from headwater_cache import RedisSettings
from headwater_cache.connection import Connection
from headwater_cache.steps import Ask, Batch, Command, Step
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.events import Task, TaskState
from headwater_tasks.state import TERMINAL, version

__all__ = ["TaskHistory", "Transition"]

_PREFIX: Final = "{task:history}:"


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One state that a task was in.

    Attributes:
        at: when it came to be so.
        due_at: when the next attempt was to be made (RETRY_WAIT) or the first (PENDING).
    """

    state: TaskState
    run: int
    attempt: int
    at: datetime
    due_at: datetime | None = None
    error: str | None = None
    message: str | None = None
    worker: str | None = None


class TaskHistory:
    """Reads and writes histories.

    Errors of every operation: ``CacheUnavailable`` when Redis does not answer.
    """

    def __init__(self, redis: RedisSettings, clock: Clock | None = None) -> None:
        self._connection = Connection("task-history", redis, clock or SystemClock())
        self._encode = msgspec.json.encode
        self._decode = msgspec.json.Decoder(list[Transition]).decode

    async def aput_many(self, tasks: Sequence[Task]) -> None:
        """Remember states that their successors will not tell."""
        commands: list[Command] = [
            ("HSET", _PREFIX + task.id, f"{version(task):019d}", self._encode(transitions_of(task)))
            for task in tasks
            if worth_keeping(task)
        ]
        if commands:
            await self._connection.async_driver.run(_do(commands))

    async def aremove_many(self, ids: Sequence[str]) -> None:
        """Forget tasks."""
        if ids:
            await self._connection.async_driver.run(_do([("UNLINK", _PREFIX + id_) for id_ in ids]))

    def of(self, task: Task) -> list[Transition]:
        """What ``task`` went through, oldest first; the last is the state that it is in."""
        return self._connection.driver.run(self._of(task))

    async def aof(self, task: Task) -> list[Transition]:
        """``of`` for asyncio."""
        return await self._connection.async_driver.run(self._of(task))

    def _of(self, task: Task) -> Step[list[Transition]]:
        kept = yield Ask(("HGETALL", _PREFIX + task.id))
        found: dict[tuple[int, int, str], Transition] = {}
        for told in (*(self._decode(kept[field]) for field in sorted(kept)), transitions_of(task)):
            for before in told[:-1]:
                found.setdefault(_place(before), before)
            found[_place(told[-1])] = told[-1]  # it tells more of itself than its successors do
        return sorted(found.values(), key=_order)

    def close(self) -> None:
        """Close the connections of blocking callers."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connection.aclose()


def worth_keeping(task: Task) -> bool:
    """Whether a later state would not tell of this one."""
    if task.state in TERMINAL:
        return task.run > 1 or task.state is not TaskState.SUCCEEDED or task.attempt > 1
    return task.state is not TaskState.PENDING or task.run > 1


def transitions_of(task: Task) -> list[Transition]:
    """What a state tells of the past, oldest first, itself last."""

    def of(state: TaskState, attempt: int, at: datetime) -> Transition:
        own = state is task.state
        return Transition(
            state=state,
            run=task.run,
            attempt=attempt,
            at=at,
            due_at=task.due_at if own else None,
            error=task.error if own else None,
            message=task.message if own else None,
            worker=task.worker if attempt else None,
        )

    told = [of(TaskState.PENDING, 0, task.submitted_at)]
    if task.started_at is not None:
        told.append(of(TaskState.RUNNING, task.attempt, task.started_at))
    if task.state not in (TaskState.PENDING, TaskState.RUNNING):
        told.append(of(task.state, task.attempt, task.finished_at or task.submitted_at))
    return told


def _place(known: Transition) -> tuple[int, int, str]:
    return known.run, known.attempt, known.state


def _order(known: Transition) -> tuple[int, int, bool, datetime]:
    return known.run, known.attempt, known.state is not TaskState.RUNNING, known.at


def _do(commands: Sequence[Command]) -> Step[None]:
    for reply in (yield Batch(commands)):
        if isinstance(reply, Exception):
            raise reply
