from __future__ import annotations

import time

import pytest

from headwater_schemas.clock import ManualClock, SystemClock


def test_a_manual_clock_moves_both_readings_and_only_when_told() -> None:
    clock = ManualClock(start=1000.0)
    assert (clock.time(), clock.monotonic()) == (1000.0, 0.0)

    clock.advance(2.5)

    assert (clock.time(), clock.monotonic()) == (1002.5, 2.5)


def test_a_manual_clock_never_goes_back() -> None:
    with pytest.raises(ValueError, match="only moves forward"):
        ManualClock().advance(-1)


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()

    assert abs(clock.time() - time.time()) < 5
    assert abs(clock.monotonic() - time.monotonic()) < 5
