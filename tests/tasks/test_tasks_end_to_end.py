"""Tasks on the real stack: submitted, run, seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from headwater_streams import Retry
from headwater_tasks import TaskClient, TaskContext, TaskState, task
from tasks.real import Workers

pytestmark = pytest.mark.timeout(60)


class Invoice(msgspec.Struct):
    number: int
    customer: str = "?"


async def test_a_submitted_task_is_seen_at_once_and_succeeds(
    client: TaskClient, working: Workers, unique: Callable[[str], str]
) -> None:
    name = unique("invoice")

    @task(f"{name}.render")
    async def render(payload: Invoice, ctx: TaskContext) -> dict[str, Any]:
        return {"pages": payload.number, "id": ctx.id, "attempt": ctx.attempt}

    handle = await client.submit(render.type, {"number": 3})
    seen = await handle.aget()
    assert seen is not None
    assert seen.state is TaskState.PENDING

    async with working(name, render):
        done = await handle.await_end("20s")

    assert done.state is TaskState.SUCCEEDED
    assert done.result is not None
    assert msgspec.json.decode(done.result) == {"pages": 3, "id": handle.id, "attempt": 1}
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.submitted_at <= done.started_at <= done.finished_at
    assert [step.state for step in await client.ahistory(handle.id)] == ["PENDING", "RUNNING", "SUCCEEDED"]
    await asyncio.sleep(0)


async def test_a_failing_task_waits_and_is_tried_again(
    client: TaskClient, working: Workers, unique: Callable[[str], str]
) -> None:
    name = unique("retry")
    attempts: list[int] = []

    @task(f"{name}.flaky", retry=Retry("100ms", "100ms"))
    async def flaky(payload: Any, ctx: TaskContext) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise RuntimeError(f"no luck in attempt {ctx.attempt}")
        return "ok"

    async with working(name, flaky):
        handle = await client.submit(flaky.type)
        done = await handle.await_end("20s")

    assert attempts == [1, 2, 3]
    assert (done.state, done.attempt, done.error) == (TaskState.SUCCEEDED, 3, None)
    steps = [(step.state, step.attempt) for step in await client.ahistory(handle.id)]
    assert ("RETRY_WAIT", 1) in steps
    assert ("RETRY_WAIT", 2) in steps
    assert steps[-1] == ("SUCCEEDED", 3)
