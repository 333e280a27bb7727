"""The event maker."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.entities import entity_values
from headwater_ops.demo.events import DemoEvent, flight_id, references, replay, zones
from headwater_ops.demo.topics import ARRIVED, CANCELLED, DEPARTED, SCHEDULED, WEATHER
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry


@pytest.fixture(scope="module")
def events(sample: Dataset) -> list[DemoEvent]:
    return list(replay(sample))


def test_the_key_of_a_flight_is_unique_in_the_year(year: Dataset) -> None:
    assert len({flight_id(row) for row in year.flights}) == len(year.flights)


def test_the_key_reads_date_carrier_number_origin(year: Dataset) -> None:
    assert flight_id(year.flights[0]) == "2013-01-01-UA-1545-EWR"


def test_each_flight_is_scheduled_then_flown_or_cancelled(sample: Dataset, events: list[DemoEvent]) -> None:
    topics = defaultdict(list)
    for event in events:
        topics[event.key].append(event.topic)
    for row in sample.flights:
        expected = [SCHEDULED]
        if row.dep_time == "NA":
            expected.append(CANCELLED)
        else:
            expected += [DEPARTED] if row.arr_time == "NA" else [DEPARTED, ARRIVED]
        assert topics[flight_id(row)] == expected


def test_events_come_in_the_order_of_time(events: list[DemoEvent]) -> None:
    field = {DEPARTED: "departed_at", ARRIVED: "arrived_at", CANCELLED: "cancelled_at", WEATHER: "observed_at"}
    day = timedelta(days=1)
    times = [e.value["scheduled_departure"] - day if e.topic == SCHEDULED else e.value[field[e.topic]] for e in events]
    assert times == sorted(times)


def test_every_event_and_reference_fits_its_contract(year: Dataset, events: list[DemoEvent]) -> None:
    codec = Codec(demo_catalogue(), LocalRegistry())
    decoders = {topic: codec.decoder(topic) for topic in {event.topic for event in events}}
    assert set(decoders) == {SCHEDULED, DEPARTED, ARRIVED, CANCELLED, WEATHER}
    for event in events:
        assert decoders[event.topic](codec.encoder(event.topic)(event.value)) == event.value
    entities = references(year)
    for contract, values in (
        ("Plane", entities.planes),
        ("Airport", entities.airports),
        ("Airline", entities.airlines),
    ):
        avro = entity_values(codec, contract)
        for value in values.values():
            assert avro.decode(*avro.encode(value)) == value


def test_every_actual_time_shows_the_clock_reading_of_the_data(sample: Dataset, events: list[DemoEvent]) -> None:
    """Times are schedule plus delay, the CSV has clock readings as well: both must agree, in both time zones.

    One landing of the year is written down at 02:03 in the night in which 02:00 became 03:00: a time that never was.
    """
    departed = {e.key: e.value["departed_at"] for e in events if e.topic == DEPARTED}
    arrived = {e.key: e.value["arrived_at"] for e in events if e.topic == ARRIVED}
    zone_of = {airport: ZoneInfo(zone) for airport, zone in zones(sample).items()}
    for row in sample.flights:
        key = flight_id(row)
        if row.dep_time != "NA":
            assert reading(departed[key], zone_of[row.origin]) == int(row.dep_time) % 2400, row
        if row.arr_time != "NA" and key != "2013-03-09-B6-35-JFK":
            assert reading(arrived[key], zone_of[row.dest]) == int(row.arr_time) % 2400, row


def test_no_flight_takes_less_time_than_it_was_in_the_air(events: list[DemoEvent]) -> None:
    departed = {e.key: e.value["departed_at"] for e in events if e.topic == DEPARTED}
    timed = [e for e in events if e.topic == ARRIVED and e.value["air_time_minutes"] is not None]
    assert timed
    for event in timed:
        taxi = event.value["arrived_at"] - departed[event.key] - timedelta(minutes=event.value["air_time_minutes"])
        assert timedelta(0) < taxi < timedelta(hours=4.5), event


def test_replaying_twice_gives_the_same_events(sample: Dataset, events: list[DemoEvent]) -> None:
    assert list(replay(sample)) == events


def reading(time: datetime, zone: ZoneInfo) -> int:
    local = time.astimezone(zone)
    return local.hour * 100 + local.minute
