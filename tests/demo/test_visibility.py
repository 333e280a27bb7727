"""Measuring from emit to the reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater_ops.demo.events import DemoEvent
from headwater_ops.demo.figures import quantile
from headwater_ops.demo.flights import OFFSETS
from headwater_ops.demo.topics import DEPARTED, SCHEDULED, WEATHER
from headwater_ops.demo.visibility import Visibility
from headwater_schemas.clock import ManualClock

MARKS: dict[str, Any] = dict.fromkeys(OFFSETS.values())


class Cache:
    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {}

    def read_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {key: self.states[key] for key in keys if key in self.states}


def test_a_sample_is_timed_when_the_cache_shows_its_event() -> None:
    cache, clock = Cache(), ManualClock()
    visibility = Visibility(cache.read_many, clock, every=1)

    visibility.emitted(DemoEvent(DEPARTED, "f", {}))
    clock.advance(0.010)
    cache.states["f"] = MARKS | {"scheduled_offset": 1}  # another event of the flight
    visibility.look()
    assert (visibility.waiting, visibility.seconds) == (1, [])

    clock.advance(0.020)
    cache.states["f"] = MARKS | {"scheduled_offset": 1, "departed_offset": 2}
    visibility.look()
    assert visibility.waiting == 0
    assert [round(seconds, 6) for seconds in visibility.seconds] == [0.03]


def test_outstanding_counts_from_the_oldest_sample_that_waits() -> None:
    cache, clock = Cache(), ManualClock()
    visibility = Visibility(cache.read_many, clock, every=2)
    assert visibility.outstanding == 0
    for key in "abcde":
        visibility.emitted(DemoEvent(SCHEDULED, key, {}))  # b and d are samples
    assert visibility.outstanding == 3
    cache.states["b"] = MARKS | {"scheduled_offset": 1}
    visibility.look()
    assert visibility.outstanding == 1
    clock.advance(1)
    cache.states["d"] = MARKS | {"scheduled_offset": 1}
    visibility.look()
    assert visibility.outstanding == 0


def test_one_flight_event_in_so_many_is_a_sample_and_weather_never() -> None:
    visibility = Visibility(Cache().read_many, ManualClock(), every=3)
    for number in range(9):
        visibility.emitted(DemoEvent(SCHEDULED, str(number), {}))
        visibility.emitted(DemoEvent(WEATHER, "EWR", {}))
    assert visibility.waiting == 3


def test_quantiles_are_samples_that_occurred() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert quantile(samples, 0.5) == 50.0
    assert quantile(samples, 0.99) == 99.0
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([], 0.99) is None


def test_looking_again_at_once_reads_nothing() -> None:
    cache, clock = Cache(), ManualClock()
    visibility = Visibility(cache.read_many, clock, every=1)
    visibility.emitted(DemoEvent(SCHEDULED, "f", {}))
    visibility.look()
    cache.states["f"] = MARKS | {"scheduled_offset": 1}
    visibility.look()
    assert visibility.waiting == 1
    clock.advance(0.020)
    visibility.look()
    assert visibility.waiting == 0
