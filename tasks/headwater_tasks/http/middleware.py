"""Around every request: metrics by route template."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater_tasks.metrics import HTTP_REQUESTS, HTTP_SECONDS

__all__ = ["Measured"]

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
