"""Batch handlers, on the memory log."""

from __future__ import annotations

import asyncio
from typing import Any

from faust.types import TP

from headwater_streams import RecordBatch, Retry
from headwater_streams.handlers.batch import BatchRunner, Rewind
from headwater_streams.testing import StreamKit
from streams.orders import TOPIC, memory_app, order, text


async def test_a_batch_handler_gets_the_partition_in_order_and_settles_it_together() -> None:
    app = memory_app()
    sizes: list[int] = []
    numbers: list[int] = []

    @app.batch_handler(TOPIC, max_records=40)
    async def bill(batch: RecordBatch) -> None:
        sizes.append(len(batch))
        numbers.extend(value["number"] for value in batch.values)

    async with StreamKit(app) as kit:
        for number in range(100):
            kit.send(TOPIC, order("a", number), key="a")
        kit.send_raw(TOPIC, b"garbage", key=b"a")
        await kit.settle()
        await kit.commit()
        dead = kit.dead_letters(TOPIC)

    assert sizes == [40, 40, 20]
    assert numbers == list(range(100))
    assert len(dead) == 1
    assert [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC] == [101]


async def test_of_a_batch_that_keeps_failing_only_the_bad_records_die() -> None:
    app = memory_app()
    done: list[int] = []

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        for value in batch.values:
            if value["number"] == 3:
                raise ValueError("bad record")
        done.extend(value["number"] for value in batch.values)

    async with StreamKit(app) as kit:
        for number in range(6):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        (dead,) = kit.dead_letters(TOPIC)

    assert done == [0, 1, 2, 4, 5]
    assert text(dead.headers(), "hw-original-offset") == "3"


async def test_a_batch_that_sends_another_partition_back_is_given_once_more() -> None:
    """Whoever says nothing of its own partition has not settled it."""
    app = memory_app()
    given: list[tuple[int, list[int]]] = []

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        given.append((batch.tp.partition, batch.offsets))
        if len(given) == 1:
            raise Rewind({TP(TOPIC, 1 - batch.tp.partition): 0})

    async with StreamKit(app) as kit:
        for number in range(3):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        await kit.commit()

    assert given == [(given[0][0], [0, 1, 2])] * 2
    assert [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC and offset] == [3]


async def test_a_redriven_record_is_a_batch_of_its_own_with_its_old_place_and_is_committed_where_it_stood() -> None:
    app = memory_app()
    seen: list[tuple[Any, ...]] = []
    bad = True

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        if bad and any(value["number"] == 1 for value in batch.values):
            raise ValueError
        seen.append((batch.redriven, batch.tp, batch.offsets, [value["number"] for value in batch.values]))

    parked = f"{TOPIC}.billing.retry.parked"
    async with StreamKit(app) as kit:
        for number in range(2):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        (letter,) = kit.dead_letters(TOPIC)
        bad = False
        kept = [(name, value) for name, value in letter.headers() or [] if name != "hw-fence"]
        kit.send_raw(parked, letter.value(), key=b"a", headers=kept)
        stale = [(name, value) for name, value in letter.headers() or [] if name != "hw-fence"]
        kit.send_raw(parked, letter.value(), key=b"a", headers=[*stale, ("hw-fence", b"zombie")])
        await kit.settle()
        await kit.commit()
        committed = kit.committed

    assert seen == [(False, TP(TOPIC, 0), [0], [0]), (True, TP(TOPIC, 0), [1], [1])]
    assert committed[TP(parked, 0)] == 2


async def test_a_redriven_record_that_fails_in_a_batch_handler_again_dies_again_as_the_same_record() -> None:
    app = memory_app()

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        raise ValueError

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        kit.send(TOPIC, order("a", 1), key="a")
        await kit.settle()
        letter = kit.dead_letters(TOPIC)[1]
        kept = [(name, value) for name, value in letter.headers() or [] if name != "hw-fence"]
        kit.send_raw(f"{TOPIC}.billing.retry.parked", letter.value(), key=b"a", headers=kept)
        await kit.settle()
        again = kit.dead_letters(TOPIC)[2]

    assert text(again.headers(), "hw-original-topic") == TOPIC
    assert text(again.headers(), "hw-original-offset") == "1"
    assert text(again.headers(), "hw-handler") == "bill"


async def test_a_batch_that_arrives_just_as_the_last_one_is_done_is_not_forgotten() -> None:
    app = memory_app()
    seen: list[int] = []

    @app.batch_handler(TOPIC)
    async def bill(batch: RecordBatch) -> None:
        seen.extend(value["number"] for value in batch.values)

    async with StreamKit(app) as kit:
        await kit.settle()
        for number in range(2):
            kit.send(TOPIC, order("a", number), key="a")
        (first, second) = kit.records(TOPIC)
        assert kit._pool is not None
        runner = kit._pool.runners[0]
        assert isinstance(runner, BatchRunner)

        async def feed_when_done() -> None:
            """Stands behind the working task in the loop's queue, so it runs before that task's end is taken down."""
            while not runner._tasks._tasks[TP(TOPIC, 0)].done():  # noqa: ASYNC110 - the loop's steps are what is tested
                await asyncio.sleep(0)
            runner.feed(TP(TOPIC, 0), [second])

        runner.feed(TP(TOPIC, 0), [first])
        await asyncio.create_task(feed_when_done())
        while runner.busy:  # noqa: ASYNC110
            await asyncio.sleep(0)

    assert seen == [0, 1]
