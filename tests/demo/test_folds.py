"""The folds of flights and boards, against the oracle and against disorder and repetition."""

from __future__ import annotations

import random
from typing import Any

import pytest

from demo.folding import fold_all
from headwater_ops.demo.boards import Fact, fold_legs, fold_weather, legs_by_airport, new_board, rank_routes
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.events import DemoEvent, references, replay
from headwater_ops.demo.flights import complete, fold_flight
from headwater_ops.demo.oracle import Oracle, differences
from headwater_ops.demo.topics import FLIGHT_TOPICS


@pytest.mark.parametrize("order", ["in time", "shuffled, with repetitions"])
def test_the_fold_of_all_events_equals_the_oracle(sample: Dataset, order: str) -> None:
    events = list(replay(sample))
    if order != "in time":
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        events += chance.sample(events, len(events) // 5)
        chance.shuffle(events)

    flights, boards = fold_all(events, references(sample))

    oracle = Oracle(sample)
    found = [d for key, state in oracle.flights() for d in differences("flight", key, state, flights.pop(key))]
    for key, state in oracle.airports().items():
        found += differences("airport-board", key, state, boards.pop(key))
    assert found == []
    assert not flights
    assert not boards


def test_a_flight_known_already_is_not_changed(sample: Dataset) -> None:
    for event in list(replay(sample))[:50]:
        if event.topic in FLIGHT_TOPICS:
            state = fold_flight(None, event.topic, 7, event.value, no_enrichment)
            assert state is not None
            assert fold_flight(state, event.topic, 7, event.value, no_enrichment) is None


def test_a_fold_leaves_the_state_before_it_as_it_was(sample: Dataset) -> None:
    first, second = events_of_one_flight(sample)[:2]
    before = fold_flight(None, first.topic, 1, first.value, no_enrichment)
    assert before is not None
    copy = dict(before)
    assert fold_flight(before, second.topic, 2, second.value, no_enrichment) != before
    assert before == copy


def test_a_flight_is_complete_once_nothing_can_follow(sample: Dataset) -> None:
    state = None
    seen = []
    for event in events_of_one_flight(sample):
        state = fold_flight(state, event.topic, 7, event.value, no_enrichment)
        assert state is not None
        seen.append(complete(state))
    assert seen == [False, False, True]


def test_boards_count_each_fact_once_however_batches_are_cut_and_repeated() -> None:
    """A crash before a commit repeats the tail of what was read, cut into other batches."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    facts = [some_fact(chance, offset) for offset in range(0, 3_000, 2)]
    clean = boards_of([facts])

    batches = []
    start = 0
    while start < len(facts):
        end = min(len(facts), start + chance.randrange(1, 80))
        batches.append(facts[start:end])
        start = end if chance.random() < 0.7 else max(0, start - chance.randrange(0, 100))

    assert boards_of(batches) == clean


def test_sources_are_counted_apart() -> None:
    board = new_board("EWR")
    record = legs_by_airport("flights.departed-0", [Fact(7, "DEPARTED", "EWR", "IAH", 3)])["EWR"]
    assert fold_legs(board, record)
    assert fold_legs(board, record | {"source": "flights.departed-1"})
    assert not fold_legs(board, record)
    assert (board["departures"], board["departure_delay_minutes"]) == (2, 6)
    assert board["applied"] == {"flights.departed-0": 7, "flights.departed-1": 7}


def test_an_arrival_counts_at_both_ends_of_its_route_but_lands_at_one() -> None:
    records = legs_by_airport("flights.arrived-0", [Fact(1, "ARRIVED", "EWR", "IAH", 11)])
    origin, destination = new_board("EWR"), new_board("IAH")
    fold_legs(origin, records["EWR"])
    fold_legs(destination, records["IAH"])
    assert (origin["arrivals"], destination["arrivals"]) == (0, 1)
    assert origin["routes"] == destination["routes"] == {"EWR-IAH": {"arrivals": 1, "delay_minutes": 11}}


def test_a_diverted_arrival_counts_without_a_delay() -> None:
    board = new_board("IAH")
    fold_legs(board, legs_by_airport("flights.arrived-0", [Fact(1, "ARRIVED", "EWR", "IAH", None)])["IAH"])
    rank_routes(board)
    assert (board["arrivals"], board["arrivals_timed"], board["mean_arrival_delay"]) == (1, 0, None)
    assert board["routes"] == {}


def test_the_worst_route_needs_twenty_arrivals_and_equals_go_by_name() -> None:
    board = new_board("EWR")
    board["routes"] = {
        "EWR-AAA": {"arrivals": 19, "delay_minutes": 19_000},
        "EWR-CCC": {"arrivals": 20, "delay_minutes": 100},
        "EWR-BBB": {"arrivals": 40, "delay_minutes": 200},
        "EWR-DDD": {"arrivals": 20, "delay_minutes": -100},
    }
    rank_routes(board)
    assert (board["worst_route"], board["worst_route_delay"]) == ("EWR-BBB", 5.0)


def test_weather_that_is_not_newer_changes_nothing() -> None:
    board = new_board("EWR")
    seen = {"temperature_f": 40.0, "wind_speed_mph": None, "visibility_miles": 10.0}
    assert fold_weather(board, {"observed_at": 20, **seen})
    assert not fold_weather(board, {"observed_at": 20, **seen})
    assert not fold_weather(board, {"observed_at": 10, **seen})
    assert board["weather"] == {"observed_at": 20, **seen}


def events_of_one_flight(data: Dataset) -> list[DemoEvent]:
    events = list(replay(data))
    return [event for event in events if event.key == events[0].key]


def no_enrichment(_: object) -> dict[str, Any]:
    return {"airline": None, "destination_name": None, "aircraft": None, "seats": None}


def some_fact(chance: random.Random, offset: int) -> Fact:
    kind = chance.choice(("DEPARTED", "ARRIVED", "CANCELLED"))
    return Fact(offset, kind, chance.choice(("EWR", "JFK")), chance.choice(("IAH", "MIA")), chance.randrange(-20, 90))


def boards_of(batches: list[list[Fact]]) -> dict[str, Any]:
    boards: dict[str, Any] = {}
    for batch in batches:
        for airport, record in legs_by_airport("source-0", batch).items():
            fold_legs(boards.setdefault(airport, new_board(airport)), record)
    return boards
