"""Typed events, one struct per contract.

Written by `headwater schemas generate` from contracts/*.avsc; edit those.
"""

from __future__ import annotations

import datetime
from enum import StrEnum

import msgspec

__all__ = [
    "ActedRecord",
    "Airline",
    "Airport",
    "AirportBoard",
    "AirportLegs",
    "BoardWeather",
    "ChangeEvent",
    "ChangeOp",
    "Flight",
    "FlightArrived",
    "FlightCancelled",
    "FlightDelayed",
    "FlightDeparted",
    "FlightScheduled",
    "FlightStatus",
    "Leg",
    "LegKind",
    "OperatorAction",
    "Plane",
    "RouteTotals",
    "Task",
    "TaskCancelRequested",
    "TaskState",
    "TaskSubmitted",
    "WeatherObserved",
]


class Airline(msgspec.Struct, frozen=True, kw_only=True):
    """An airline."""

    carrier: str
    """Two-character IATA code."""
    name: str
    """Full name."""


class Airport(msgspec.Struct, frozen=True, kw_only=True):
    """An airport."""

    code: str
    """FAA code."""
    name: str
    """Usual name."""
    latitude: float
    """Degrees north."""
    longitude: float
    """Degrees east."""
    altitude_feet: int
    """Feet above the sea."""
    time_zone: str | None = None
    """IANA time zone; null where the data has none."""


class BoardWeather(msgspec.Struct, frozen=True, kw_only=True):
    """Latest observation."""

    observed_at: datetime.datetime
    """Hour of the observation, UTC."""
    temperature_f: float | None = None
    """Degrees Fahrenheit."""
    wind_speed_mph: float | None = None
    """Miles per hour."""
    visibility_miles: float
    """Miles."""


class RouteTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Timed arrivals of one route."""

    arrivals: int
    """Arrivals whose delay was reported."""
    delay_minutes: int
    """Sum of their delays."""


class AirportBoard(msgspec.Struct, frozen=True, kw_only=True):
    """Running figures of one airport, folded from flights and weather."""

    airport: str
    """FAA code of the airport."""
    departures: int
    """Flights that left here."""
    departure_delay_minutes: int
    """Sum of their departure delays."""
    mean_departure_delay: float | None = None
    """Mean departure delay in minutes; null before the first departure."""
    cancellations: int
    """Flights from here that were cancelled."""
    arrivals: int
    """Flights that arrived here."""
    arrivals_timed: int
    """Those of them whose delay was reported."""
    arrival_delay_minutes: int
    """Sum of the reported arrival delays."""
    mean_arrival_delay: float | None = None
    """Mean reported arrival delay in minutes; null before the first."""
    worst_route: str | None = None
    """Route of this airport with the greatest mean arrival delay, e.g. EWR-TYS, among those with at least 20 timed
    arrivals; the first by name of equals.
    """
    worst_route_delay: float | None = None
    """Mean arrival delay of that route, in minutes."""
    weather: BoardWeather | None = None
    """Latest weather at the airport; null where no station reports."""
    routes: dict[str, RouteTotals]
    """Totals by route (EWR-IAH) of the flights from or to this airport."""
    applied: dict[str, int]
    """Bookkeeping: last offset counted, by source partition; what is at or below it is a duplicate."""


class LegKind(StrEnum):
    """What happened."""

    DEPARTED = "DEPARTED"
    ARRIVED = "ARRIVED"
    CANCELLED = "CANCELLED"


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about one flight."""

    offset: int
    """Offset of the fact in the source partition; with the source it makes counting idempotent."""
    kind: LegKind
    """What happened to the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    delay_minutes: int | None = None
    """Delay of the departure or arrival; null when cancelled or not reported."""


class AirportLegs(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch of flight events means for one airport: the flights domain re-keyed by airport. Internal."""

    airport: str
    """FAA code of the airport; also the record's key."""
    source: str
    """Topic and partition that the facts were read from, e.g. flights.departed-2."""
    legs: list[Leg]
    """The facts, in the order of their offsets."""


