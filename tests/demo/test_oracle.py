"""The oracle can tell right from wrong."""

from __future__ import annotations

from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.oracle import Difference, Oracle, differences


def test_the_figures_of_the_year_are_those_of_the_data(year: Dataset) -> None:
    """Figures counted once by hand (awk over the CSV)."""
    oracle = Oracle(year)
    boards = oracle.airports()
    assert sum(board["departures"] for board in boards.values()) == 328_521
    assert sum(board["cancellations"] for board in boards.values()) == 8_255
    assert sum(board["arrivals"] for board in boards.values()) == 328_063
    assert sum(board["arrivals_timed"] for board in boards.values()) == 327_346
    assert len(oracle.delayed_flights()) == 3_843


def test_a_wrong_field_is_a_difference() -> None:
    assert list(differences("flight", "f", {"a": 1, "b": None}, {"a": 2, "b": None, "c": 3})) == [
        Difference("flight", "f", "a", 1, 2)
    ]


def test_a_missing_field_is_a_difference_even_where_null_is_expected() -> None:
    assert list(differences("flight", "f", {"a": None}, {})) == [Difference("flight", "f", "a", None, None)]


def test_a_missing_entity_is_one_difference() -> None:
    found = list(differences("flight", "f", {"a": 1, "b": 2}, None))
    assert [(d.key, d.field) for d in found] == [("f", "*")]
    assert str(found[0]) == "flight f: * must be 'an entry', found None"
