"""Around every request: metrics by route template, and a limit on bodies."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater_tasks.http.problems import problem
from headwater_tasks.metrics import HTTP_REQUESTS, HTTP_SECONDS

__all__ = ["BodyLimit", "Measured"]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Measured:
    """Counts requests and the time until the response begins. A path that is no route's is counted as ``none``: paths
    are the caller's to invent, labels must not be."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                HTTP_REQUESTS.labels(route, method, message["status"]).inc()
                HTTP_SECONDS.labels(route, method).observe(perf_counter() - began)
            await send(message)

        await self._app(scope, receive, watched)


class BodyLimit:
    """Refuses bodies over ``limit`` bytes, whether they say how long they are or not. Starlette's own limit answers in
    plain text."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._detail = f"a body has at most {limit} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            await problem(413, "too-large", self._detail)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(413, self._detail)
            return message

        await self._app(scope, counted, send)