class ChangeOp(StrEnum):
    """What the change does to its key."""

    UPSERT = "UPSERT"
    DELETE = "DELETE"


class ChangeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one entity: what caches and views follow. On a compacted topic a Kafka tombstone follows a
    DELETE.
    """

    entity: str
    """The kind of thing that changed, e.g. flights; the topic is <entity>.changes."""
    key: str
    """The business key; also the record's key."""
    version: int
    """Grows with every change of the key, from one sequence per entity; never restarts at a reinsert."""
    op: ChangeOp
    """UPSERT puts the value, DELETE removes it."""
    schema_id: int | None = None
    """Registry id of the schema that the value is written with; null for a DELETE."""
    value: bytes | None = None
    """The entity as Avro binary, without the five-byte prefix; null for a DELETE."""
    source: str
    """Who made the change: a service or a database."""
    occurred_at: datetime.datetime
    """When the change was committed at the source."""


class FlightStatus(StrEnum):
    """Furthest stage that is known."""

    SCHEDULED = "SCHEDULED"
    DEPARTED = "DEPARTED"
    ARRIVED = "ARRIVED"
    CANCELLED = "CANCELLED"


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """State of one flight: everything known so far, folded from its events in whatever order they came."""

    flight_id: str
    """Local date at the origin, carrier, flight number, origin: 2013-01-01-UA-1545-EWR; unique in the data."""
    carrier: str
    """Two-character IATA code of the airline."""
    flight_number: int
    """Number the airline gives the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    scheduled_departure: datetime.datetime
    """Departure by the timetable, UTC."""
    status: FlightStatus
    """Furthest stage that is known. A flight that was diverted and never reported an arrival stays DEPARTED."""
    scheduled_arrival: datetime.datetime | None = None
    """Arrival by the timetable, UTC; null until the schedule is known."""
    tail_number: str | None = None
    """Registration of the aircraft; null where the data has none."""
    distance_miles: int | None = None
    """Miles between the airports; null until the schedule is known."""
    departed_at: datetime.datetime | None = None
    """When it left, UTC."""
    departure_delay_minutes: int | None = None
    """Minutes after the timetable; negative when early."""
    arrived_at: datetime.datetime | None = None
    """When it arrived, UTC."""
    arrival_delay_minutes: int | None = None
    """Minutes after the timetable, negative when early; null when not reported."""
    air_time_minutes: int | None = None
    """Minutes in the air."""
    cancelled_at: datetime.datetime | None = None
    """When it was cancelled, UTC."""
    airline: str | None = None
    """Name of the airline, from the cache."""
    destination_name: str | None = None
    """Name of the destination airport, from the cache; null for airports the data does not list."""
    aircraft: str | None = None
    """Manufacturer and model, from the cache; null for aircraft the data does not list."""
    seats: int | None = None
    """Seats of the aircraft, from the cache."""
    scheduled_offset: int | None = None
    """Bookkeeping: offset of the flights.scheduled record that is joined in; tells its repetition from a second
    event.
    """
    departed_offset: int | None = None
    """As scheduled_offset, of flights.departed."""
    arrived_offset: int | None = None
    """As scheduled_offset, of flights.arrived."""
    cancelled_offset: int | None = None
    """As scheduled_offset, of flights.cancelled."""


class FlightArrived(msgspec.Struct, frozen=True, kw_only=True):
    """A flight arrived."""

    flight_id: str
    """Local date at the origin, carrier, flight number, origin: 2013-01-01-UA-1545-EWR; unique in the data."""
    carrier: str
    """Two-character IATA code of the airline."""
    flight_number: int
    """Number the airline gives the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    scheduled_departure: datetime.datetime
    """Departure by the timetable, UTC."""
    arrived_at: datetime.datetime
    """When it arrived, UTC."""
    delay_minutes: int | None = None
    """Minutes after the timetable, negative when early; null for a diverted flight, whose delay is not reported."""
    air_time_minutes: int | None = None
    """Minutes in the air; null for a diverted flight."""


