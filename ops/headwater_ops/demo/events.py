"""The year as a stream: every flight becomes two or three events, merged with the weather in the order of time.

A timetable entry is published a day ahead; departures, arrivals and observations happen when they happened; a
cancellation, whose time the data does not have, at the scheduled departure. Of 336,776 flights

* 328,521 depart and 8,255 (no departure time) are cancelled;
* 328,063 arrive, 717 of them without a delay: they were diverted and reached their destination later;
* 458 depart and never report an arrival, so no arrival is made up for them.

**Key.** A flight is known by its local date at the origin, carrier, number and origin, ``2013-01-01-UA-1545-EWR``.
Those four are unique in the data; without the origin 24 flights would share a key. All topics of flights use that key,
so that one partition number holds everything about a flight. Between topics nothing is ordered: a consumer may see
an arrival before its departure.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from headwater_ops.demo.dataset import NA, Dataset, FlightRow, WeatherRow
from headwater_ops.demo.times import DAY, ORIGIN_ZONE, UNLISTED_ZONES, at, first_after, instant
from headwater_ops.demo.topics import ARRIVED, CANCELLED, DEPARTED, SCHEDULED, WEATHER

__all__ = [
    "DemoEvent",
    "References",
    "count_events",
    "flight_id",
    "references",
    "replay",
    "zones",
]


_AHEAD = DAY

Value = dict[str, Any]
_Due = tuple[int, int, "DemoEvent"]


class DemoEvent(NamedTuple):
    """One event, ready to emit. Times in ``value`` are aware datetimes in UTC."""

    topic: str
    key: str
    value: Value


class References(NamedTuple):
    """What enriches flights: the value of each entity by its key."""

    planes: dict[str, Value]
    airports: dict[str, Value]
    airlines: dict[str, Value]


def flight_id(row: FlightRow) -> str:
    """The key of a flight: ``2013-01-01-UA-1545-EWR``."""
    return f"{row.year}-{row.month:0>2}-{row.day:0>2}-{row.carrier}-{row.flight}-{row.origin}"


def zones(data: Dataset) -> dict[str, str]:
    """The time zone of each airport that has one."""
    return {row.faa: row.tzone for row in data.airports if row.tzone != NA} | UNLISTED_ZONES


def replay(data: Dataset) -> Iterator[DemoEvent]:
    """Every event of the data set in the order of time. Pure: no clock, no waiting; the caller sets the pace."""
    merged = heapq.merge(_flights(data.flights, zones(data)), _weather(data.weather), key=_due)
    return (event for _, event in merged)


def count_events(data: Dataset) -> int:
    """How many events ``replay`` gives."""
    landed = sum(row.arr_time != NA for row in data.flights)
    return 2 * len(data.flights) + landed + len(data.weather)  # each is scheduled, and departs or is cancelled


def _due(timed: tuple[int, DemoEvent]) -> int:
    return timed[0]


def _flights(rows: Iterable[FlightRow], zone_of: dict[str, str]) -> Iterator[tuple[int, DemoEvent]]:
    """The events of ``rows``, which stand in the order of their scheduled departures."""
    waiting: list[_Due] = []  # what is known to happen later; at most the flights of two days
    for number, row in enumerate(rows):
        base = _identity(row)
        departure = instant(ORIGIN_ZONE, int(row.year), int(row.month), int(row.day), int(row.sched_dep_time))
        arrival = first_after(departure, zone_of[row.dest], int(row.sched_arr_time))
        base["scheduled_departure"] = at(departure)
        announced = departure - _AHEAD
        while waiting and waiting[0][0] <= announced:
            due, _, event = heapq.heappop(waiting)
            yield due, event
        yield announced, DemoEvent(SCHEDULED, base["flight_id"], base | _schedule(row, arrival))
        for due, event in _outcome(row, base, departure, arrival, zone_of[row.dest]):
            heapq.heappush(waiting, (due, number, event))
    while waiting:
        due, _, event = heapq.heappop(waiting)
        yield due, event


def _identity(row: FlightRow) -> Value:
    return {
        "flight_id": flight_id(row),
        "carrier": row.carrier,
        "flight_number": int(row.flight),
        "origin": row.origin,
        "destination": row.dest,
    }


def _schedule(row: FlightRow, arrival: int) -> Value:
    return {
        "scheduled_arrival": at(arrival),
        "tail_number": None if row.tailnum == NA else row.tailnum,
        "distance_miles": int(row.distance),
    }


def _outcome(row: FlightRow, base: Value, departure: int, arrival: int, zone: str) -> Iterator[tuple[int, DemoEvent]]:
    key = base["flight_id"]
    if row.dep_time == NA:
        yield departure, DemoEvent(CANCELLED, key, base | {"cancelled_at": at(departure)})
        return
    delay = int(row.dep_delay)
    left = departure + delay
    yield left, DemoEvent(DEPARTED, key, base | {"departed_at": at(left), "delay_minutes": delay})
    if row.arr_time == NA:
        return
    late = _whole(row.arr_delay)
    landed = first_after(left, zone, int(row.arr_time)) if late is None else arrival + late
    facts = {"arrived_at": at(landed), "delay_minutes": late, "air_time_minutes": _whole(row.air_time)}
    yield landed, DemoEvent(ARRIVED, key, base | facts)


def _weather(rows: Iterable[WeatherRow]) -> Iterator[tuple[int, DemoEvent]]:
    for row in rows:
        date, _, clock = row.time_hour.partition("T")
        year, month, day = map(int, date.split("-"))
        observed = instant("UTC", year, month, day, int(clock[:2]) * 100)
        value = {
            "airport": row.origin,
            "observed_at": at(observed),
            "temperature_f": _real(row.temp),
            "dewpoint_f": _real(row.dewp),
            "humidity": _real(row.humid),
            "wind_direction": _whole(row.wind_dir),
            "wind_speed_mph": _real(row.wind_speed),
            "wind_gust_mph": _real(row.wind_gust),
            "precipitation_in": float(row.precip),
            "pressure_mb": _real(row.pressure),
            "visibility_miles": float(row.visib),
        }
        yield observed, DemoEvent(WEATHER, row.origin, value)


def references(data: Dataset) -> References:
    """The entities that flights are enriched from."""
    return References(
        planes={
            row.tailnum: {
                "tail_number": row.tailnum,
                "year": _whole(row.year),
                "type": row.type,
                "manufacturer": row.manufacturer,
                "model": row.model,
                "engines": int(row.engines),
                "seats": int(row.seats),
                "speed_mph": _whole(row.speed),
                "engine": row.engine,
            }
            for row in data.planes
        },
        airports={
            row.faa: {
                "code": row.faa,
                "name": row.name,
                "latitude": float(row.lat),
                "longitude": float(row.lon),
                "altitude_feet": int(row.alt),
                "time_zone": None if row.tzone == NA else row.tzone,
            }
            for row in data.airports
        },
        airlines={row.carrier: {"carrier": row.carrier, "name": row.name} for row in data.airlines},
    )


def _whole(cell: str) -> int | None:
    return None if cell == NA else int(cell)


def _real(cell: str) -> float | None:
    return None if cell == NA else float(cell)
