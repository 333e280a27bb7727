from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_schemas.durations import format_duration, seconds
from headwater_schemas.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [("250ms", 0.25), ("30s", 30), ("10m", 600), ("1h", 3600), ("7d", 604_800), ("1.5s", 1.5), (" 2 m ", 120)],
)
def test_durations_are_read_as_written(text: str, value: float) -> None:
    assert seconds(text) == value


def test_numbers_are_seconds() -> None:
    assert (seconds(5), seconds(0.5), seconds(0)) == (5.0, 0.5, 0.0)


@pytest.mark.parametrize("bad", ["", "soon", "5", "-5s", "5 weeks", "5S", -1, float("nan"), True])
def test_what_is_no_duration_says_what_to_pass(bad: str | float) -> None:
    with pytest.raises(UsageError, match="is not a duration: pass"):
        seconds(bad)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0ms"), (0.25, "250ms"), (1, "1s"), (60, "1m"), (90, "90s"), (3600, "1h"), (604_800, "7d")]
)
def test_the_shortest_exact_form_is_written(value: float, text: str) -> None:
    assert format_duration(value) == text


@given(st.integers(0, 10**12))
def test_what_is_written_reads_back_to_the_millisecond(milliseconds: int) -> None:
    assert round(seconds(format_duration(milliseconds / 1000)) * 1000) == milliseconds