class FlightCancelled(msgspec.Struct, frozen=True, kw_only=True):
    """A flight that was on the timetable did not leave."""

    flight_id: str
    """Local date at the origin, carrier, flight number, origin: 2013-01-01-UA-1545-EWR; unique in the data."""
    carrier: str
    """Two-character IATA code of the airline."""
    flight_number: int
    """Number the airline gives the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    scheduled_departure: datetime.datetime
    """Departure by the timetable, UTC."""
    cancelled_at: datetime.datetime
    """When it was cancelled, UTC: the data does not say, so the scheduled departure stands in."""


class FlightDelayed(msgspec.Struct, frozen=True, kw_only=True):
    """A flight arrived more than three hours late."""

    flight_id: str
    """Local date at the origin, carrier, flight number, origin: 2013-01-01-UA-1545-EWR; unique in the data."""
    carrier: str
    """Two-character IATA code of the airline."""
    flight_number: int
    """Number the airline gives the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    scheduled_departure: datetime.datetime
    """Departure by the timetable, UTC."""
    arrived_at: datetime.datetime
    """When it arrived, UTC."""
    delay_minutes: int
    """Minutes after the timetable."""


class FlightDeparted(msgspec.Struct, frozen=True, kw_only=True):
    """A flight left its origin."""

    flight_id: str
    """Local date at the origin, carrier, flight number, origin: 2013-01-01-UA-1545-EWR; unique in the data."""
    carrier: str
    """Two-character IATA code of the airline."""
    flight_number: int
    """Number the airline gives the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    scheduled_departure: datetime.datetime
    """Departure by the timetable, UTC."""
    departed_at: datetime.datetime
    """When it left, UTC."""
    delay_minutes: int
    """Minutes after the timetable; negative when it left early."""


class FlightScheduled(msgspec.Struct, frozen=True, kw_only=True):
    """A flight was put on the timetable."""

    flight_id: str
    """Local date at the origin, carrier, flight number, origin: 2013-01-01-UA-1545-EWR; unique in the data."""
    carrier: str
    """Two-character IATA code of the airline."""
    flight_number: int
    """Number the airline gives the flight."""
    origin: str
    """FAA code of the airport it leaves from."""
    destination: str
    """FAA code of the airport it is bound for."""
    scheduled_departure: datetime.datetime
    """Departure by the timetable, UTC."""
    scheduled_arrival: datetime.datetime
    """Arrival by the timetable, UTC; worked out in the destination's time zone."""
    tail_number: str | None = None
    """Registration of the aircraft; null where the data has none."""
    distance_miles: int
    """Distance between the two airports, in miles."""


class ActedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record. Of a purge: everything before this offset."""

    partition: int
    """Its partition, the same in the target."""
    offset: int
    """Its offset."""
    target_offset: int | None = None
    """Its offset in the target."""


class OperatorAction(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did to records: who, when, to which, and where they went. Never holds a record's value."""

    at: datetime.datetime
    """When."""
    actor: str
    """Who: user@host of a command, the name of an API key."""
    run: str
    """One call of a command; a large one acts in several steps, each with an entry of its own."""
    action: str
    """dead-letters.redrive, dead-letters.edit or dead-letters.purge."""
    topic: str
    """The topic that was acted on; also the record's key."""
    group: str | None = None
    """The consumer group that the records belong to."""
    target: str | None = None
    """The topic that the records were written to."""
    selection: str
    """What was asked for."""
    note: str | None = None
    """Why, in the operator's words."""
    changed: list[str] = msgspec.field(default_factory=list)
    """Of an edit: the fields that differ now."""
    records: list[ActedRecord]
    """The records, in the order in which they were taken."""


