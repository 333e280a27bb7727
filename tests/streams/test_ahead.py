"""What a commit tells beyond its offset."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_streams.handlers.ahead import GAP, Ahead, TooFarAhead, decode, decode_owners, encode
from headwater_streams.handlers.owners import owner_at, since, succeeded


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
    assert decode_owners("") == decode_owners(None) == ()


@pytest.mark.parametrize("text", ["NO_METADATA", "{", '{"a": "d!!!"}', '{"a": 1}', '{"a": "dAAAA"}', "[]"])
def test_metadata_of_others_tells_nothing(text: str) -> None:
    assert decode(0, text) == {}
    assert decode_owners(text) == ()


@pytest.mark.parametrize(
    "text", ['{"@owners": 7}', '{"@owners": [[1]]}', '{"@owners": [["x", "y"]]}', '{"@owners": [[1, 2]]}']
)
def test_owners_that_no_one_can_be_name_none(text: str) -> None:
    assert decode_owners(text) == ()
    assert decode(0, text) == {}


def test_owners_are_told_beside_what_is_settled() -> None:
    owners = ((3, b"a"), (9, b"b"))
    text = encode(5, {"bill": Ahead(8, [6])}, owners)

    assert decode_owners(text) == owners
    assert decode(5, text) == {"bill": Ahead(8, [6])}
    assert decode_owners(encode(9, {}, owners)) == ((9, b"b"),)


def test_the_worst_that_one_handler_can_have_ahead_fits_beside_many_owners() -> None:
    rng = random.Random(1)
    places = [place for place in range(GAP) if rng.random() < 0.5]
    owners: tuple[tuple[int, bytes], ...] = ()
    for number in range(100):
        owners = succeeded(owners, 10**9 + number, f"{number:08x}".encode())

    told = {"a-handler-of-some-name": Ahead(10**9 + GAP, (10**9 + at for at in places))}
    assert len(encode(10**9, told, owners)) < 4000


@given(lengths=st.lists(st.integers(0, 5), max_size=12), base=st.integers(0, 60))
def test_what_counts_at_an_offset_is_what_the_last_owner_that_began_there_or_before_wrote(
    lengths: list[int], base: int
) -> None:
    owners: tuple[tuple[int, bytes], ...] = ()
    truth: dict[int, bytes] = {}
    start = 0
    for number, length in enumerate(lengths):
        epoch = str(number).encode()
        owners = succeeded(owners, start, epoch)
        truth |= dict.fromkeys(range(start, 61), epoch)
        start += length

    assert {at: owner_at(owners, at) for at in range(61)} == {at: truth.get(at) for at in range(61)}
    assert all(owner_at(since(owners, base), at) == truth.get(at) for at in range(base, 61))


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
