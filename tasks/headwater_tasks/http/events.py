"""``/v1/events``: emit events to topics of the catalogue."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials

from headwater_producers import DeliveryPending, EventProducer
from headwater_schemas.codec import Codec
from headwater_schemas.errors import InvalidValue
from headwater_tasks.changes import CHANGES, CONTROL, TASKS
from headwater_tasks.http.access import allow, bearer
from headwater_tasks.http.documents import EmitRequest, Emitted
from headwater_tasks.http.problems import ProblemError, responses

__all__ = ["router"]

router = APIRouter(prefix="/v1/events", tags=["events"])

_OURS: Final = frozenset({TASKS, CONTROL, CHANGES})

TopicName = Annotated[str, Path(max_length=249, description="A topic of the catalogue.")]


@router.post("/{topic}", status_code=201, responses=responses(404, 413))
async def emit(
    topic: TopicName,
    event: EmitRequest,
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
) -> Emitted:
    """Emit an event, checked against the topic's schema. Answered when every in-sync replica has it.

    (Where the API spools: or, while the broker is away, its disk; then there is no offset yet.)

    A 503 after the timeout does not say that the event is lost: it may still arrive. Repeat the request under the same
    id, and consumers can tell that it is the same event.

    Dates and times are ISO 8601, bytes base64, decimals and UUIDs text.
    """
    allow(request, f"events:write:{topic}", credentials)
    if topic in _OURS:
        raise ProblemError(403, "forbidden", f"{topic} is written by the task service alone: POST /v1/tasks")
    producer: EventProducer = request.app.state.producer
    codec: Codec = request.app.state.codec
    try:
        value = None if event.value is None else codec.from_json(topic, event.value)
    except InvalidValue as exc:
        raise InvalidValue(str(exc), field=f"value.{exc.field}" if exc.field else "value") from exc
    prepared: set[str] = request.app.state.prepared
    if topic not in prepared:
        await asyncio.to_thread(producer.prepare, topic)
        prepared.add(topic)
    delivery = producer.emit(topic, value, key=event.key, id=event.id)
    try:
        async with asyncio.timeout(event.timeout):
            await delivery
    except TimeoutError as exc:
        raise DeliveryPending(
            f"event {delivery.id} is not acknowledged after {event.timeout:g} s and may still arrive: "
            "repeat it under this id"
        ) from exc
    return Emitted(topic=topic, partition=delivery.partition, offset=delivery.offset, id=delivery.id)
