"""What handlers depend on: an outage of it is no failure of a record, and an answer of it is no outage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import InvalidValue
from headwater_streams import DeadLetter, EventContext, Retry, RetryLater
from headwater_streams.handlers.dependency import Breaker, Dependencies, DependencyDown
from headwater_streams.handlers.worker import Worker
from headwater_streams.metrics import WorkerMetrics
from headwater_streams.testing import StreamKit
from streams.orders import OUT, TOPIC, memory_app, order, text


class Stolen(Exception):
    """What a payment client raises for a card that was reported."""


async def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() -> None:
    clock = ManualClock()
    breaker = Breaker("payments", clock, threshold=3, probe_after=5.0)
    for _ in range(3):
        await breaker.enter()
        breaker.failed(ConnectionError())
    opened = breaker.state

    clock.advance(5)
    await breaker.enter()
    probing = breaker.state
    second = asyncio.ensure_future(breaker.enter())
    await asyncio.sleep(0)
    waits = not second.done()
    breaker.succeeded()
    await second

    assert (opened, probing, waits, breaker.state) == ("open", "half-open", True, "closed")


async def test_an_error_of_a_declared_dependency_is_no_failure_of_the_record() -> None:
    clock = ManualClock()
    dependencies = Dependencies({}, clock, {"payments": (ConnectionError,)})

    down = dependencies.translate(ConnectionError("refused"))
    other = dependencies.translate(ValueError("the record's own"))

    assert isinstance(down, DependencyDown)
    assert isinstance(down.__cause__, ConnectionError)
    assert isinstance(other, ValueError)


async def test_while_a_dependency_is_down_its_handler_waits_and_others_go_on() -> None:
    app, charged, notified = memory_app(), [], []
    down = True

    @app.handler(TOPIC, retry=Retry())
    async def charge(value: dict[str, Any], event: EventContext) -> None:
        async with event.dependency("payments"):
            if down:
                raise ConnectionError("payments does not answer")
        charged.append(value["number"])

    @app.handler(TOPIC, retry=Retry())
    async def notify(value: dict[str, Any]) -> None:
        notified.append(value["number"])

    async with StreamKit(app) as kit:
        for number in range(3):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        for _ in range(20):
            await kit.advance("5s")
        opened, waiting = app.breakers["payments"].state, list(charged)
        down = False
        await kit.advance("5s")
        dead = kit.dead_letters(TOPIC)

    assert opened == "open"
    assert notified == [0, 1, 2]
    assert waiting == []
    assert charged == [0, 1, 2]
    assert dead == []


def an_open_breaker(clock: ManualClock) -> tuple[Breaker, Dependencies]:
    """Of a handler that declares ``payments``."""
    dependencies = Dependencies({}, clock, {"payments": (ConnectionError,)}, never=(Stolen,))
    breaker = dependencies.breaker("payments")
    for _ in range(5):
        breaker.failed(ConnectionError("refused"))
    assert breaker.state == "open"
    return breaker, dependencies


async def test_a_probe_that_is_cancelled_leaves_the_next_turn_to_another() -> None:
    clock = ManualClock()
    breaker, dependencies = an_open_breaker(clock)
    worker = Worker(dependencies)

    async def call(answer: asyncio.Event) -> None:
        async with dependencies.guard("payments", worker):
            await answer.wait()

    clock.advance(5)
    probe = asyncio.create_task(call(asyncio.Event()))
    await asyncio.sleep(0)
    probing = breaker.state
    probe.cancel()
    await asyncio.wait([probe])
    clock.advance(5)
    answered = asyncio.Event()
    answered.set()
    async with asyncio.timeout(5):
        await call(answered)

    assert (probing, breaker.state) == ("half-open", "closed")


async def test_a_probe_that_fails_of_its_own_record_leaves_the_next_turn_to_another() -> None:
    clock = ManualClock()
    breaker, dependencies = an_open_breaker(clock)
    clock.advance(5)
    await dependencies.enter()
    dependencies.translate(ValueError("the record's own"))

    clock.advance(5)
    async with asyncio.timeout(5):
        await dependencies.enter()
    dependencies.succeeded()

    assert breaker.state == "closed"


@pytest.mark.parametrize("answer", [DeadLetter("stolen"), RetryLater("1s"), Stolen(), InvalidValue("no such field")])
async def test_what_decides_about_the_record_passes_and_is_an_answer(answer: Exception) -> None:
    clock = ManualClock()
    breaker, dependencies = an_open_breaker(clock)
    clock.advance(5)

    with pytest.raises(type(answer)) as raised:
        async with dependencies.guard("payments", Worker(dependencies)):
            raise answer

    assert raised.value is answer
    assert breaker.state == "closed"


@pytest.mark.parametrize("decision", [DeadLetter("stolen"), RetryLater("1s")])
def test_a_decision_tells_of_no_declared_dependency_however_wide_its_exceptions(decision: Exception) -> None:
    dependencies = Dependencies({}, ManualClock(), {"payments": (Exception,)})

    assert dependencies.translate(decision) is decision


async def test_a_dead_letter_from_inside_a_dependency_is_dead_at_once() -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry("1s", never=(Stolen,)))
    async def charge(value: dict[str, Any], event: EventContext) -> None:
        async with event.dependency("payments"):
            raise Stolen if value["number"] else DeadLetter("the card is stolen")

    async with StreamKit(app) as kit:
        for number in range(10):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        dead = kit.dead_letters(TOPIC)

    assert [text(letter.headers(), "hw-reason") for letter in dead] == ["handler"] * 10
    assert app.breakers["payments"].state == "closed"


async def test_a_dependency_that_does_not_answer_in_time_makes_the_record_wait_and_not_die() -> None:
    app, charged = memory_app(), []
    hangs = True

    @app.handler(TOPIC, retry=Retry(), timeout="20ms")
    async def charge(value: dict[str, Any], event: EventContext) -> None:
        async with event.dependency("payments"), asyncio.TaskGroup() as calls:
            if hangs:
                calls.create_task(asyncio.Event().wait())
        charged.append(value["number"])

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        while not app.breakers or not app.breakers["payments"]._failures:
            await kit._fetch()
            await asyncio.sleep(0.005)
        hangs = False
        await kit.advance("5s")
        dead = kit.dead_letters(TOPIC)

    assert charged == [0]
    assert dead == []


async def test_the_state_of_each_breaker_is_a_metric() -> None:
    clock = ManualClock()
    breaker, _ = an_open_breaker(clock)
    metrics = WorkerMetrics("billing")
    metrics.breakers = {"payments": breaker}

    def state() -> float:
        samples = [sample for family in metrics.collect() for sample in family.samples]
        return next(sample.value for sample in samples if sample.labels.get("dependency") == "payments")

    opened = state()
    clock.advance(5)
    await breaker.enter()
    probing = state()
    breaker.succeeded()

    assert (opened, probing, state()) == (2, 1, 0)


def test_an_app_shows_the_breakers_of_its_handlers() -> None:
    app = memory_app()

    assert app.worker_metrics.breakers is app.breakers


async def test_a_declined_card_is_tried_again() -> None:
    """The front-page example: exceptions of an outage are declared, all others are the record's."""
    app, declines = memory_app(), 1

    @app.handler(TOPIC, retry=Retry("1s", "10s", "1m"), depends_on={"payments": (ConnectionError,)})
    async def charge(value: dict[str, Any], event: EventContext) -> None:
        nonlocal declines
        if declines:
            declines -= 1
            raise ValueError("the card is declined")
        event.emit(OUT, value, key=value["key"])

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        await kit.settle()
        before = kit.values(OUT)
        await kit.advance("1s")
        after = kit.values(OUT)

    assert before == []
    assert after == [order("a", 0)]
