"""Handlers that keep state per partition are told when to drop it."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from faust.types import TP

from headwater_ops.stack import Endpoints
from headwater_streams import RecordBatch, StreamApp
from headwater_streams.testing import StreamKit
from headwater_streams.transport import consumer as consumer_module
from headwater_streams.transport.group import GroupConsumer
from streams.orders import TOPIC, memory_app, order
from streams.running import until
from streams.shop import Shop


async def test_a_crash_in_memory_names_every_partition() -> None:
    app = memory_app()
    gone: list[frozenset[TP]] = []
    app.partitions_gone(gone.append)

    @app.batch_handler(TOPIC)
    async def add(batch: RecordBatch) -> None:
        """Nothing."""

    kit = StreamKit(app)
    await kit.start()
    kit.send(TOPIC, order("a", 1), key="a")
    await kit.settle()
    assert gone == []
    await kit.crash()
    assert [sorted(partitions) for partitions in gone] == [[TP(TOPIC, 0)]]


class Adder:
    """A worker that counts the orders of each key in memory, and forgets the partitions that leave it."""

    def __init__(self, shop: Shop) -> None:
        self.app = StreamApp(
            shop.group,
            env=shop.env,
            catalogue=shop.catalogue,
            codec=shop.codec,
            faust_settings={"web_enabled": False},
        )
        self.counts: dict[int, Counter[str]] = {}
        self.gone: set[TP] = set()

        @self.app.batch_handler(shop.topic)
        async def add(batch: RecordBatch) -> None:
            self.counts.setdefault(batch.tp.partition, Counter()).update(key for key in batch.keys if key)

        @self.app.partitions_gone
        def forget(partitions: frozenset[TP]) -> None:
            self.gone |= partitions
            for tp in partitions:
                self.counts.pop(tp.partition, None)

    async def __aenter__(self) -> Adder:
        self.app.finalize()
        await self.app.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.app.stop()

    @property
    def partitions(self) -> set[int]:
        consumer: Any = self.app.consumer
        pool = self.app.pool
        return {tp.partition for tp in consumer.group.assignment} if pool is not None and pool.ready else set()


@pytest.mark.timeout(180)
async def test_partitions_that_move_to_another_worker_are_named_to_the_first(
    endpoints: Endpoints, topic_name: str
) -> None:
    shop = Shop(topic_name, endpoints, partitions=4)
    for number in range(40):
        shop.send(number, key=f"k{number}")
    async with AsyncExitStack() as workers:
        workers.callback(shop.registry.close)
        first = await workers.enter_async_context(Adder(shop))
        await until(lambda: sum(count.total() for count in first.counts.values()) == 40)
        assert first.gone == set()

        second = await workers.enter_async_context(Adder(shop))
        await until(lambda: len(second.partitions) == 2 and len(first.partitions) == 2)
        assert {tp.partition for tp in first.gone} == second.partitions
        assert first.counts.keys() == first.partitions
        assert {tp.topic for tp in first.gone} == {shop.topic}


@pytest.mark.timeout(180)
async def test_a_worker_that_keeps_what_the_group_gave_away_joins_again_and_goes_on(
    endpoints: Endpoints, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_OVERDUE", 0.05)
    shop = Shop(topic_name, endpoints, partitions=2)
    async with AsyncExitStack() as workers:
        workers.callback(shop.registry.close)
        worker = await workers.enter_async_context(Adder(shop))
        await until(lambda: len(worker.partitions) == 2)
        group: GroupConsumer = cast("Any", worker.app.consumer).group
        looks: list[frozenset[TP]] = [group.assignment, frozenset(), group.assignment, group.assignment]

        async def overdue() -> frozenset[TP]:
            return looks.pop(0) if looks else frozenset()

        former = group.member_id
        monkeypatch.setattr(group, "overdue", overdue)
        await until(lambda: group.member_id not in (None, "", former))
        for number in range(20):
            shop.send(number, key=f"k{number}")
        await until(lambda: sum(count.total() for count in worker.counts.values()) == 20)

        assert {tp.partition for tp in worker.gone} == {0, 1}
        assert worker.partitions == {0, 1}
