"""Tasks on the real stack: one worker and one projection, every state seen through the client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from headwater_schemas.settings import Environment
from headwater_streams import Retry
from headwater_tasks import TaskClient, TaskConflict, TaskContext, TaskFailed, TaskNotFound, TaskState, task
from tasks.real import running_worker, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]

NAME = f"e2e-{uuid.uuid4().hex[:8]}"
RAN: list[tuple[str, int, int]] = []


class Invoice(msgspec.Struct):
    number: int


@task(f"{NAME}.render")
async def render(payload: Invoice, ctx: TaskContext) -> dict[str, Any]:
    RAN.append((ctx.id, ctx.run, ctx.attempt))
    return {"pages": payload.number}


@task(f"{NAME}.flaky", retry=Retry("100ms", "100ms"))
async def flaky(payload: Any, ctx: TaskContext) -> str:
    if ctx.attempt < 3:
        raise RuntimeError(f"no luck in attempt {ctx.attempt}")
    return "ok"


@task(f"{NAME}.dies", retry=Retry())
async def dies(payload: Any, ctx: TaskContext) -> str:
    if ctx.run == 1:
        raise RuntimeError("not in the first run")
    return "ok"


@task(f"{NAME}.refuses")
async def refuses(payload: Any) -> None:
    raise TaskFailed("never")


@task(f"{NAME}.sleeps")
async def sleeps(payload: float, ctx: TaskContext) -> None:
    RAN.append((ctx.id, ctx.run, ctx.attempt))
    ctx.progress(0.5, "half way")
    await asyncio.sleep(payload)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(topics: Environment, projection: None, tmp_path_factory: Any) -> AsyncIterator[TaskClient]:
    """A client beside a running worker."""
    folder = tmp_path_factory.mktemp("worker")
    async with TaskClient.from_env(topics, source="tests") as made:
        async with running_worker(topics, folder, NAME, render, flaky, dies, refuses, sleeps):
            yield made


async def test_a_submitted_task_is_found_at_once_and_succeeds(client: TaskClient) -> None:
    handle = await client.submit(render.type, {"number": 3})
    assert await handle.aget() is not None

    done = await handle.await_end("20s")

    assert done.state is TaskState.SUCCEEDED
    assert done.result == b'{"pages":3}'
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.submitted_at <= done.started_at <= done.finished_at
    assert [step.state for step in await client.ahistory(handle.id)] == ["PENDING", "RUNNING", "SUCCEEDED"]


async def test_the_same_client_serves_threads(client: TaskClient) -> None:
    def use() -> TaskState:
        handle = client.submit(render.type, Invoice(4)).accepted(10)
        assert handle.get() is not None
        return handle.wait("20s").state

    assert await asyncio.to_thread(use) is TaskState.SUCCEEDED


async def test_a_failing_task_waits_and_is_tried_again(client: TaskClient) -> None:
    handle = await client.submit(flaky.type)
    done = await handle.await_end("20s")

    assert (done.state, done.attempt, done.error) == (TaskState.SUCCEEDED, 3, None)
    assert [(step.state, step.attempt) for step in await client.ahistory(handle.id)] == [
        ("PENDING", 0),
        ("RUNNING", 1),
        ("RETRY_WAIT", 1),
        ("RUNNING", 2),
        ("RETRY_WAIT", 2),
        ("RUNNING", 3),
        ("SUCCEEDED", 3),
    ]


async def test_a_dead_task_runs_again_when_told_to(client: TaskClient) -> None:
    handle = await client.submit(dies.type, {"some": "payload"})
    dead = await handle.await_end("20s")
    assert (dead.state, dead.error) == (TaskState.DEAD, "RuntimeError: not in the first run")

    again = await client.aretry(handle.id)
    assert again.id == handle.id
    done = await until(lambda: client.aget(handle.id), lambda found: found is not None and found.run == 2)
    done = await again.await_end("20s")

    assert (done.state, done.run, done.result) == (TaskState.SUCCEEDED, 2, b'"ok"')
    assert [(step.state, step.run) for step in await client.ahistory(handle.id)] == [
        (state, run) for run, end in ((1, "DEAD"), (2, "SUCCEEDED")) for state in ("PENDING", "RUNNING", end)
    ]
    with pytest.raises(TaskConflict, match="SUCCEEDED"):
        await client.aretry(handle.id)


async def test_a_failed_task_says_why(client: TaskClient) -> None:
    done = await (await client.submit(refuses.type)).await_end("20s")

    assert (done.state, done.error) == (TaskState.FAILED, "TaskFailed: never")


async def test_progress_is_seen_and_a_running_task_is_cancelled(client: TaskClient) -> None:
    handle = await client.submit(sleeps.type, 60.0)
    running = await until(lambda: client.aget(handle.id), lambda found: found is not None and found.state == "RUNNING")
    assert running is not None
    assert (running.progress, running.message) == (0.5, "half way")

    await client.acancel(handle.id, reason="enough")
    done = await handle.await_end("20s")

    assert (done.state, done.message) == (TaskState.CANCELLED, "enough")
    with pytest.raises(TaskNotFound):
        await client.acancel("no-such-task")


async def test_a_queued_task_is_cancelled_at_once_and_never_runs(client: TaskClient) -> None:
    handle = await client.submit(render.type, {"number": 1}, delay="1s")

    await client.acancel(handle.id)
    done = await handle.await_end("5s")
    assert done.state is TaskState.CANCELLED
    later = await client.submit(render.type, {"number": 1}, delay="1s")
    await later.await_end("20s")

    assert handle.id not in {id_ for id_, _, _ in RAN}
    assert (await client.acancel(handle.id)).state is TaskState.CANCELLED
    with pytest.raises(TaskConflict, match="SUCCEEDED already"):
        await client.acancel(later.id)


async def test_a_task_past_its_deadline_expires(client: TaskClient) -> None:
    done = await (await client.submit(sleeps.type, 30.0, deadline="300ms")).await_end("20s")

    assert done.state is TaskState.EXPIRED


async def test_one_idempotency_key_is_one_task(client: TaskClient) -> None:
    key = uuid.uuid4().hex
    handles = await asyncio.gather(
        *(client.submit(render.type, {"number": number}, idempotency_key=key) for number in range(5))
    )
    done = await handles[0].await_end("20s")
    await (await client.submit(render.type, {"number": 9}, idempotency_key=key)).await_end("20s")
    await (await client.submit(render.type, {"number": 0})).await_end("20s")

    assert len({handle.id for handle in handles}) == 1
    assert [id_ for id_, _, _ in RAN].count(done.id) == 1


async def test_tasks_are_listed_by_type_and_state_page_by_page(client: TaskClient) -> None:
    kind = f"{NAME}.nobody"
    handles = [await client.submit(kind, number) for number in range(7)]

    async def listed() -> list[str]:
        return [found.id for found in (await client.alist(type=kind, state="PENDING", limit=100)).tasks]

    newest_first = [handle.id for handle in reversed(handles)]
    assert await until(listed, lambda ids: len(ids) == 7) == newest_first
    pages, cursor = [], None
    while True:
        page = await client.alist(type=kind, limit=3, cursor=cursor)
        pages.append([found.id for found in page.tasks])
        cursor = page.cursor
        if cursor is None:
            break
    assert pages == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert (await client.alist(type=kind, state="DEAD")).tasks == []
