"""A shop for these tests: a topic of orders on the real brokers, and workers in this process that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_ops.stack import Endpoints
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment, KafkaSettings, RegistrySettings
from headwater_streams import EventContext, RecordBatch, Retry, StreamApp
from headwater_streams.deadletters import DeadLetters
from headwater_streams.transport.log import Log
from streams.orders import ORDER, order
from streams.running import until

__all__ = ["Shop"]


class Shop:
    """Orders of one topic. Use ``open`` for a worker; what its handler charged stands in ``charged``.

    Attributes:
        bad: numbers of orders that the handler cannot charge, until somebody takes them out.
    """

    def __init__(self, topic: str, endpoints: Endpoints, *, partitions: int = 1) -> None:
        self.topic = topic
        self.group = f"{topic}-billing"
        self.dead = f"{topic}.{self.group}.dlt"
        self.env = Environment(endpoints.settings() | {"HEADWATER_WORKER_COMMIT_INTERVAL": "200ms"})
        self.kafka = KafkaSettings.from_env(self.env)
        specs = [TopicSpec(name=topic, schema="Order", partitions=partitions, replication=1)]
        self.catalogue = Catalogue.of(topics=specs, schemas=[ORDER])
        self.registry = Registry(RegistrySettings.from_env(self.env))
        self.codec = Codec(self.catalogue, self.registry)
        self.bad: set[int] = set()
        self.charged: list[int] = []
        self._producer = Producer({"bootstrap.servers": self.kafka.bootstrap, "partitioner": "murmur2_random"})
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            created.result()

    def send(self, *numbers: int, key: str = "k") -> None:
        """Orders of one key, acknowledged when this returns."""
        encode = self.codec.encoder(self.topic)
        for number in numbers:
            self._producer.produce(self.topic, encode(order(key, number)), key.encode(), headers=[("shop", b"1")])
        assert self._producer.flush(30) == 0

    def send_bytes(self, raw: bytes, key: str = "k") -> None:
        """A record of whatever bytes."""
        self._producer.produce(self.topic, raw, key.encode())
        assert self._producer.flush(30) == 0

    @asynccontextmanager
    async def open(
        self,
        *,
        retry: Retry | None = None,
        group: str | None = None,
        two_handlers: bool = False,
        batches: bool = False,
        name: str = "charge",
        hold: bool = False,
    ) -> AsyncIterator[list[int]]:
        """A worker in this process, ready when the block begins.

        Gives what its other handler has seen, which never fails. In another group than ours it is the only one.

        Args:
            batches: let the first handler be one of batches.
            hold: let it hold the keys of which a record dies.
        """
        seen: list[int] = []
        app = StreamApp(
            group or self.group,
            env=self.env,
            catalogue=self.catalogue,
            codec=self.codec,
            faust_settings={"web_enabled": False},
        )

        delays = Retry("200ms") if retry is None else retry

        async def charge(value: dict[str, Any], event: EventContext) -> None:
            if value["number"] in self.bad:
                raise ValueError(f"order {value['number']} has no price")
            self.charged.append(value["number"])

        async def note(value: dict[str, Any]) -> None:
            seen.append(value["number"])

        async def charge_all(batch: RecordBatch) -> None:
            for value, event in zip(batch.values, batch, strict=True):
                await charge(value, event)

        if group is None and batches:
            app.batch_handler(self.topic, name=name, retry=delays)(charge_all)
        elif group is None:
            app.handler(self.topic, name=name, retry=delays, on_dead="hold" if hold else "flow")(charge)
        if group is not None or two_handlers:
            app.handler(self.topic, retry=delays)(note)

        app.finalize()
        await app.start()
        try:
            consumer: Any = app.consumer
            await until(lambda: app.pool is not None and bool(consumer.group.assignment) and app.pool.ready)
            yield seen
        finally:
            await app.stop()

    def letters(self, **options: Any) -> DeadLetters:
        """The tool, as an operator opens it."""
        return DeadLetters(self.kafka, self.codec, actor="ops@test", **options)

    async def dies(self, count: int) -> None:
        """Wait until so many letters stand in the dead-letter topic."""

        log = Log(self.kafka)

        def standing() -> bool:
            return sum(log.ends(log.partitions(self.dead)).values()) >= count

        async with asyncio.timeout(60):
            while not await asyncio.to_thread(standing):  # noqa: ASYNC110 - a broker gives no event to wait for
                await asyncio.sleep(0.1)
