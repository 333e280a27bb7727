"""Guards before the broker: how fast a producer may go, and what an outage costs a caller."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from headwater_producers import Block, EventProducer, ProducerSettings, Refuse, Spool
from headwater_producers.breaker import Breaker
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import BrokerUnavailable, Overloaded, SettingError, UsageError
from headwater_schemas.pace import Pace
from headwater_schemas.rates import per_second
from headwater_schemas.settings import Environment
from producers.broker import Broker
from producers.orders import NOWHERE, MakeProducer, order, read_all, settings_for

# Rates


@pytest.mark.parametrize(("text", "expected"), [("100/s", 100), ("30/m", 0.5), (" 9 / h ", 0.0025), ("0.5/s", 0.5)])
def test_a_rate_is_read_as_people_write_it(text: str, expected: float) -> None:
    assert per_second(text) == expected


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "many/s", "1/d"])
def test_what_is_no_rate_says_what_to_pass(text: str) -> None:
    with pytest.raises(UsageError, match="'100/s'"):
        per_second(text)


def test_a_second_s_worth_goes_at_once_and_then_one_at_a_time() -> None:
    clock = ManualClock()
    pace = Pace(10, clock)
    assert [pace.take(0) for _ in range(10)] == [0] * 10
    assert pace.take(0) is None
    assert pace.take(1) == pytest.approx(0.1)
    assert pace.take(1) == pytest.approx(0.2)
    assert pace.wait() == pytest.approx(0.3)
    clock.advance(0.25)
    assert pace.take(0) is None
    clock.advance(0.06)
    assert pace.take(0) == 0
    clock.advance(60)  # what was not used is not saved up
    assert [pace.take(0) for _ in range(11)] == [0] * 10 + [None]


def test_less_than_one_a_second_lets_one_through() -> None:
    clock = ManualClock()
    pace = Pace(0.1, clock)
    assert pace.take(0) == 0
    clock.advance(9.9)
    assert pace.take(0) is None
    clock.advance(0.2)
    assert pace.take(0) == 0


def test_a_refusing_producer_refuses_what_is_too_fast(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, rate=2.0, back_pressure=Refuse())
    for number in range(2):
        producer.emit(topic_name, order(number))
    with pytest.raises(Overloaded, match=r"faster than 2 events/s"):
        producer.emit(topic_name, order(3))
    assert len(producer) == 2


def test_a_blocking_producer_waits_its_turn(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, rate=20.0, back_pressure=Block(0.2))
    started = time.monotonic()
    for number in range(24):
        producer.emit(topic_name, order(number))
    assert time.monotonic() - started >= 0.2 - 0.01


async def test_in_a_coroutine_drain_waits_its_turn(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, rate=20.0)
    for number in range(20):
        producer.emit(topic_name, order(number))
    with pytest.raises(Overloaded, match=r"await producer\.drain\(\)"):
        producer.emit(topic_name, order(20))
    for number in range(3):
        await producer.drain()
        producer.emit(topic_name, order(number))


# The breaker


def test_the_breaker_opens_when_records_wait_and_none_is_acknowledged() -> None:
    clock = ManualClock()
    breaker = Breaker(5, clock)
    clock.advance(60)
    assert not breaker.look(0), "nothing waits: nothing is known to be wrong"
    clock.advance(5)
    assert not breaker.look(1)
    clock.advance(0.1)
    assert breaker.look(1)
    assert breaker.open
    assert not breaker.look(0), "an empty queue is no sign of life"
    assert breaker.open
    breaker.heard = True
    assert breaker.look(1)
    assert not breaker.open


def test_an_acknowledgement_now_and_then_keeps_it_closed() -> None:
    clock = ManualClock()
    breaker = Breaker(5, clock)
    for _ in range(10):
        clock.advance(4)
        breaker.heard = True
        assert not breaker.look(100)
    assert not breaker.open


def degraded(producer: EventProducer) -> bool:
    return producer.degraded


def emitted_or_refused(producer: EventProducer, topic: str) -> str:
    try:
        producer.emit(topic, order(1))
    except BrokerUnavailable as exc:
        return str(exc)
    return ""


def eventually(producer: EventProducer, topic: str, *, refused: bool) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = emitted_or_refused(producer, topic)
        if bool(answer) is refused:
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def test_while_the_broker_is_frozen_an_emit_fails_at_once_and_afterwards_goes_through(
    broker: Broker, topic: str, make_producer: MakeProducer
) -> None:
    producer = make_producer(broker.bootstrap, fail_fast=1.0)
    producer.emit(topic, order(0)).result(20)
    assert not degraded(producer)
    broker.freeze()
    answer = eventually(producer, topic, refused=True)
    assert "acknowledged nothing for 1 s" in answer
    assert degraded(producer)
    assert (REGISTRY.get_sample_value("headwater_producer_degraded") or 0) >= 1
    queued = len(producer)
    with pytest.raises(BrokerUnavailable, match="HEADWATER_PRODUCER_FAIL_FAST"):
        producer.emit_raw(topic, b"x")
    assert len(producer) == queued
    broker.thaw()
    eventually(producer, topic, refused=False)
    assert not degraded(producer)
    producer.flush(30)
    assert len(read_all(broker.bootstrap, topic)) == queued + 2, "what was queued is sent, what was refused is not"


def test_when_all_has_timed_out_one_record_probes(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, fail_fast=1.0, delivery_timeout=1.5)
    first = producer.emit(topic_name, order(0))
    eventually(producer, topic_name, refused=True)
    with pytest.raises(BrokerUnavailable):
        first.result(20)
    deadline = time.monotonic() + 20
    while len(producer):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert degraded(producer)
    producer.emit(topic_name, order(1))
    with pytest.raises(BrokerUnavailable, match="not queued"):
        producer.emit(topic_name, order(2))


def test_raw_records_are_a_sign_of_life_too(topic: str, make_producer: MakeProducer, bootstrap: str) -> None:
    seen: list[object] = []
    producer = make_producer(bootstrap, fail_fast=4.0)
    deadline = time.monotonic() + 4.5
    while time.monotonic() < deadline:
        producer.emit_raw(topic, b"x", on_delivery=lambda error, message: seen.append(error))
        time.sleep(0.01)
    assert not degraded(producer)
    producer.flush(20)
    assert seen
    assert set(seen) == {None}


# Settings


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rate": 0.0}, "RATE"),
        ({"fail_fast": 0.5}, "FAIL_FAST"),
        ({"fail_fast": 5.0, "back_pressure": Spool(Path("spool"))}, "FAIL_FAST: leave it out"),
    ],
)
def test_a_guard_that_cannot_be_is_refused(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=f"HEADWATER_PRODUCER_{name}"):
        settings_for(NOWHERE, **changes)


def test_guards_are_settings() -> None:
    values = {"HEADWATER_PRODUCER_RATE": "30/m", "HEADWATER_PRODUCER_FAIL_FAST": "5s"}
    settings = ProducerSettings.from_env(Environment(values))
    assert (settings.rate, settings.fail_fast) == (0.5, 5.0)
    settings = ProducerSettings.from_env(Environment({}))
    assert (settings.rate, settings.fail_fast) == (None, None)
    with pytest.raises(SettingError, match="HEADWATER_PRODUCER_RATE: 'fast'"):
        ProducerSettings.from_env(Environment({"HEADWATER_PRODUCER_RATE": "fast"}))


async def test_a_wait_with_a_deadline_ends_and_the_event_still_arrives(
    broker: Broker, topic: str, make_producer: MakeProducer
) -> None:
    producer = make_producer(broker.bootstrap)
    await producer.emit(topic, order(0))
    broker.freeze()
    delivery = producer.emit(topic, order(1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await delivery
    broker.thaw()
    assert (await delivery).state == "acked"
