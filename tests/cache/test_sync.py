"""The cache sync on the real Kafka and a Redis of its own, which is emptied and killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cache.redis_server import RedisServer
from headwater_cache import EntityCache, MsgpackValues, Rewind, TopicPartition
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.codec import Codec
from headwater_schemas.errors import CacheUnavailable
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment
from headwater_streams import StreamApp
from headwater_streams.cache_sync import sync_cache

pytestmark = pytest.mark.timeout(90)


class Watched(EntityCache[int]):
    """Remembers what it was asked to compare."""

    compared: list[tuple[dict[TopicPartition, int], Rewind | None]]

    async def acheck_continuity(self, positions: Mapping[TopicPartition, int]) -> Rewind | None:
        rewind = await super().acheck_continuity(positions)
        self.compared.append((dict(positions), rewind))
        return rewind


class Place:
    """A change topic of two partitions, a Redis, and workers that keep one like the other."""

    def __init__(self, bootstrap: str, entity: str, server: RedisServer) -> None:
        self.bootstrap, self.entity, self.server = bootstrap, entity, server
        self.codec = Codec(Catalogue.from_env(Environment({})), LocalRegistry())
        admin = AdminClient({"bootstrap.servers": bootstrap})
        topic = NewTopic(f"{entity}.changes", num_partitions=2, replication_factor=1)
        admin.create_topics([topic])[topic.topic].result(30)

    def change(self, **values: int | None) -> None:
        """Acknowledged change events."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": "all"})
        encode = self.codec.encoder("plane.changes")
        for key, value in values.items():
            event = {
                "entity": self.entity,
                "key": key,
                "version": 0,
                "op": "DELETE" if value is None else "UPSERT",
                "schema_id": None,
                "value": None if value is None else MsgpackValues[Any]().encode(value)[1],
                "source": "test",
                "occurred_at": datetime.now(UTC),
            }
            producer.produce(f"{self.entity}.changes", encode(event), key, partition=ord(key[0]) % 2)
        assert producer.flush(30) == 0

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Watched]:
        """A worker of the group; its cache."""
        env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": self.bootstrap, "HEADWATER_WORKER_COMMIT_INTERVAL": "100ms"})
        settings = {"web_enabled": False}
        app = StreamApp(f"{self.entity}-sync", env=env, codec=self.codec, faust_settings=settings)
        cache = Watched(self.entity, self.server.url, cold="miss")
        cache.compared = []
        sync_cache(app, cache)
        app.finalize()
        await app.start()
        try:
            yield cache
        finally:
            await app.stop()
            await cache.aclose()
            cache.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def place(bootstrap: str, unique: Callable[[str], str], server: RedisServer) -> Place:
    return Place(bootstrap, unique("plane"), server)


async def until(cache: EntityCache[int], expected: dict[str, int], seconds: float = 45) -> None:
    keys = ["a", "b", "c", "d"]
    found: object = None
    try:
        async with asyncio.timeout(seconds):
            while found != expected:
                try:
                    found = await cache.aget_many(keys)
                except CacheUnavailable as exc:
                    found = exc
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"expected {expected}, found {found}")


async def test_r19_partitions_are_compared_with_redis_when_they_are_assigned(place: Place) -> None:
    """While the worker was away Redis was emptied; no event comes by, and yet everything is replayed (R19, R20)."""
    place.change(a=1, b=2, c=3)
    place.change(c=None, d=4)
    async with place.worker() as cache:
        await until(cache, {"a": 1, "b": 2, "d": 4})
        while len({tp for positions, _ in cache.compared for tp in positions}) < 2:  # noqa: ASYNC110 - a timer's work
            await asyncio.sleep(0.05)
        assert [rewind for _, rewind in cache.compared if rewind is not None] == []
    with place.server.client() as client:
        client.flushall()

    async with place.worker() as cache:
        await until(cache, {"a": 1, "b": 2, "d": 4})

        topic = f"{place.entity}.changes"
        expected = {TopicPartition(topic, 0): 2, TopicPartition(topic, 1): 3}
        assert {tp: at for positions, _ in cache.compared for tp, at in positions.items()} == expected
        assert {rewind.reason for _, rewind in cache.compared if rewind is not None} == {"emptied"}


async def test_r19_a_redis_that_dies_and_comes_back_empty_is_filled_again(place: Place) -> None:
    """Meanwhile the worker waits; it loses nothing and needs no restart (R19, R20)."""
    place.change(a=1, b=2)
    async with place.worker() as cache:
        await until(cache, {"a": 1, "b": 2})
        place.server.kill()
        place.change(a=10, c=3)
        await asyncio.sleep(0.5)
        place.server.start()

        await until(cache, {"a": 10, "b": 2, "c": 3})
