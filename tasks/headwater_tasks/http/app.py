"""The application: routes, errors, keys and metrics put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI

from headwater_tasks.client import TaskClient
from headwater_tasks.http import events, problems, status, tasks
from headwater_tasks.http.access import known_queries
from headwater_tasks.http.keys import ApiKeys
from headwater_tasks.http.middleware import BodyLimit, Measured

__all__ = ["create_app"]

_DESCRIPTION = "Submit tasks, see what becomes of them, emit events."


def create_app(client: TaskClient, keys: ApiKeys | None, *, routers: Iterable[APIRouter] = ()) -> FastAPI:
    """The API on a client, which is closed with it.

    Args:
        keys: who may call; ``None``: this machine, and nobody else.
        routers: further routes, with ``/v1`` in their prefix; guard each with ``access.requires``.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await client.aclose()

    app = FastAPI(
        title="Headwater",
        version="1",
        description=_DESCRIPTION,
        lifespan=life,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.client = client
    app.state.keys = keys
    app.state.producer = client.producer
    app.state.codec = client.codec
    app.state.prepared = set()
    problems.install(app)
    for router in (tasks.router, events.router, *routers):
        app.include_router(router, dependencies=[Depends(known_queries)], responses=problems.RESPONSES)
    app.include_router(status.router)
    app.add_middleware(BodyLimit, limit=2 * client.max_record_bytes)
    app.add_middleware(Measured)
    problems.describe(app)
    return app
