"""The year of flights, read once for all tests of the demo."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headwater_ops.demo.dataset import Dataset


@pytest.fixture(scope="session")
def year() -> Dataset:
    """The whole data set."""
    return Dataset.load()


@pytest.fixture(scope="session")
def sample(year: Dataset) -> Dataset:
    """About 9,000 flights: every 60th, and all of the days on which the clocks change."""
    changes = {("3", "9"), ("3", "10"), ("11", "2"), ("11", "3")}
    flights = [row for n, row in enumerate(year.flights) if n % 60 == 0 or (row.month, row.day) in changes]
    return replace(year, flights=flights)
