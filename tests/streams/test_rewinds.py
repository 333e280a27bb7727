"""Reading handlers' partitions again from further back, on the real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP

from headwater_ops.stack import Endpoints
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment
from headwater_streams import RecordBatch, StreamApp
from headwater_streams.handlers.batch import Rewind
from headwater_streams.transport.consumer import Consumer
from streams.orders import catalogue, order
from streams.running import running, until

pytestmark = pytest.mark.timeout(90)


async def test_what_a_poll_brings_of_before_the_seek_does_not_hide_what_is_read_again(
    endpoints: Endpoints, unique: Callable[[str], str]
) -> None:
    """Records are on their way from the poll when the partition goes back; and it is not at its end meanwhile."""
    topic, number = unique("orders.placed"), 0
    codec = Codec(catalogue(topic, unique("orders.billed")), LocalRegistry())
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": endpoints.bootstrap})

    def send(count: int) -> None:
        nonlocal number
        for _ in range(count):
            producer.produce(topic, codec.encoder(topic)(order("k", number)), b"k")
            number += 1
        producer.flush()

    env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": endpoints.bootstrap})
    app = StreamApp(
        unique("billing"), env=env, catalogue=codec.catalogue, codec=codec, faust_settings={"web_enabled": False}
    )
    seen: list[int] = []

    @app.batch_handler(topic)
    async def bill(batch: RecordBatch) -> None:
        seen.extend(batch.offsets)

    send(3)
    async with running(app):
        await until(lambda: seen == [0, 1, 2])
        consumer = app.consumer
        assert isinstance(consumer, Consumer)
        polling, polled, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        consume = consumer.group.consume

        async def held(max_records: int, timeout: float) -> list[Any]:
            polling.set()
            messages: list[Any] = await consume(max_records, timeout)
            if any(message.error() is None for message in messages):
                polled.set()
                await go_on.wait()
            return messages

        consumer.group.consume = held  # type: ignore[method-assign]
        await polling.wait()
        send(2)
        await polled.wait()
        await app.rewind(Rewind({TP(topic, 0): 0}))
        assert await app.caught_up(topic) == {}
        go_on.set()

        await until(lambda: len(seen) >= 8, seconds=20)
        assert seen == [0, 1, 2, 0, 1, 2, 3, 4]
        async with asyncio.timeout(10):
            while await app.caught_up(topic) != {TP(topic, 0): 5}:  # noqa: ASYNC110 - the next fetch's
                await asyncio.sleep(0.05)
