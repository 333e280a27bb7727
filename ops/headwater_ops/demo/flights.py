"""The fold of a flight: events are joined into its state, in whatever order and however often they come.

Pure, and a join in the mathematical sense: commutative, associative and idempotent. That is what makes it right under
at-least-once delivery and across topics, between which Kafka keeps no order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headwater_ops.demo.topics import ARRIVED, CANCELLED, DEPARTED, SCHEDULED

__all__ = ["OFFSETS", "STATUSES", "Enrich", "complete", "events_known", "fold_flight", "shows"]

Value = dict[str, Any]
Enrich = Callable[[Mapping[str, Any]], Value]
"""Gives ``airline``, ``destination_name``, ``aircraft`` and ``seats`` for a ``flights.scheduled`` event."""

STATUSES = ("SCHEDULED", "DEPARTED", "ARRIVED", "CANCELLED")
"""From the first stage of a flight to the last; a state has the furthest that is known."""

OFFSETS = {
    SCHEDULED: "scheduled_offset",
    DEPARTED: "departed_offset",
    ARRIVED: "arrived_offset",
    CANCELLED: "cancelled_offset",
}
"""The field that holds the offset of a topic's event once it is joined in, else null."""

_IDENTITY = ("flight_id", "carrier", "flight_number", "origin", "destination", "scheduled_departure")
_BLANK: Value = dict.fromkeys(
    (
        "scheduled_arrival",
        "tail_number",
        "distance_miles",
        "departed_at",
        "departure_delay_minutes",
        "arrived_at",
        "arrival_delay_minutes",
        "air_time_minutes",
        "cancelled_at",
        "airline",
        "destination_name",
        "aircraft",
        "seats",
        *OFFSETS.values(),
    )
)
_STAGE = {SCHEDULED: "SCHEDULED", DEPARTED: "DEPARTED", ARRIVED: "ARRIVED", CANCELLED: "CANCELLED"}
_RANK = {status: rank for rank, status in enumerate(STATUSES)}


def fold_flight(state: Value | None, topic: str, offset: int, event: Mapping[str, Any], enrich: Enrich) -> Value | None:
    """The state after ``event``, as a new dict; ``None`` when an event of this topic is joined in already.

    Args:
        state: the state so far, or ``None`` for a flight not heard of.
        topic: one of the four topics of flights; it says what kind of event this is.
        offset: where the event stood in its partition.
        event: the decoded event.
        enrich: asked once per flight, for its schedule.
    """
    if state is None:
        state = {name: event[name] for name in _IDENTITY} | _BLANK | {"status": "SCHEDULED"}
    elif shows(state, topic):
        return None
    else:
        state = state.copy()
    state[OFFSETS[topic]] = offset
    stage = _STAGE[topic]
    if _RANK[stage] > _RANK[state["status"]]:
        state["status"] = stage
    if topic == SCHEDULED:
        state["scheduled_arrival"] = event["scheduled_arrival"]
        state["tail_number"] = event["tail_number"]
        state["distance_miles"] = event["distance_miles"]
        state.update(enrich(event))
    elif topic == DEPARTED:
        state["departed_at"] = event["departed_at"]
        state["departure_delay_minutes"] = event["delay_minutes"]
    elif topic == ARRIVED:
        state["arrived_at"] = event["arrived_at"]
        state["arrival_delay_minutes"] = event["delay_minutes"]
        state["air_time_minutes"] = event["air_time_minutes"]
    else:
        state["cancelled_at"] = event["cancelled_at"]
    return state


def shows(state: Mapping[str, Any], topic: str) -> bool:
    """Whether the flight's event of this topic is joined in."""
    return state[OFFSETS[topic]] is not None


def complete(state: Mapping[str, Any]) -> bool:
    """Whether no event can change the state any more: scheduled and cancelled, or scheduled, departed and arrived."""
    return shows(state, SCHEDULED) and (shows(state, CANCELLED) or (shows(state, DEPARTED) and shows(state, ARRIVED)))


def events_known(state: Mapping[str, Any]) -> int:
    """How many of a flight's events are joined in."""
    return (
        (state["scheduled_offset"] is not None)
        + (state["departed_offset"] is not None)
        + (state["arrived_offset"] is not None)
        + (state["cancelled_offset"] is not None)
    )
