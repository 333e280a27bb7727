"""Clock readings of the data as instants: minutes since the epoch, UTC. The data has no finer time.

Departures read the origin's clock (all three airports keep New York time), arrivals the destination's. A reading
carries no date: what is known is the local date of the scheduled departure, so

* a scheduled arrival is the first time that the destination's clock shows it after the scheduled departure,
* an actual time is the scheduled one plus the delay. Delays are minutes, so no day is ever guessed, however late.

In the year's data this agrees with every actual clock reading, the nights of the clock change included, but for one
landing that is written down at 02:03 when 02:00 had become 03:00.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

__all__ = ["DAY", "ORIGIN_ZONE", "UNLISTED_ZONES", "at", "first_after", "instant"]

ORIGIN_ZONE = "America/New_York"

UNLISTED_ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
"""Four destinations (7,602 flights) are missing from airports.csv; their zones are from the IANA time zone database."""

DAY = 1440
"""Minutes of a day."""


def instant(zone: str, year: int, month: int, day: int, reading: int) -> int:
    """When a clock in ``zone`` shows ``reading`` (``hhmm``; 2400 is the end of the day) on this date."""
    hour, minute = divmod(reading, 100)
    return _hour(zone, year, month, day, hour) + minute


def at(minutes: int) -> datetime:
    """The instant as an aware datetime in UTC."""
    return datetime.fromtimestamp(minutes * 60, UTC)


def first_after(start: int, zone: str, reading: int) -> int:
    """The first instant after ``start`` at which a clock in ``zone`` shows ``reading``."""
    year, month, day = _date(zone, start // 60)
    # A reading of 2400 on the day before is the midnight that begins this day.
    for ahead in (-1, 0, 1):
        date = datetime(year, month, day) + timedelta(days=ahead)
        found = instant(zone, date.year, date.month, date.day, reading)
        if found > start:
            return found
    raise AssertionError(f"{reading} is not a clock reading")


@cache
def _hour(zone: str, year: int, month: int, day: int, hour: int) -> int:
    local = datetime(year, month, day, tzinfo=ZoneInfo(zone)) + timedelta(hours=hour)  # adds wall-clock hours
    return round(local.timestamp()) // 60


@cache
def _date(zone: str, hour: int) -> tuple[int, int, int]:
    local = datetime.fromtimestamp(hour * 3600, ZoneInfo(zone))
    return local.year, local.month, local.day
