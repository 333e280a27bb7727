"""Rate limits, the flood guard and the watch over the loop."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError
from headwater_schemas.rates import per_second
from headwater_streams import DeadLimit, Retry
from headwater_streams.handlers.failure import due_stamp
from headwater_streams.handlers.limits import FloodGuard, TokenBucket
from headwater_streams.loopwatch import LoopWatch
from headwater_streams.metrics import WorkerMetrics
from headwater_streams.testing import StreamKit
from streams.orders import TOPIC, memory_app, order


def samples_of(kit: StreamKit) -> dict[str, float]:
    """What Prometheus would see of the handler ``bill``."""
    metrics = WorkerMetrics("billing")
    assert kit._pool is not None
    runners: list[Any] = list(kit._pool.runners)
    for runner in runners:
        metrics.watch(runner)
    samples = [sample for family in metrics.collect() for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.labels.get("handler") == "bill"}


@pytest.mark.parametrize(("text", "rate"), [("100/s", 100.0), ("30/m", 0.5), ("1.5 / s", 1.5), ("3600/h", 1.0)])
def test_a_rate_is_read_as_calls_per_second(text: str, rate: float) -> None:
    assert per_second(text) == rate


@pytest.mark.parametrize(
    ("at", "stamp"),
    [
        (1_700_000_000.0001, b"1700000000.001"),
        (1_700_000_000.3, b"1700000000.300"),
        (1_700_000_001.0, b"1700000001.000"),
    ],
)
def test_the_time_at_which_a_retry_is_due_is_never_rounded_to_an_earlier_one(at: float, stamp: bytes) -> None:
    assert due_stamp(at) == stamp


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "5/day"])
def test_a_rate_that_makes_no_sense_says_what_to_pass(text: str) -> None:
    with pytest.raises(UsageError, match="e\\.g\\. '100/s'"):
        per_second(text)


def test_a_bucket_lets_the_burst_through_and_then_one_each_step() -> None:
    clock = ManualClock()
    bucket = TokenBucket(2.0, clock, burst=3)

    waits = [bucket.reserve() for _ in range(6)]
    clock.advance(10)

    assert waits == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5])
    assert [bucket.reserve() for _ in range(4)] == pytest.approx([0, 0, 0, 0.5])


async def test_a_handler_with_a_rate_is_not_called_more_often() -> None:
    app, times = memory_app(), []

    @app.handler(TOPIC, rate="100/s")
    async def bill(value: dict[str, Any]) -> None:
        times.append(time.monotonic())

    async with StreamKit(app) as kit:
        kit.app.clock = kit.clock
        for number in range(105):
            kit.send(TOPIC, order(f"k{number}", number), key=f"k{number}")
        while len(times) < 105:
            await kit._fetch()
            await asyncio.sleep(0.005)

    assert times[104] - times[0] >= 0.04


def test_a_flood_is_more_than_the_ratio_of_enough_records() -> None:
    guard = FloodGuard(DeadLimit(ratio=0.5, records=10))

    few = [guard.died(settled=0) for _ in range(9)]
    tenth = guard.died(settled=0)
    guard.reset(settled=0)
    mixed = [guard.died(settled=number + 1) for number in range(20)]

    assert not any(few)
    assert tenth
    assert not any(mixed)


async def test_a_flood_of_dead_letters_stops_the_partition_loudly_and_goes_on_after_the_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry(), concurrency=1, dead_limit=DeadLimit(records=5, pause="1h"))
    async def bill(value: dict[str, Any]) -> None:
        raise ValueError("the handler is broken")

    async with StreamKit(app) as kit:
        for number in range(6):
            kit.send(TOPIC, order(f"k{number}", number), key=f"k{number}")
        await kit.settle()
        before = len(kit.dead_letters(TOPIC))
        stopped = set(kit.broker.paused)
        figures = samples_of(kit)
        await kit.advance("1h")
        after = len(kit.dead_letters(TOPIC))

    assert stopped
    assert (before, after) == (4, 6)
    assert figures["headwater_dead_floods_total"] == 1
    assert figures["headwater_partitions_stopped"] == 0  # that is of topics which refuse records
    assert "too many records of bill die" in caplog.text


async def test_code_that_blocks_the_loop_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    watch = LoopWatch(limit=0.2)

    def a_blocking_handler() -> None:
        time.sleep(0.6)

    with caplog.at_level(logging.ERROR):
        watch.start()
        await asyncio.sleep(0)
        a_blocking_handler()
        await asyncio.sleep(0)
        watch.stop()

    assert watch.blocked == 1
    assert "a_blocking_handler" in caplog.text
