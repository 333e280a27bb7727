"""``/livez``, ``/readyz``, ``/metrics``: outside ``/v1``, without keys, for the machine that runs this."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/livez")
async def livez() -> PlainTextResponse:
    """The loop turns, or nobody would answer."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz() -> PlainTextResponse:
    """Started. Asks nothing of Kafka and Redis: an API that says 503 with a reason is better than none."""
    return PlainTextResponse("ok\n")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(REGISTRY), media_type=content_type)
