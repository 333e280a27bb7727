"""What becomes of a submission, on the memory log."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from headwater_schemas import wire
from headwater_schemas.errors import CacheUnavailable, UsageError
from headwater_streams import DeadLetter, Retry, RetryLater
from headwater_streams.handlers.failure import header
from headwater_tasks import TaskContext, TaskFailed, TaskStopped, install, task
from headwater_tasks.changes import TASKS
from tasks.memory import bench


class Invoice(msgspec.Struct):
    number: int


async def test_a_quick_task_goes_to_its_end_in_one_write() -> None:
    seen = []

    @task("invoice.render")
    async def render(payload: Invoice, ctx: TaskContext) -> dict[str, int]:
        seen.append((payload, ctx.id, ctx.attempt, ctx.run))
        return {"pages": 3}

    async with bench(render) as worker:
        id_ = worker.submit(render.type, b'{"number": 7}')
        await worker.kit.settle()

        assert seen == [(Invoice(7), id_, 1, 1)]
        assert worker.states(id_) == ["SUCCEEDED"]
        done = worker.last(id_)
        assert (done.result, done.attempt, done.partition, done.offset) == (b'{"pages":3}', 1, 0, 0)
        assert done.started_at is not None


async def test_another_apps_task_is_left_alone() -> None:
    @task("a.b")
    async def mine(payload: Any) -> None: ...

    async with bench(mine) as worker:
        id_ = worker.submit("somebody.elses")
        await worker.kit.settle()
        await worker.kit.commit()

        assert worker.states(id_) == []
        assert {tp.topic: at for tp, at in worker.kit.committed.items()}[TASKS] == 1


async def test_a_function_in_a_thread_is_a_task_too() -> None:
    threads = set()

    @task("a.b")
    def sync(payload: list[int]) -> int:
        threads.add(threading.current_thread() is threading.main_thread())
        return sum(payload)

    async with bench(sync) as worker:
        id_ = worker.submit(sync.type, b"[1,2,3]")
        while not worker.states(id_):
            await worker.kit.settle()
            await asyncio.sleep(0.005)

        assert worker.last(id_).result == b"6"
    assert threads == {False}


async def test_a_failure_is_tried_again_after_each_delay_and_then_dead() -> None:
    attempts = []

    @task("a.b", retry=Retry("1s", "10s"))
    async def broken(payload: Any, ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        raise KeyError("gone")

    async with bench(broken) as worker:
        id_ = worker.submit(broken.type)
        await worker.kit.settle()
        assert worker.states(id_) == ["RETRY_WAIT"]
        assert worker.last(id_).error == "KeyError: 'gone'"
        await worker.kit.advance("1s")
        await worker.kit.advance("10s")

        assert attempts == [1, 2, 3]
        assert worker.states(id_) == ["RETRY_WAIT", "RETRY_WAIT", "DEAD"]
        assert worker.last(id_).attempt == 3
        (dead,) = worker.kit.dead_letters(TASKS)
        assert dead.key() == id_.encode()


async def test_each_task_has_a_retry_policy_of_its_own() -> None:
    @task("once", retry=Retry())
    async def once(payload: Any) -> None:
        raise RuntimeError

    @task("never", retry=Retry("1s", never=(ValueError,)))
    async def never(payload: Any) -> None:
        raise ValueError("poison")

    async with bench(once, never) as worker:
        ids = [worker.submit("once"), worker.submit("never")]
        await worker.kit.settle()

        assert [worker.states(id_) for id_ in ids] == [["DEAD"], ["DEAD"]]


async def test_a_task_that_says_it_failed_is_no_dead_letter() -> None:
    @task("a.b")
    async def refused(payload: Any) -> None:
        raise TaskFailed("the card was declined")

    async with bench(refused) as worker:
        id_ = worker.submit(refused.type)
        await worker.kit.settle()

        assert worker.states(id_) == ["FAILED"]
        assert worker.last(id_).error == "TaskFailed: the card was declined"
        assert worker.kit.dead_letters(TASKS) == []


async def test_a_payload_that_does_not_fit_is_dead_at_once_and_names_the_field() -> None:
    @task("a.b")
    async def render(payload: Invoice) -> None: ...

    async with bench(render) as worker:
        id_ = worker.submit(render.type, b'{"number": "seven"}')
        await worker.kit.settle()

        assert worker.states(id_) == ["DEAD"]
        assert "$.number" in (worker.last(id_).error or "")
        (dead,) = worker.kit.dead_letters(TASKS)
        assert b"$.number" in (header(dead.headers(), wire.HW_EXCEPTION_MESSAGE) or b"")


async def test_an_answer_that_a_task_cannot_decode_is_an_error_like_others() -> None:
    answers = [b"<html>502 Bad Gateway</html>", b'{"pages": "three"}', b'{"pages": 3}']

    @task("partner.ask", retry=Retry("1s", "1s"))
    async def ask(payload: Invoice) -> dict[str, int]:
        return msgspec.json.decode(answers.pop(0), type=dict[str, int])

    async with bench(ask) as worker:
        id_ = worker.submit(ask.type, b'{"number": 7}')
        await worker.kit.settle()
        assert "DecodeError" in (worker.last(id_).error or "")
        await worker.kit.advance("1s")
        assert "ValidationError" in (worker.last(id_).error or "")
        await worker.kit.advance("1s")

        assert worker.states(id_) == ["RETRY_WAIT", "RETRY_WAIT", "SUCCEEDED"]


@pytest.mark.parametrize("result", [object(), "x" * 300_000])
async def test_a_result_that_cannot_be_kept_is_dead(result: Any) -> None:
    @task("a.b")
    async def wrong(payload: Any) -> Any:
        return result

    async with bench(wrong) as worker:
        id_ = worker.submit(wrong.type)
        await worker.kit.settle()

        assert worker.states(id_) == ["DEAD"]
        assert "result" in (worker.last(id_).error or "")


async def test_a_function_may_ask_for_a_delay_or_for_death() -> None:
    @task("a.b")
    async def moody(payload: Any, ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            raise RetryLater("5s", "not yet")
        raise DeadLetter("never")

    async with bench(moody) as worker:
        id_ = worker.submit(moody.type)
        await worker.kit.settle()
        await worker.kit.advance("5s")

        assert worker.states(id_) == ["RETRY_WAIT", "DEAD"]


async def test_an_outage_is_waited_out_and_costs_no_attempt() -> None:
    attempts = []

    @task("a.b", retry=Retry())
    async def needs_redis(payload: Any, ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 3:
            raise CacheUnavailable("away")

    async with bench(needs_redis) as worker:
        id_ = worker.submit(needs_redis.type)
        await worker.kit.advance("1s")
        await worker.kit.advance("1s")

        assert worker.states(id_) == ["SUCCEEDED"]
        assert attempts == [1, 1, 1]


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_delayed_task_runs_when_it_is_due_and_not_before() -> None:
    @task("a.b")
    async def later(payload: Any, ctx: TaskContext) -> int:
        return ctx.attempt

    async with bench(later) as worker:
        id_ = worker.submit(later.type, delay="90s")
        await worker.kit.advance("60s")
        await worker.kit.advance("29s")
        assert worker.states(id_) == []
        await worker.kit.advance("1s")

        assert worker.states(id_) == ["SUCCEEDED"]
        assert worker.last(id_).result == b"1"


async def test_a_delay_costs_no_attempt() -> None:
    @task("a.b", retry=Retry("1s", "1s"))
    async def broken(payload: Any) -> None:
        raise RuntimeError

    async with bench(broken) as worker:
        id_ = worker.submit(broken.type, delay="10s")
        for _ in range(13):
            await worker.kit.advance("1s")

        assert worker.states(id_) == ["RETRY_WAIT", "RETRY_WAIT", "DEAD"]
        assert worker.last(id_).attempt == 3


async def test_a_task_past_its_deadline_is_not_run() -> None:
    ran = []

    @task("a.b", retry=Retry("10s"))
    async def slow(payload: Any) -> None:
        ran.append(payload)
        raise RuntimeError

    async with bench(slow) as worker:
        late = worker.submit(slow.type, delay="10s", deadline="5s")
        between = worker.submit(slow.type, deadline="5s")
        await worker.kit.settle()
        await worker.kit.advance("10s")

        assert worker.states(late) == ["EXPIRED"]
        assert worker.states(between) == ["RETRY_WAIT", "EXPIRED"]
        assert len(ran) == 1


async def test_a_running_task_is_said_to_run_and_how_far_it_is() -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    @task("a.b")
    async def slow(payload: Any, ctx: TaskContext) -> None:
        ctx.progress(0.25, "a quarter")
        reached.set()
        await go.wait()

    async with bench(slow) as worker:
        id_ = worker.submit(slow.type)
        async with worker.settling():
            await reached.wait()
            worker.worker.look()
            assert worker.states(id_) == []  # too early to tell
            worker.kit.clock.advance(0.06)
            worker.worker.look()
            worker.worker.look()
            running = worker.last(id_)
            assert (running.state, running.progress, running.message) == ("RUNNING", 0.25, "a quarter")
            go.set()

        assert worker.states(id_) == ["RUNNING", "SUCCEEDED"]


async def test_a_timeout_stops_a_coroutine_and_counts_as_a_failure() -> None:
    started = asyncio.Event()
    cleaned = []

    @task("a.b", timeout="5s", retry=Retry("1s"))
    async def stuck(payload: Any, ctx: TaskContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(ctx.attempt)

    async with bench(stuck) as worker:
        id_ = worker.submit(stuck.type)
        async with worker.settling():
            await started.wait()
            worker.kit.clock.advance(5.1)
            worker.worker.look()

        assert cleaned == [1]
        assert worker.states(id_) == ["RUNNING", "RETRY_WAIT"]
        assert "5.0 s" in (worker.last(id_).error or "")


async def test_a_task_that_runs_into_its_deadline_expires() -> None:
    started = asyncio.Event()

    @task("a.b")
    async def stuck(payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async with bench(stuck) as worker:
        id_ = worker.submit(stuck.type, deadline="5s")
        async with worker.settling():
            await started.wait()
            worker.kit.clock.advance(5)
            worker.worker.look()

        assert worker.states(id_)[-1] == "EXPIRED"


# -- cancelling -------------------------------------------------------------------------------------------------------


async def test_a_running_coroutine_is_stopped_where_it_waits() -> None:
    started = asyncio.Event()

    @task("a.b")
    async def stuck(payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    @task("c.d")
    async def next_one(payload: Any) -> None: ...

    async with bench(stuck, next_one, concurrency=1) as worker:
        id_ = worker.submit(stuck.type)
        after = worker.submit(next_one.type)
        async with worker.settling():
            await started.wait()
            worker.cancel(id_, reason="changed my mind")

        assert worker.states(id_) == ["CANCELLED"]
        assert worker.last(id_).message == "changed my mind"
        assert worker.states(after) == ["SUCCEEDED"]


async def test_a_thread_is_stopped_when_it_looks() -> None:
    started = threading.Event()

    @task("a.b")
    def loop(payload: Any, ctx: TaskContext) -> str:
        started.set()
        while not ctx.cancelled:
            pass
        return "half"

    @task("c.d")
    def check(payload: Any, ctx: TaskContext) -> None:
        started.set()
        while True:
            ctx.check()

    for function in (loop, check):
        started.clear()
        async with bench(function) as worker:
            id_ = worker.submit(function.type)
            async with asyncio.timeout(20):
                while not started.is_set():
                    await worker.kit._fetch()
                    await asyncio.sleep(0.005)
                worker.cancel(id_)
                while not worker.states(id_):
                    await worker.kit._fetch()
                    await asyncio.sleep(0.005)

            assert worker.states(id_) == ["CANCELLED"]


async def test_a_function_that_ends_without_having_looked_has_ended() -> None:
    """Its work is done: to call it cancelled would be a lie."""
    started, go = threading.Event(), threading.Event()

    @task("a.b")
    def deaf(payload: Any) -> str:
        started.set()
        go.wait(10)
        return "all of it"

    async with bench(deaf) as worker:
        id_ = worker.submit(deaf.type)
        async with asyncio.timeout(20):
            while not started.is_set():
                await worker.kit._fetch()
                await asyncio.sleep(0.005)
            worker.cancel(id_)
            await worker.kit._fetch()
            await asyncio.sleep(0.01)
            go.set()
            while not worker.states(id_):
                await worker.kit._fetch()
                await asyncio.sleep(0.005)

        assert worker.states(id_) == ["SUCCEEDED"]


async def test_a_task_that_waits_for_its_retry_is_cancelled_at_once_and_never_run_again() -> None:
    attempts = []

    @task("a.b", retry=Retry("1h"))
    async def broken(payload: Any, ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        raise RuntimeError

    async with bench(broken) as worker:
        id_ = worker.submit(broken.type)
        await worker.kit.settle()
        worker.cancel(id_)
        await worker.kit.settle()
        assert worker.states(id_) == ["RETRY_WAIT", "CANCELLED"]
        await worker.kit.advance("1h")

        assert attempts == [1]
        assert worker.last(id_).state == "CANCELLED"


async def test_a_cancelled_task_is_skipped_when_its_turn_comes() -> None:
    started, go = asyncio.Event(), asyncio.Event()
    ran = []

    @task("a.b")
    async def first(payload: Any) -> None:
        started.set()
        await go.wait()

    @task("c.d")
    async def second(payload: Any) -> None:
        ran.append(payload)

    async with bench(first, second, concurrency=1) as worker:
        worker.submit(first.type)
        queued = worker.submit(second.type)
        async with worker.settling():
            await started.wait()
            worker.cancel(queued, reason="too late")
            while worker.cancellations.of(queued, 1) is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            go.set()

        assert ran == []
        assert worker.last(queued).state == "CANCELLED"
        assert worker.last(queued).message == "too late"


async def test_a_cancellation_means_its_run_and_not_a_later_one() -> None:
    @task("a.b")
    async def quick(payload: Any, ctx: TaskContext) -> int:
        return ctx.run

    async with bench(quick) as worker:
        worker.cancel("t-1", run=1)
        await worker.kit.settle()
        worker.submit(quick.type, id_="t-1", run=1)
        worker.submit(quick.type, id_="t-1", run=2)
        await worker.kit.settle()

        assert worker.states("t-1") == ["CANCELLED", "SUCCEEDED"]
        assert worker.last("t-1").result == b"2"


async def test_a_cancellation_of_what_has_ended_changes_nothing() -> None:
    @task("a.b")
    async def quick(payload: Any) -> None: ...

    async with bench(quick) as worker:
        id_ = worker.submit(quick.type)
        await worker.kit.settle()
        worker.cancel(id_)
        await worker.kit.settle()

        assert worker.states(id_) == ["SUCCEEDED"]


async def test_a_coroutine_that_swallows_its_cancellation_does_not_harm_the_worker() -> None:
    started = asyncio.Event()

    @task("a.b")
    async def stubborn(payload: Any) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "anyway"

    @task("c.d")
    async def waits(payload: Any) -> None:
        await asyncio.sleep(0)

    async with bench(stubborn, waits, concurrency=1) as worker:
        id_ = worker.submit(stubborn.type)
        others = [worker.submit(waits.type) for _ in range(3)]
        async with worker.settling():
            await started.wait()
            worker.cancel(id_)

        assert worker.states(id_) == ["CANCELLED"]
        assert [worker.states(other) for other in others] == [["SUCCEEDED"]] * 3


# -- repetition -------------------------------------------------------------------------------------------------------


async def test_submissions_with_one_idempotency_key_run_once() -> None:
    ran = []

    @task("a.b", retry=Retry("1s"))
    async def charge(payload: int, ctx: TaskContext) -> None:
        ran.append(payload)
        if len(ran) == 1:
            raise RuntimeError

    async with bench(charge) as worker:
        ids = {worker.submit(charge.type, b"1", key="order-1"), worker.submit(charge.type, b"2", key="order-1")}
        await worker.kit.advance("1s")
        ids.add(worker.submit(charge.type, b"3", key="order-1"))
        await worker.kit.settle()

        assert len(ids) == 1
        assert ran == [1, 1]
        assert worker.states(ids.pop()) == ["RETRY_WAIT", "SUCCEEDED"]


async def test_a_repeated_submission_is_recognised_after_a_restart() -> None:
    ran = []

    @task("a.b")
    async def charge(payload: int) -> None:
        ran.append(payload)

    async with bench(charge) as worker:
        worker.submit(charge.type, b"1", key="order-1")
        await worker.kit.settle()
        await worker.kit.commit()
        worker.worker._over.clear()  # what a worker that starts anew does not know
        worker.submit(charge.type, b"2", key="order-1")
        await worker.kit.settle()

        assert ran == [1]


async def test_a_crash_repeats_a_task_and_what_has_ended_stays() -> None:
    ran = []

    @task("a.b")
    async def outcome(payload: Any) -> int:
        ran.append(payload)
        if len(ran) > 1:
            raise TaskFailed("the second time it does not work")
        return 1

    async with bench(outcome) as worker:
        id_ = worker.submit(outcome.type)
        await worker.kit.settle()  # and no commit
        await worker.kit.crash()
        worker.worker._over.clear()
        await worker.kit.start()
        await worker.kit.settle()

        assert len(ran) == 2
        first, second = worker.view.states(id_)
        assert (first.state, second.state) == ("SUCCEEDED", "FAILED")
        assert worker.last(id_) == first


async def test_a_redriven_dead_letter_is_a_run_of_its_own() -> None:
    runs = []

    @task("a.b", retry=Retry())
    async def fixed(payload: Any, ctx: TaskContext) -> None:
        runs.append(ctx.run)
        if len(runs) == 1:
            raise RuntimeError("not fixed yet")

    async with bench(fixed) as worker:
        id_ = worker.submit(fixed.type)
        await worker.kit.settle()
        (dead,) = worker.kit.dead_letters(TASKS)
        headers = [(name, value) for name, value in dead.headers() or () if name != wire.HW_ATTEMPT]
        headers += [(wire.HW_REDRIVE_COUNT, b"1"), (wire.HW_DUE_AT, b"0")]
        worker.kit.send_raw(f"{TASKS}.billing.retry.parked", dead.value(), key=dead.key(), headers=headers)
        await worker.kit.settle()

        assert runs == [1, 2]
        assert worker.states(id_) == ["DEAD", "SUCCEEDED"]
        assert worker.last(id_).state == "SUCCEEDED"


# -- declaring --------------------------------------------------------------------------------------------------------


def test_a_declared_task_is_still_called_as_the_function_it_is() -> None:
    @task("a.b")
    def double(payload: int) -> int:
        """Twice as much."""
        return payload * 2

    assert double(4) == 8
    assert double.__doc__ == "Twice as much."


@pytest.mark.parametrize("name", ["", "A.b", "a..b", "a b", "a/b", ".a", "x" * 101])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a task"):
        task(name)(lambda payload: None)


def test_wrong_signatures_and_doubles_are_refused() -> None:
    from headwater_streams import StreamApp

    with pytest.raises(UsageError, match="takes 0 arguments"):
        task("a.b")(lambda: None)
    with pytest.raises(UsageError, match="takes 3 arguments"):
        task("a.b")(lambda a, b, c: None)
    twice = task("a.b")(lambda payload: None)
    with pytest.raises(UsageError, match="two tasks have one type"):
        install(StreamApp("x"), twice, twice)
    with pytest.raises(UsageError, match="at least one task"):
        install(StreamApp("y"))


def test_progress_out_of_range_is_refused() -> None:
    from headwater_schemas.events import TaskSubmitted
    from headwater_tasks.changes import instant
    from headwater_tasks.state import pending

    ctx = TaskContext(pending(TaskSubmitted(id="a", type="a", run=1, payload=b"", submitted_at=instant(0)), 0, 0), 1)
    with pytest.raises(UsageError, match="from 0 to 1"):
        ctx.progress(1.5)
    ctx.check()
    ctx.stop("cancelled")
    with pytest.raises(TaskStopped):
        ctx.check()
