"""The transition function: what is legal, what stays, what grows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_schemas.events import Task, TaskState, TaskSubmitted
from headwater_tasks.state import (
    TERMINAL,
    Cancelled,
    Died,
    Event,
    Expired,
    Failed,
    IllegalTransition,
    Progressed,
    Retrying,
    Started,
    Succeeded,
    advance,
    pending,
    version,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SUBMITTED = TaskSubmitted(id="t", type="a.b", run=1, payload=b"null", submitted_at=T0)

EVENTS: dict[str, Event] = {
    "Started": Started(T0, 1, "w"),
    "Progressed": Progressed(T0, 0.5, "half"),
    "Retrying": Retrying(T0, T0 + timedelta(seconds=1), "boom"),
    "Succeeded": Succeeded(T0, b"1"),
    "Failed": Failed(T0, "no"),
    "Died": Died(T0, "boom"),
    "Cancelled": Cancelled(T0, "why"),
    "Expired": Expired(T0),
}
LEGAL: dict[str, dict[str, str]] = {
    "PENDING": {"Started": "RUNNING", "Died": "DEAD", "Cancelled": "CANCELLED", "Expired": "EXPIRED"},
    "RUNNING": {
        "Started": "RUNNING",
        "Progressed": "RUNNING",
        "Retrying": "RETRY_WAIT",
        "Succeeded": "SUCCEEDED",
        "Failed": "FAILED",
        "Died": "DEAD",
        "Cancelled": "CANCELLED",
        "Expired": "EXPIRED",
    },
    "RETRY_WAIT": {"Started": "RUNNING", "Died": "DEAD", "Cancelled": "CANCELLED", "Expired": "EXPIRED"},
}


def in_state(state: str) -> Task:
    """A task that came to this state by its shortest way."""
    task = pending(SUBMITTED, 0, 0)
    if state == "PENDING":
        return task
    running = advance(task, EVENTS["Started"])
    if state == "RUNNING":
        return running
    (event,) = (name for name, to in LEGAL["RUNNING"].items() if to == state)
    return advance(running, EVENTS[event])


@pytest.mark.parametrize("state", [str(state) for state in TaskState])
@pytest.mark.parametrize("event", list(EVENTS))
def test_every_pair_of_state_and_event_is_decided(state: str, event: str) -> None:
    task = in_state(state)
    wanted = LEGAL.get(state, {}).get(event)
    happening = Started(T0, task.attempt + 1, "w") if event == "Started" else EVENTS[event]

    if wanted is None:
        with pytest.raises(IllegalTransition):
            advance(task, happening)
    else:
        assert advance(task, happening).state == wanted


def test_an_attempt_that_waits_for_its_retry_does_not_begin_again() -> None:
    with pytest.raises(IllegalTransition, match="attempt 1: 1 cannot begin"):
        advance(in_state("RETRY_WAIT"), Started(T0, 1, "w"))
    with pytest.raises(IllegalTransition, match="attempt 1: 0 cannot begin"):
        advance(in_state("RUNNING"), Started(T0, 0, "w"))


moments = st.datetimes(datetime(2025, 12, 31), datetime(2027, 12, 1)).map(lambda at: at.replace(tzinfo=UTC))
events = st.one_of(
    st.builds(Started, moments, st.integers(1, 5), st.just("w")),
    st.builds(Progressed, moments, st.floats(0, 1), st.none()),
    st.builds(Retrying, moments, moments, st.just("e")),
    st.builds(Succeeded, moments, st.just(b"1")),
    st.builds(Failed, moments, st.just("e")),
    st.builds(Died, moments, st.just("e")),
    st.builds(Cancelled, moments, st.none()),
    st.builds(Expired, moments),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=30))
def test_whatever_happens_versions_grow_and_what_has_ended_stays(happening: list[Event]) -> None:
    """Clocks that jump back and forth included."""
    task = pending(SUBMITTED, 0, 0)
    for event in happening:
        try:
            after = advance(task, event)
        except IllegalTransition:
            continue
        assert task.state not in TERMINAL
        assert version(task) < version(after) < 2**63
        task = after


@settings(max_examples=50, deadline=None)
@given(st.lists(events, max_size=20), st.lists(events, max_size=20))
def test_a_later_run_is_above_everything_of_an_earlier_one(first: list[Event], second: list[Event]) -> None:
    def last(run: int, happening: list[Event]) -> Task:
        task = pending(TaskSubmitted(id="t", type="a", run=run, payload=b"", submitted_at=T0), 0, 0)
        for event in happening:
            if task.state in TERMINAL:
                break
            try:
                task = advance(task, event)
            except IllegalTransition:
                continue
        return task

    assert version(last(1, first)) < version(last(2, second))


def test_two_ends_of_one_run_have_one_version() -> None:
    running = in_state("RUNNING")

    ends = [advance(running, EVENTS[name]) for name in ("Succeeded", "Failed", "Died", "Cancelled", "Expired")]
    waiting_end = advance(pending(SUBMITTED, 0, 0), EVENTS["Cancelled"])

    assert len({version(end) for end in (*ends, waiting_end)}) == 1


def test_an_attempt_that_is_run_again_goes_on_above_what_the_first_try_wrote() -> None:
    """The worker that takes over has read nothing of what the crashed one had said."""

    def at(seconds: float) -> datetime:
        return T0 + timedelta(seconds=seconds)

    first = advance(advance(pending(SUBMITTED, 0, 0), Started(at(1), 1, "w1")), Progressed(at(5), 0.7, None))
    again = advance(pending(SUBMITTED, 0, 0), Started(at(6), 1, "w2"))

    assert version(again) > version(first)


def test_a_retry_has_the_time_of_its_next_attempt() -> None:
    waiting: Any = in_state("RETRY_WAIT")

    assert waiting.due_at == T0 + timedelta(seconds=1)
    assert advance(waiting, Started(T0, 2, "w")).due_at is None
