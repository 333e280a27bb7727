"""The oracle: what the pipeline must have arrived at, worked out straight from the CSV.

It shares nothing with the event maker or the handlers but the rows. Where it can it takes another road: the scheduled
departure from the UTC column rather than the local clock, an arrival from the clock at the destination rather than the
schedule and the delay, figures as plain sums over the rows rather than folds over events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from headwater_ops.demo.dataset import AirlineRow, AirportRow, Dataset, FlightRow, PlaneRow, WeatherRow

__all__ = ["Difference", "Oracle", "differences"]

Expected = dict[str, Any]

_CARIBBEAN = ZoneInfo("America/Puerto_Rico")  # BQN, PSE, SJU, STT: not in airports.csv, all on Atlantic time all year
_TIMED_ARRIVALS = 20  # as the contract AirportBoard says of worst_route


class Difference(NamedTuple):
    """One field of one entity that is not as it must be. ``field`` is ``*`` when the whole entity is missing."""

    entity: str
    key: str
    field: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.entity} {self.key}: {self.field} must be {self.expected!r}, found {self.found!r}"


def differences(entity: str, key: str, expected: Expected, found: Mapping[str, Any] | None) -> Iterator[Difference]:
    """What of ``expected`` is not so in ``found``; fields that nothing is expected of are passed over."""
    if found is None:
        yield Difference(entity, key, "*", "an entry", None)
        return
    if expected.items() <= found.items():
        return
    for name, value in expected.items():
        if name not in found or found[name] != value:
            yield Difference(entity, key, name, value, found.get(name))


class Oracle:
    """The expected end of a data set.

    Args:
        data: the rows that were replayed.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._planes: dict[str, PlaneRow] = {row.tailnum: row for row in data.planes}
        self._airports: dict[str, AirportRow] = {row.faa: row for row in data.airports}
        self._airlines: dict[str, AirlineRow] = {row.carrier: row for row in data.airlines}
        self._zones: dict[str, ZoneInfo] = {
            code: ZoneInfo(self._airports[code].tzone) if code in self._airports else _CARIBBEAN
            for code in {row.dest for row in data.flights}
        }

    def flights(self) -> Iterator[tuple[str, Expected]]:
        """Key and final state of every flight, one at a time (all of them would fill 300 MB)."""
        for row in self._data.flights:
            yield _key(row), self._flight(row)

    def delayed_flights(self) -> list[str]:
        """The flights that arrived more than three hours late: one ``delay.report`` task for each."""
        return [_key(row) for row in self._data.flights if row.arr_delay != "NA" and int(row.arr_delay) > 180]

    def airports(self) -> dict[str, Expected]:
        """The board of every airport that a flight used."""
        sums: defaultdict[str, _Sums] = defaultdict(_Sums)
        for row in self._data.flights:
            here, there = sums[row.origin], sums[row.dest]
            if row.dep_time == "NA":
                here.cancellations += 1
                continue
            here.departures += 1
            here.departure_delay += int(row.dep_delay)
            if row.arr_time == "NA":
                continue
            there.arrivals += 1
            if row.arr_delay != "NA":
                there.timed += 1
                there.arrival_delay += int(row.arr_delay)
                for board in (here, there):
                    board.routes[row.origin, row.dest].append(int(row.arr_delay))
        weather = {row.origin: row for row in self._data.weather}  # the last row of each airport stays
        # An airport that flights were only scheduled or cancelled to has no events of its own, and so no board.
        return {code: _board(code, s, weather.get(code)) for code, s in sums.items() if s.counted or code in weather}

    def _flight(self, row: FlightRow) -> Expected:
        scheduled = datetime.fromisoformat(row.time_hour) + timedelta(minutes=int(row.minute))
        zone = self._zones[row.dest]
        cancelled, landed = row.dep_time == "NA", row.arr_time != "NA"
        departed = None if cancelled else scheduled + timedelta(minutes=int(row.dep_delay))
        arrived = _next_reading(departed, row.arr_time, zone) if departed and landed else None
        delay = None if row.arr_delay == "NA" else int(row.arr_delay)
        if arrived is not None and delay is not None:
            due = arrived - timedelta(minutes=delay)
        else:
            due = _next_reading(scheduled, row.sched_arr_time, zone)
        plane = self._planes.get(row.tailnum)
        return {
            "flight_id": _key(row),
            "carrier": row.carrier,
            "flight_number": int(row.flight),
            "origin": row.origin,
            "destination": row.dest,
            "status": "CANCELLED" if cancelled else "ARRIVED" if landed else "DEPARTED",
            "scheduled_departure": scheduled,
            "scheduled_arrival": due,
            "tail_number": None if row.tailnum == "NA" else row.tailnum,
            "distance_miles": int(row.distance),
            "departed_at": departed,
            "departure_delay_minutes": None if cancelled else int(row.dep_delay),
            "arrived_at": arrived,
            "arrival_delay_minutes": delay,
            "air_time_minutes": None if row.air_time == "NA" else int(row.air_time),
            "cancelled_at": scheduled if cancelled else None,
            "airline": self._airlines[row.carrier].name,
            "destination_name": self._airports[row.dest].name if row.dest in self._airports else None,
            "aircraft": f"{plane.manufacturer} {plane.model}" if plane else None,
            "seats": int(plane.seats) if plane else None,
        }


