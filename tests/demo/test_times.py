"""Clock readings as instants."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headwater_ops.demo.times import first_after, instant

NEW_YORK = "America/New_York"


def utc(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) // 60


@pytest.mark.parametrize(
    ("zone", "date", "reading", "expected"),
    [
        (NEW_YORK, (2013, 1, 1), 515, "2013-01-01T10:15"),
        (NEW_YORK, (2013, 7, 1), 515, "2013-07-01T09:15"),
        ("Pacific/Honolulu", (2013, 7, 1), 1500, "2013-07-02T01:00"),
        ("America/Phoenix", (2013, 7, 1), 1500, "2013-07-01T22:00"),
        (NEW_YORK, (2013, 12, 31), 2400, "2014-01-01T05:00"),
        (NEW_YORK, (2013, 1, 1), 1, "2013-01-01T05:01"),
    ],
)
def test_a_reading_is_taken_in_its_own_zone(zone: str, date: tuple[int, int, int], reading: int, expected: str) -> None:
    assert instant(zone, *date, reading) == utc(expected)


@pytest.mark.parametrize(
    ("start", "zone", "reading", "expected"),
    [
        ("2013-01-01T10:15", "America/Chicago", 819, "2013-01-01T14:19"),
        ("2013-01-02T04:59", NEW_YORK, 339, "2013-01-02T08:39"),  # over midnight, New York time
        ("2013-01-01T23:00", NEW_YORK, 1800, "2013-01-02T23:00"),  # the same reading is a day later
        ("2013-01-01T20:00", NEW_YORK, 2400, "2013-01-02T05:00"),
        ("2013-03-09T23:00", "America/Los_Angeles", 1400, "2013-03-10T21:00"),  # 23-hour day
        ("2013-11-03T04:30", "America/Los_Angeles", 2300, "2013-11-03T06:00"),
        ("2013-11-03T06:30", "America/Los_Angeles", 2300, "2013-11-04T07:00"),  # 25-hour day
        ("2013-01-01T15:00", "Pacific/Honolulu", 1500, "2013-01-02T01:00"),
    ],
)
def test_the_first_reading_after_a_start_may_be_on_another_date(
    start: str, zone: str, reading: int, expected: str
) -> None:
    assert first_after(utc(start), zone, reading) == utc(expected)
