"""``/v1/tasks``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from headwater_schemas.errors import Unavailable
from headwater_schemas.events import Task, TaskState
from headwater_tasks.client import TaskClient
from headwater_tasks.errors import TaskNotFound
from headwater_tasks.http.access import requires
from headwater_tasks.http.documents import CancelRequest, Submission, TaskDocument, TaskHistoryDocument, TaskList
from headwater_tasks.http.problems import responses
from headwater_tasks.index import CURSOR_PATTERN
from headwater_tasks.names import TYPE_LENGTH, TYPE_PATTERN, task_id
from headwater_tasks.state import TERMINAL, version

__all__ = ["router"]

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

_READ = [requires("tasks:read")]
_WRITE = [requires("tasks:write")]
_LOOK = 0.1  # seconds between two looks at a task that is watched
_HEARTBEAT = 15.0

TaskId = Annotated[str, Path(max_length=200, pattern=r"^[!-~]+$", description="The task's id.")]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="Submissions of one type with the same key are one task."),
]


def _client(request: Request) -> TaskClient:
    client: TaskClient = request.app.state.client
    return client


@router.post("", status_code=202, dependencies=_WRITE, responses=responses(413))
async def submit(
    submission: Submission, request: Request, response: Response, idempotency_key: IdempotencyKey = None
) -> TaskDocument:
    """Submit a task. Answered when the task is on the log: from then on it will be run.

    With an Idempotency-Key the answer is the task as it stands, whoever submitted it first; a later submission changes
    nothing, also when its payload is another.
    """
    client = _client(request)
    if idempotency_key is not None:
        known = await client.aget(task_id(submission.type, idempotency_key))
        if known is not None:
            return _answer(known, response)
    handle = await client.submit(
        submission.type,
        submission.payload,
        idempotency_key=idempotency_key,
        delay=submission.delay,
        deadline=submission.deadline,
    )
    return _answer(await client.aget(handle.id) or handle.task, response)


@router.get("", dependencies=_READ)
async def list_tasks(
    request: Request,
    response: Response,
    state: Annotated[TaskState | None, Query(description="Only tasks in this state.")] = None,
    type: Annotated[  # noqa: A002
        str | None, Query(max_length=TYPE_LENGTH, pattern=f"^{TYPE_PATTERN}$", description="Only tasks of this type.")
    ] = None,
    cursor: Annotated[str | None, Query(pattern=f"^{CURSOR_PATTERN}$", description="Continue behind a page.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> TaskList:
    """Tasks, newest submission first.

    A page may hold fewer than `limit` tasks and still have a cursor: tasks whose state has just moved on are left out.
    """
    page = await _client(request).alist(state=state, type=type, cursor=cursor, limit=limit)
    if page.cursor is not None:
        following = request.url.include_query_params(cursor=page.cursor)
        response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return TaskList(tasks=[TaskDocument.of(task) for task in page.tasks], cursor=page.cursor)


@router.get("/{id}", dependencies=_READ, responses=responses(404))
async def get(id: TaskId, request: Request) -> TaskDocument:  # noqa: A002
    """A task as it stands."""
    return TaskDocument.of(await _found(request, id))


@router.get("/{id}/history", dependencies=_READ, responses=responses(404))
async def history(id: TaskId, request: Request) -> TaskHistoryDocument:  # noqa: A002
    """What a task went through."""
    return TaskHistoryDocument.of(id, await _client(request).ahistory(id))


@router.get(
    "/{id}/events",
    dependencies=_READ,
    responses={200: {"content": {"text/event-stream": {}}}, **responses(404)},
    response_class=StreamingResponse,
)
async def events(
    id: TaskId,  # noqa: A002
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=40, description="Continue behind this event.")] = None,
) -> StreamingResponse:
    """Follow a task as server-sent events: its state now and each time it changes, until it has ended.

    Each event is named `task`, holds the task as JSON, and its id is the version of the state. States that follow each
    other within 100 ms may come as one.
    """
    task = await _found(request, id)
    after = int(last_event_id) if last_event_id is not None and last_event_id.isdecimal() else -1
    return StreamingResponse(
        _follow(_client(request), task, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post("/{id}/cancel", status_code=202, dependencies=_WRITE, responses=responses(404, 409))
async def cancel(id: TaskId, request: Request, body: CancelRequest | None = None) -> TaskDocument:  # noqa: A002
    """Ask for a task to be cancelled. Answered when the request is on the log, with the task as it stood then.

    A waiting task becomes CANCELLED within moments; a running one is stopped where it waits or looks, or ends first.
    """
    return TaskDocument.of(await _client(request).acancel(id, reason=None if body is None else body.reason))


@router.post("/{id}/retry", status_code=202, dependencies=_WRITE, responses=responses(404, 409))
async def retry(id: TaskId, request: Request, response: Response) -> TaskDocument:  # noqa: A002
    """Run a task again that is FAILED, DEAD, CANCELLED or EXPIRED: the same payload, in a new run."""
    handle = await _client(request).aretry(id)
    return _answer(handle.task, response)


async def _found(request: Request, id_: str) -> Task:
    task = await _client(request).aget(id_)
    if task is None:
        raise TaskNotFound(f"there is no task {id_}")
    return task


def _answer(task: Task, response: Response) -> TaskDocument:
    response.headers["Location"] = f"/v1/tasks/{task.id}"
    return TaskDocument.of(task)


async def _follow(client: TaskClient, task: Task, after: int) -> AsyncIterator[str]:
    """The events; Starlette cancels this when the reader goes away."""
    silent = 0.0
    current: Task | None = task
    while current is not None:
        if version(current) > after:
            after, silent = version(current), 0.0
            yield f"event: task\nid: {after}\ndata: {TaskDocument.of(current).model_dump_json()}\n\n"
        if current.state in TERMINAL:
            return
        await asyncio.sleep(_LOOK)
        silent += _LOOK
        if silent >= _HEARTBEAT:
            silent = 0.0
            yield ": still there\n\n"
        try:
            current = await client.aget(task.id)
        except Unavailable:
            continue  # the reader waits with us; heartbeats go on
