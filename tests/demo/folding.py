"""The pipeline in memory: events through the demo's folds, with no Kafka and no Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headwater_ops.demo.boards import Fact, fold_legs, fold_weather, legs_by_airport, new_board, rank_routes
from headwater_ops.demo.events import DemoEvent, References
from headwater_ops.demo.flights import fold_flight
from headwater_ops.demo.topics import ARRIVED, CANCELLED, DEPARTED, WEATHER

KINDS = {DEPARTED: "DEPARTED", ARRIVED: "ARRIVED", CANCELLED: "CANCELLED"}

State = dict[str, Any]


def enrich_from(entities: References, event: Mapping[str, Any]) -> State:
    plane = entities.planes.get(event["tail_number"])
    airport = entities.airports.get(event["destination"])
    return {
        "airline": entities.airlines[event["carrier"]]["name"],
        "destination_name": airport["name"] if airport else None,
        "aircraft": f"{plane['manufacturer']} {plane['model']}" if plane else None,
        "seats": plane["seats"] if plane else None,
    }


def fold_all(events: Iterable[DemoEvent], entities: References) -> tuple[dict[str, State], dict[str, State]]:
    """The flights and boards that these events, read one by one from one partition, leave."""
    flights: dict[str, State] = {}
    boards: dict[str, State] = {}
    for offset, event in enumerate(events):
        if event.topic == WEATHER:
            fold_weather(boards.setdefault(event.key, new_board(event.key)), event.value)
            continue
        state = fold_flight(
            flights.get(event.key), event.topic, offset, event.value, lambda value: enrich_from(entities, value)
        )
        if state is None:
            continue
        flights[event.key] = state
        if event.topic in KINDS:
            value = event.value
            fact = Fact(offset, KINDS[event.topic], value["origin"], value["destination"], value.get("delay_minutes"))
            for airport, record in legs_by_airport("source-0", [fact]).items():
                fold_legs(boards.setdefault(airport, new_board(airport)), record)
    for board in boards.values():
        rank_routes(board)
    return flights, boards