@dataclass(slots=True)
class _Sums:
    departures: int = 0
    departure_delay: int = 0
    cancellations: int = 0
    arrivals: int = 0
    timed: int = 0
    arrival_delay: int = 0
    routes: defaultdict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def counted(self) -> bool:
        return bool(self.departures or self.cancellations or self.arrivals)


def _key(row: FlightRow) -> str:
    return f"{row.year}-{int(row.month):02}-{int(row.day):02}-{row.carrier}-{row.flight}-{row.origin}"


def _next_reading(start: datetime, reading: str, zone: ZoneInfo) -> datetime:
    """The next time after ``start`` that the clock in ``zone`` shows ``reading``."""
    hour, minute = divmod(int(reading) % 2400, 100)
    local = start.astimezone(zone).replace(hour=hour, minute=minute)
    while local.astimezone(UTC) <= start:
        local += timedelta(days=1)  # a day of the calendar, 23 or 25 hours when the clocks change
    return local.astimezone(UTC)


def _board(airport: str, sums: _Sums, weather: WeatherRow | None) -> Expected:
    means = {
        f"{origin}-{dest}": sum(delays) / len(delays)
        for (origin, dest), delays in sums.routes.items()
        if len(delays) >= _TIMED_ARRIVALS
    }
    worst = min(means, key=lambda route: (-means[route], route), default=None)
    return {
        "airport": airport,
        "departures": sums.departures,
        "departure_delay_minutes": sums.departure_delay,
        "mean_departure_delay": sums.departure_delay / sums.departures if sums.departures else None,
        "cancellations": sums.cancellations,
        "arrivals": sums.arrivals,
        "arrivals_timed": sums.timed,
        "arrival_delay_minutes": sums.arrival_delay,
        "mean_arrival_delay": sums.arrival_delay / sums.timed if sums.timed else None,
        "worst_route": worst,
        "worst_route_delay": means[worst] if worst else None,
        "routes": {
            f"{origin}-{dest}": {"arrivals": len(delays), "delay_minutes": sum(delays)}
            for (origin, dest), delays in sums.routes.items()
        },
        "weather": None if weather is None else _latest(weather),
    }


def _latest(row: WeatherRow) -> Expected:
    return {
        "observed_at": datetime.fromisoformat(row.time_hour),
        "temperature_f": None if row.temp == "NA" else float(row.temp),
        "wind_speed_mph": None if row.wind_speed == "NA" else float(row.wind_speed),
        "visibility_miles": float(row.visib),
    }