class Plane(msgspec.Struct, frozen=True, kw_only=True):
    """An aircraft on the register."""

    tail_number: str
    """Registration."""
    year: int | None = None
    """Year it was made."""
    type: str
    """Kind of aircraft, e.g. Fixed wing multi engine."""
    manufacturer: str
    """Who made it."""
    model: str
    """Model designation."""
    engines: int
    """How many engines."""
    seats: int
    """How many seats."""
    speed_mph: int | None = None
    """Average cruising speed, miles per hour."""
    engine: str
    """Kind of engine, e.g. Turbo-fan."""


class TaskState(StrEnum):
    """Where a task stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RETRY_WAIT = "RETRY_WAIT"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """State of one task: the value of a change event on task.changes."""

    id: str
    """The task."""
    type: str
    """Which function runs it."""
    state: TaskState
    """Where it stands. The last five are terminal for a run."""
    run: int
    """1, then one more for each retry by hand."""
    attempt: int
    """Which call of the function in this run, from 1; 0 before the first."""
    step: int
    """Orders the states of an attempt; see the version of the change event."""
    partition: int
    """Where its submission stands on the topic tasks."""
    offset: int
    """Offset of its submission there."""
    submitted_at: datetime.datetime
    """When this run was submitted."""
    due_at: datetime.datetime | None = None
    """When it is to be run (PENDING) or tried again (RETRY_WAIT); null: as soon as a worker is free."""
    deadline: datetime.datetime | None = None
    """Not to be run after."""
    started_at: datetime.datetime | None = None
    """When the last attempt began."""
    finished_at: datetime.datetime | None = None
    """When it ended."""
    progress: float | None = None
    """What the function reported, 0 to 1."""
    message: str | None = None
    """What the function said with it, or why it was cancelled."""
    result: bytes | None = None
    """What the function returned: JSON, UTF-8."""
    error: str | None = None
    """Class and message of the last error; the stack is with the dead letter."""
    idempotency_key: str | None = None
    """The submitter's."""
    worker: str | None = None
    """Who runs or ran it: group and host."""


class TaskCancelRequested(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a run of a task cancelled; keyed by task id."""

    id: str
    """The task; also the record's key."""
    run: int
    """The run that is meant, and those before it; a later retry is not cancelled."""
    requested_at: datetime.datetime
    """When."""
    reason: str | None = None
    """Why, for people."""


class TaskSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a task run: one record per run, keyed by task id. A task that is retried by hand gets a record
    with the next run.
    """

    id: str
    """The task; also the record's key. Derived from the idempotency key where there is one."""
    type: str
    """Which function runs it, e.g. invoice.render."""
    run: int
    """1, then one more for each retry by hand."""
    payload: bytes
    """What the function is given: JSON, UTF-8."""
    submitted_at: datetime.datetime
    """When this run was submitted."""
    due_at: datetime.datetime | None = None
    """Not to be run before; null: at once."""
    deadline: datetime.datetime | None = None
    """Not to be run after, nor to be still running; null: no limit."""
    idempotency_key: str | None = None
    """The submitter's; the same key and type is the same task."""


class WeatherObserved(msgspec.Struct, frozen=True, kw_only=True):
    """Hourly weather at an airport, from its station."""

    airport: str
    """FAA code of the airport."""
    observed_at: datetime.datetime
    """Hour of the observation, UTC."""
    temperature_f: float | None = None
    """Degrees Fahrenheit."""
    dewpoint_f: float | None = None
    """Dew point, degrees Fahrenheit."""
    humidity: float | None = None
    """Relative humidity, per cent."""
    wind_direction: int | None = None
    """Degrees clockwise from north; null when calm or variable."""
    wind_speed_mph: float | None = None
    """Miles per hour."""
    wind_gust_mph: float | None = None
    """Miles per hour; null without gusts."""
    precipitation_in: float
    """Rain or melted snow of the hour, in inches."""
    pressure_mb: float | None = None
    """Sea-level pressure, millibars."""
    visibility_miles: float
    """Miles; 10 is the most that the station reports."""
