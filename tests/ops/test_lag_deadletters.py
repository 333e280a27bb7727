"""The collector's figures of dead letters: what waits for somebody, and since when."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from headwater_ops.lag import LagCollector
from headwater_ops.stack import Endpoints
from headwater_schemas.clock import ManualClock
from headwater_streams import Retry
from headwater_streams.deadletters import Ledger, LetterId, Selection
from headwater_streams.transport.log import Log
from streams.shop import Shop

pytestmark = pytest.mark.timeout(120)


async def test_letters_count_until_they_are_sent_back(endpoints: Endpoints, topic_name: str) -> None:
    shop = Shop(topic_name, endpoints)
    shop.bad = {1, 2}
    async with shop.open(retry=Retry()):
        shop.send(1, 2)
        await shop.dies(2)
    log = Log(shop.kafka)
    clock = ManualClock(time.time() + 600)
    collector = LagCollector(log, Ledger(log, shop.registry), clock=clock)
    registry = CollectorRegistry()
    registry.register(collector)
    of_others = LagCollector(log, Ledger(log, shop.registry), groups=(f"{shop.group}-2",), clock=clock)
    others = CollectorRegistry()
    others.register(of_others)
    labels = {"topic": shop.dead, "group": shop.group}
    seen = []

    for step in (None, Selection(letter=LetterId(shop.dead, 0, 0)), Selection(topic=shop.dead)):
        if step is not None:
            with shop.letters() as dead:
                await asyncio.to_thread(dead.redrive, step)
        await asyncio.to_thread(collector.look)
        await asyncio.to_thread(of_others.look)
        oldest = registry.get_sample_value("headwater_dead_letter_oldest_seconds", labels)
        seen.append((registry.get_sample_value("headwater_dead_letters", labels), oldest is not None and oldest >= 600))
    shop.registry.close()

    assert others.get_sample_value("headwater_dead_letters", labels) is None
    assert seen == [(2, True), (1, True), (0, False)]
