"""What is committed, and when: never before what it stands for is done, on the memory log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP

from headwater_streams import EventContext, RecordBatch
from headwater_streams.testing import StreamKit
from headwater_streams.transport.errors import GroupClosed
from streams.orders import OUT, TOPIC, memory_app, order, run_and_commit


async def test_the_offset_of_a_running_record_holds_the_commit_back() -> None:
    app, gate = memory_app(), asyncio.Event()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        if value["number"] == 3:
            await gate.wait()

    kit = StreamKit(app)
    await kit.start()
    for number in range(10):
        kit.send(TOPIC, order(f"k{number}", number), key=f"k{number}")
    await run_and_commit(kit)
    held = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
    gate.set()
    await kit.settle()
    await kit.commit()
    let_go = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
    await kit.crash()

    assert (held, let_go) == ([3], [10])


async def with_one_done() -> StreamKit:
    """A kit in which one record is done, and nothing is committed."""
    app = memory_app()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        """Nothing."""

    kit = StreamKit(app)
    await kit.start()
    kit.send(TOPIC, order("a", 1), key="a")
    await kit.settle()
    return kit


async def test_a_commit_that_is_not_sent_or_finds_its_partition_gone_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = await with_one_done()
    with monkeypatch.context() as leaving:
        leaving.setattr(kit.broker, "commit_soon", lambda offsets, told: False)
        await kit.commit()
    refused = dict(kit.committed)
    await kit.commit()
    accepted = dict(kit.committed)
    assert kit._pool is not None
    handed_over, _ = await kit._pool.revoked([TP(TOPIC, 0)], 1.0)
    await kit.crash()

    assert refused.get(TP(TOPIC, 0), 0) == 0
    assert accepted[TP(TOPIC, 0)] == handed_over[TP(TOPIC, 0)] == 1


async def test_what_the_brokers_refused_to_commit_is_part_of_the_next_commit_with_all_that_was_told_of_it() -> None:
    kit = await with_one_done()
    await kit.commit()
    committed, told = dict(kit.broker.offsets), dict(kit.broker.told)
    kit.broker.offsets.clear()
    kit.broker.told.clear()
    await kit.commit()
    nothing_new = dict(kit.broker.offsets)
    assert kit._pool is not None
    kit._pool.uncommitted(committed.keys())
    await kit.commit()
    again, told_again = dict(kit.broker.offsets), dict(kit.broker.told)
    await kit.crash()

    assert nothing_new == {}
    assert again[TP(TOPIC, 0)] == committed[TP(TOPIC, 0)] == 1
    assert {tp: told[tp] for tp in again} == told_again


async def test_a_worker_that_leaves_while_it_takes_partitions_over_does_not_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = memory_app()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        """Nothing."""

    async def left(*_: Any) -> None:
        raise GroupClosed("this worker has left the group billing")

    kit = StreamKit(app)
    monkeypatch.setattr(kit.broker, "commit_told", left)
    await kit.start()
    for _ in range(10):
        await asyncio.sleep(0)
    assert kit._pool is not None
    ready, crashes = kit._pool.ready, kit.crashes
    await kit.crash()

    assert not ready
    assert crashes == []


async def test_a_record_is_settled_only_when_what_it_emitted_is_acknowledged() -> None:
    app = memory_app()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        event.emit(OUT, order(value["key"], value["number"] * 10), key=value["key"])

    async with StreamKit(app) as kit:
        kit.broker.hold(OUT)
        kit.send(TOPIC, order("a", 1), key="a")
        await run_and_commit(kit)
        before = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
        kit.broker.acknowledge(OUT)
        await kit.commit()
        after = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]

    assert kit.values(OUT) == [order("a", 10)]
    assert (before, after) == ([0], [1])


async def test_what_a_batch_emitted_is_acknowledged_before_any_of_its_records_is_committed() -> None:
    app = memory_app()

    @app.batch_handler(TOPIC)
    async def bill(batch: RecordBatch) -> None:
        batch.emit(OUT, order("sum", sum(value["number"] for value in batch.values)), key="sum")

    async with StreamKit(app) as kit:
        kit.broker.hold(OUT)
        for number in range(3):
            kit.send(TOPIC, order("a", number), key="a")
        await run_and_commit(kit)
        before = kit.committed.get(TP(TOPIC, 0), 0)
        kit.broker.acknowledge(OUT)
        await kit.settle()
        await kit.commit()
        after = kit.committed[TP(TOPIC, 0)]

    assert (before, after) == (0, 3)
