"""Ids, selections, kinds and targets of dead letters, without brokers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headwater_schemas import wire
from headwater_schemas.errors import UsageError
from headwater_streams.deadletters import DeadLetter, LetterId, NotRedrivable, Selection
from headwater_streams.deadletters.letter import Origin
from headwater_streams.deadletters.redrive import Options, Targets, redriven
from headwater_streams.deadletters.selection import kinds
from headwater_streams.handlers.message import Headers
from headwater_streams.testing import MemoryMessage

DEAD = "orders.placed.billing.dlt"
HEADERS: Headers = [
    ("shop", b"1"),
    ("shop", b"2"),
    (wire.HW_ORIGINAL_TOPIC, b"orders.placed"),
    (wire.HW_ORIGINAL_PARTITION, b"2"),
    (wire.HW_ORIGINAL_OFFSET, b"41"),
    (wire.HW_ORIGINAL_TIMESTAMP, b"1500"),
    (wire.HW_GROUP, b"billing"),
    (wire.HW_HANDLER, b"charge"),
    (wire.HW_REASON, b"handler"),
    (wire.HW_ATTEMPT, b"4"),
    (wire.HW_FIRST_FAILED_AT, b"1.5"),
    (wire.HW_EXCEPTION_CLASS, b"ValueError"),
    (wire.HW_EXCEPTION_MESSAGE, b"no price"),
    (wire.HW_EXCEPTION_STACK, b"Traceback"),
    (wire.HW_FINGERPRINT, b"ab12cd34"),
    (wire.HW_REDRIVE_COUNT, b"1"),
    ("hw-fence", b"0011aabb"),
]
LETTER = DeadLetter(
    id=LetterId(DEAD, 2, 7),
    key=b"k",
    value=b"\x00",
    headers=HEADERS,
    died_at=100.0,
    origin=Origin("orders.placed", 2, 41, 1.5),
    group="billing",
    handler="charge",
    reason="handler",
    attempts=4,
    exception_class="ValueError",
    exception_message="no price",
    fingerprint="ab12cd34",
    redrives=1,
)
TOPICS = {"orders.placed": 4, DEAD: 4, "orders.placed.billing.retry.parked": 4}


def test_a_letter_is_read_from_its_headers() -> None:
    message = MemoryMessage(DEAD, 2, 7, b"k", b"\x00", HEADERS, 100_000)

    assert DeadLetter.of(message) == LETTER
    assert LETTER.stack == "Traceback"
    assert LETTER.own_headers() == [("shop", b"1"), ("shop", b"2")]


def test_headers_that_make_no_sense_count_as_absent() -> None:
    headers: Headers = [(wire.HW_ORIGINAL_TOPIC, b"t"), (wire.HW_ORIGINAL_OFFSET, b"x"), (wire.HW_REDRIVE_COUNT, b"-1")]

    letter = DeadLetter.of(MemoryMessage(DEAD, 0, 0, None, None, headers, 0))

    assert (letter.origin, letter.redrives, letter.group, letter.stack) == (None, 0, None, None)


def test_an_id_is_printed_as_it_is_parsed() -> None:
    assert LetterId.parse(str(LETTER.id)) == LETTER.id


@pytest.mark.parametrize("text", ["", "topic", "topic/1", "topic/x/1", "topic/1/-2", "/1/2"])
def test_what_is_no_id_is_told_what_to_pass(text: str) -> None:
    with pytest.raises(UsageError, match="TOPIC/PARTITION/OFFSET"):
        LetterId.parse(text)


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        (Selection(), True),
        (Selection(topic=DEAD, group="billing", handler="charge", reason="handler", key="k"), True),
        (Selection(topic="other.dlt"), False),
        (Selection(group="other"), False),
        (Selection(handler="other"), False),
        (Selection(reason="decode"), False),
        (Selection(key="K"), False),
        (Selection(fingerprint="ab12"), True),
        (Selection(fingerprint="b12"), False),
        (Selection(since=100.0), True),
        (Selection(since=100.1), False),
        (Selection(until=100.1), True),
        (Selection(until=100.0), False),
        (Selection(letter=LetterId(DEAD, 2, 7)), True),
        (Selection(letter=LetterId(DEAD, 2, 8)), False),
    ],
    ids=str,
)
def test_a_selection_takes_what_fits_all_that_is_given(selection: Selection, taken: bool) -> None:
    assert selection.takes(LETTER) is taken


def test_a_selection_says_what_it_is() -> None:
    assert str(Selection()) == "all"
    assert str(Selection(fingerprint="ab", since=0.0)) == "fingerprint=ab since=1970-01-01T00:00:00.000Z"


def test_an_empty_span_of_time_is_refused() -> None:
    with pytest.raises(UsageError, match="before until"):
        Selection(since=5.0, until=5.0)


def test_kinds_count_and_keep_the_newest_sample() -> None:
    newer = replace(LETTER, id=LetterId(DEAD, 2, 8), died_at=110.0, exception_message="no price either")
    other = replace(LETTER, id=LetterId(DEAD, 2, 9), died_at=90.0, fingerprint="ff", reason="timeout")

    first, second = kinds([(LETTER, False), (newer, True), (other, False)])

    assert (first.fingerprint, first.count, first.open) == ("ab12cd34", 2, 1)
    assert (first.first_seen, first.last_seen, first.sample) == (100.0, 110.0, newer.id)
    assert first.exception_message == "no price either"
    assert (second.fingerprint, second.count, second.open) == ("ff", 1, 0)


def test_a_letter_goes_back_through_the_shortest_tier_of_its_group() -> None:
    tiers = {f"orders.placed.billing.retry.{delay}": 4 for delay in ("1m", "10s", "1h")}

    assert Targets(TOPICS | tiers | {"orders.placed.other.retry.1s": 4}).of(LETTER) == "orders.placed.billing.retry.10s"


def test_without_tiers_a_letter_goes_back_through_the_parking_log() -> None:
    assert Targets(TOPICS).of(LETTER) == "orders.placed.billing.retry.parked"


@pytest.mark.parametrize(
    ("letter", "topics", "why"),
    [
        (replace(LETTER, origin=None), TOPICS, "not written by a handler"),
        (LETTER, {DEAD: 4}, "has no partition 2"),
        (LETTER, TOPICS | {"orders.placed.billing.retry.parked": 2}, "has no partition 2"),
    ],
)
def test_a_letter_without_a_way_back_is_refused_with_the_reason(
    letter: DeadLetter, topics: dict[str, int], why: str
) -> None:
    with pytest.raises(NotRedrivable, match=why):
        Targets(topics).of(letter)


def test_what_goes_back_is_the_record_with_a_life_of_its_own() -> None:
    move = redriven(LETTER, "orders.placed.billing.retry.10s", 1000.0, handler=None, value=LETTER.value)

    assert (move.topic, move.partition, move.key, move.value) == ("orders.placed.billing.retry.10s", 2, b"k", b"\x00")
    assert move.headers == [
        ("shop", b"1"),
        ("shop", b"2"),
        (wire.HW_ORIGINAL_TOPIC, b"orders.placed"),
        (wire.HW_ORIGINAL_PARTITION, b"2"),
        (wire.HW_ORIGINAL_OFFSET, b"41"),
        (wire.HW_ORIGINAL_TIMESTAMP, b"1500"),
        (wire.HW_GROUP, b"billing"),
        (wire.HW_HANDLER, b"charge"),
        (wire.HW_ATTEMPT, b"0"),
        (wire.HW_DUE_AT, b"1000.000"),
        (wire.HW_REDRIVE_COUNT, b"2"),
    ]


def test_a_letter_can_be_given_to_the_successor_of_its_handler() -> None:
    move = redriven(LETTER, "t", 0.0, handler="charge_v2", value=None)

    assert dict(move.headers)[wire.HW_HANDLER] == b"charge_v2"


@pytest.mark.parametrize(
    "options", [{"rate": 0.0}, {"rate": -1.0}, {"canary": -1}, {"canary_timeout": 0.0}, {"max_redrives": 0}]
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Options(**options)  # type: ignore[arg-type]
