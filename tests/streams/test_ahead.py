"""What a commit tells beyond its offset."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_streams.handlers.ahead import GAP, Ahead, TooFarAhead, decode, encode


@given(
    base=st.integers(0, 2**40),
    parts=st.dictionaries(
        st.text(max_size=20), st.tuples(st.integers(1, 3000), st.sets(st.integers(0, 2999), max_size=200)), max_size=3
    ),
)
def test_what_is_told_is_understood(base: int, parts: dict[str, tuple[int, set[int]]]) -> None:
    told = {
        name: Ahead(base + span, (base + place for place in places if place < span))
        for name, (span, places) in parts.items()
    }

    assert decode(base, encode(base, told)) == told


def test_nothing_beyond_the_offset_needs_no_metadata() -> None:
    assert encode(7, {"bill": Ahead(7)}) == ""
    assert decode(7, "") == decode(7, None) == {}


@pytest.mark.parametrize("text", ["NO_METADATA", "{", '{"a": "d!!!"}', '{"a": 1}', '{"a": "dAAAA"}', "[]"])
def test_metadata_of_others_tells_nothing(text: str) -> None:
    assert decode(0, text) == {}


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_that_one_handler_can_have_ahead_fits(seed: int) -> None:
    rng = random.Random(seed)
    places = [place for place in range(GAP) if rng.random() < 0.5]

    assert len(encode(10**9, {"a-handler-of-some-name": Ahead(10**9 + GAP, (10**9 + at for at in places))})) < 4000


def test_what_does_not_fit_is_refused() -> None:
    rng = random.Random(1)
    places = {rng.randrange(10**9) for _ in range(3000)}

    with pytest.raises(TooFarAhead):
        encode(0, {"bill": Ahead(10**9, places)})


def test_membership_is_being_settled() -> None:
    ahead = Ahead(10, [3, 5])

    assert [offset for offset in range(12) if offset not in ahead] == [3, 5, 10, 11]
    assert ahead.low == 3
