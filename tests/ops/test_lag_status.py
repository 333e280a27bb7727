"""The rules by which a consumer is judged, and what the collector shows of what it saw; no brokers."""

from __future__ import annotations

import pytest

from headwater_ops.lag import Observation, Status, judge

SIZE = 4


def looks(*pairs: tuple[int, int]) -> list[Observation]:
    return [Observation(committed, end) for committed, end in pairs]


@pytest.mark.parametrize(
    ("window", "owned", "status"),
    [
        # Nothing known, or too little of it.
        ([], True, Status.OK),
        ([(5, 9)], False, Status.OK),
        ([(5, 9), (5, 9), (5, 9)], False, Status.OK),
        # Up to date, or it was a moment ago.
        ([(5, 5), (5, 5), (5, 5), (5, 5)], False, Status.OK),
        ([(5, 5), (5, 9), (5, 9), (5, 9)], False, Status.OK),
        # It works: the lag shrinks now and then.
        ([(1, 9), (3, 12), (8, 13), (9, 15)], True, Status.OK),
        # Too slow: it reads, and never gains.
        ([(1, 9), (2, 11), (3, 13), (4, 15)], True, Status.WARN),
        ([(1, 9), (2, 10), (3, 11), (4, 12)], True, Status.WARN),
        ([(1, 9), (1, 9), (1, 9), (2, 30)], True, Status.WARN),
        # Nothing moves: with an owner it hangs, without one nobody works.
        ([(5, 9), (5, 9), (5, 9), (5, 9)], True, Status.STALL),
        ([(5, 9), (5, 9), (5, 11), (5, 12)], True, Status.STALL),
        ([(5, 9), (5, 9), (5, 9), (5, 9)], False, Status.STOP),
        # Somebody reset the offset; that is said even when little else is known.
        ([(5, 9), (4, 9)], True, Status.REWIND),
        ([(5, 9), (4, 9), (6, 9), (9, 9)], True, Status.REWIND),
        # A quiet topic: the first record after an hour is not an hour of silence.
        ([(7, 7), (7, 7), (7, 7), (7, 8)], True, Status.OK),
        ([(7, 7), (7, 7), (7, 8), (7, 8)], False, Status.OK),
        # Committed past the end that was read: no lag, not a negative one.
        ([(9, 8), (9, 8), (9, 8), (9, 8)], True, Status.OK),
    ],
)
def test_a_consumer_is_judged_by_its_window(window: list[tuple[int, int]], owned: bool, status: Status) -> None:
    assert judge(looks(*window), SIZE, owned=owned) is status


def test_the_status_is_the_number_that_the_metric_promises() -> None:
    assert [status.value for status in (Status.OK, Status.WARN, Status.STOP, Status.STALL, Status.REWIND)] == [
        *range(5)
    ]
