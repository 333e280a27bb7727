"""The cache sync on the real Kafka and a Redis of its own, which is emptied and killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from faust.types import TP
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition

from cache.redis_server import RedisServer
from cache.sentinels import watched
from cache.sync_worker import app_of, codec
from headwater_cache import CachePolicy, EntityCache, MsgpackValues, NotVisibleYet, Rewind, TopicPartition, ViewNotReady
from headwater_cache.events import ChangeDecoder
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.errors import CacheUnavailable
from headwater_schemas.settings import KafkaSettings
from headwater_streams.cache_sync import sync_cache
from headwater_streams.change_log import KafkaChangeLog

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

    def __init__(self, bootstrap: str, entity: str, server: RedisServer, url: str = "") -> None:
        self.bootstrap, self.entity, self.server, self.url = bootstrap, entity, server, url or server.url
        self.codec = codec()
        admin = AdminClient({"bootstrap.servers": bootstrap})
        topic = NewTopic(f"{entity}.changes", num_partitions=2, replication_factor=1)
        admin.create_topics([topic])[topic.topic].result(30)

    def change(self, *changes: tuple[str, int | None], transaction: str | None = None) -> None:
        """Acknowledged change events; ``transaction``: in one that is committed, by this transactional id."""
        identity = {} if transaction is None else {"transactional.id": transaction}
        producer = Producer({"bootstrap.servers": self.bootstrap, "acks": "all", **identity})
        if transaction is not None:
            producer.init_transactions()
            producer.begin_transaction()
        encode = self.codec.encoder("task.changes")
        for key, value in changes:
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
        if transaction is not None:
            producer.commit_transaction()

    @asynccontextmanager
    async def worker(self, decoder: ChangeDecoder | None = None) -> AsyncIterator[Watched]:
        """A worker of the group; its cache."""
        app = app_of(self.bootstrap, self.entity, self.codec)
        cache = Watched(self.entity, self.url, cold="miss")
        cache.compared = []
        sync_cache(app, cache, decoder=decoder)
        app.finalize()
        await app.start()
        try:
            yield cache
        finally:
            await app.stop()
            await cache.aclose()
            cache.close()


@pytest.fixture
def place(bootstrap: str, unique: Callable[[str], str], own: RedisServer) -> Place:
    return Place(bootstrap, unique("plane"), own)


async def until(
    cache: EntityCache[int], expected: Mapping[str, object], seconds: float = 45, keys: Sequence[str] = "abcd"
) -> None:
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
    place.change(("a", 1), ("b", 2), ("c", 3))
    place.change(("c", None), ("d", 4))
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


async def test_changes_of_transactions_make_a_view_ready(place: Place) -> None:
    """Behind them a mark of the transaction takes an offset, which nobody is given."""
    place.change(("a", 1), ("b", 2), transaction=place.entity)
    async with place.worker() as cache:
        await until(cache, {"a": 1, "b": 2})
        await until_ready(place)
    place.change(("a", 2), transaction=place.entity)
    async with place.worker() as cache:
        await until(cache, {"a": 2, "b": 2})
        with place.server.client() as client:
            client.delete(f"{{{place.entity}:1}}:ready")
        await until_ready(place)


async def until_ready(place: Place) -> None:
    async with asyncio.timeout(20), redis.asyncio.Redis.from_url(place.server.url) as client:
        while not {b"0", b"1"} <= set(await client.hkeys(f"{{{place.entity}:1}}:ready")):  # noqa: ASYNC110 - a timer's
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("grown", [True, False], ids=["grown", "made anew"])
async def test_r16_a_view_of_another_topic_is_not_ready_and_says_what_to_do(
    place: Place, grown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its offsets begin again, so every change of it would pass for an old one, in silence."""
    place.change(("a", 1), ("a", 2), ("b", 2), ("b", 3))
    async with place.worker() as cache:
        await until(cache, {"a": 2, "b": 3})
        await until_ready(place)
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    topic = f"{place.entity}.changes"
    if grown:
        admin.create_partitions([NewPartitions(topic, 4)])[topic].result(30)
    else:
        admin.delete_topics([topic])[topic].result(30)
        await create_again(admin, topic)
    place.change(("a", 7))

    async with place.worker(), redis.asyncio.Redis.from_url(place.server.url) as client, asyncio.timeout(40):
        while not await client.hexists(f"{{{place.entity}:1}}:ready", "refused"):  # noqa: ASYNC110 - a timer's work
            await asyncio.sleep(0.05)
        while "epoch=" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    with EntityCache[int](place.entity, place.server.url) as reader, pytest.raises(ViewNotReady):
        reader.get("x")


async def create_again(admin: AdminClient, topic: str) -> None:
    """Brokers delete a topic in the background."""
    async with asyncio.timeout(30):
        while True:
            try:
                admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=1)])[topic].result(30)
            except KafkaException:
                await asyncio.sleep(0.1)
            else:
                return


async def test_r20_a_cache_whose_redis_is_emptied_does_not_replay_its_topic(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """What it forgot is loaded from the source; only what is recent is read again, once, though no event comes by."""
    caplog.set_level("WARNING")
    place.change(("a", 1), ("b", 2), ("c", 3))
    app = app_of(place.bootstrap, place.entity, place.codec)
    policy = CachePolicy(failover_window=0.001)
    cache = EntityCache[int](place.entity, place.server.url, mode="cache", policy=policy)
    sync_cache(app, cache, epoch=None)
    app.finalize()
    await app.start()
    try:
        await until_ready(place)
        with place.server.client() as client:
            client.flushall()
        await until_ready(place)
        told = [record.getMessage() for record in caplog.records if "reading again" in record.msg]
        ends = {TP(f"{place.entity}.changes", 0): 1, TP(f"{place.entity}.changes", 1): 2}
        assert len(told) == 1
        assert told[0].endswith(f"reading again from {ends}")
    finally:
        await app.stop()
        await cache.aclose()
        cache.close()


async def test_r21_a_change_that_can_not_be_read_fences_its_key(place: Place) -> None:
    """Poison does not leave the old value readable, also when it stands before good changes in one batch."""
    place.change(("a", 1), ("c", 1), ("e", 1))
    async with place.worker() as cache:
        await until(cache, {"a": 1, "c": 1, "e": 1}, keys="ace")
    producer = Producer({"bootstrap.servers": place.bootstrap})
    for key in "ac":
        producer.produce(f"{place.entity}.changes", b"\0poison", key, partition=1)
    assert producer.flush(30) == 0
    place.change(("c", 2), ("e", 2))
    async with place.worker() as cache:
        await until(cache, {"c": 2, "e": 2}, keys="ce")
        with pytest.raises(NotVisibleYet):
            await cache.aget("a")
        assert (await cache.aexplain("a")).state == "F"


async def test_r21_a_change_that_can_not_be_read_at_the_end_of_its_partition_dies_once(place: Place) -> None:
    """Redis is told that the partition is past it, else it would seem to lack something and all would be read again."""
    place.change(("a", 1), ("b", 1))
    producer = Producer({"bootstrap.servers": place.bootstrap})
    producer.produce(f"{place.entity}.changes", b"\0poison", "a", partition=1)
    producer.produce(f"{place.entity}.changes", b"\0poison", "x" * 1000, partition=0)  # no entry can have such a key
    assert producer.flush(30) == 0

    async with place.worker() as cache, redis.asyncio.Redis.from_url(place.server.url) as client:
        await until(cache, {"b": 1}, keys="b")
        async with asyncio.timeout(45):
            ready: set[Any] = set()
            while not {b"0", b"1"} <= ready:
                ready = {*await client.hkeys(f"{{{place.entity}:1}}:ready")}
                await asyncio.sleep(0.05)
        assert [rewind for _, rewind in cache.compared if rewind is not None] == []

    letters = read_all(place.bootstrap, f"{place.entity}.changes.{place.entity}-sync.dlt", 2)
    assert sorted(letter.key[:1] for letter in letters) == [b"a", b"x"]


async def test_r21_a_change_that_no_entry_can_hold_is_dead_at_once(place: Place) -> None:
    """It fails the same way each time; its partition does not wait for that."""
    place.change(("x" * 1000, 1), ("b", 2))

    async with place.worker() as cache:
        await until(cache, {"b": 2}, seconds=20, keys="b")


async def test_the_events_of_a_connector_are_followed(place: Place) -> None:
    """Debezium's JSON: structured keys, an event that concerns no key, a tombstone, and one that nobody can read."""
    source = {"lsn": 1, "ts_ms": 5000}
    events: list[tuple[object, object]] = [
        ({"id": 7}, {"before": None, "after": {"id": 7, "seats": 150}, "op": "c", "source": source}),
        ({"id": 8}, {"before": None, "after": {"id": 8, "seats": 20}, "op": "c", "source": source}),
        ({"id": 9}, {"before": None, "after": {"id": 9, "seats": 2}, "op": "r", "source": source}),
        (None, {"before": None, "after": None, "op": "m", "source": source}),
        ({"id": 7}, {"before": {"id": 7}, "after": {"id": 7, "seats": 180}, "op": "u", "source": source}),
        ({"id": 8}, {"before": {"id": 8}, "after": None, "op": "d", "source": source}),
        ({"id": 8}, None),
        ({"id": 9}, "not a record"),
    ]
    producer = Producer({"bootstrap.servers": place.bootstrap})
    for key, value in events:
        parts = [None if part is None else json.dumps(part).encode() for part in (key, value)]
        producer.produce(f"{place.entity}.changes", parts[1], parts[0], partition=0)
    assert producer.flush(30) == 0

    decoder = ChangeDecoder(MsgpackValues[Any](), place.codec.decoder(), epoch=0)
    async with place.worker(decoder) as cache:
        async with asyncio.timeout(45):
            while (await cache.aexplain("9")).state != "F":  # noqa: ASYNC110 - another task's work
                await asyncio.sleep(0.05)
        await until(cache, {"7": {"id": 7, "seats": 180}}, keys="78")


async def test_r19_a_redis_that_dies_and_comes_back_empty_is_filled_again(place: Place) -> None:
    """Meanwhile the worker waits; it loses nothing and needs no restart (R19, R20)."""
    place.change(("a", 1), ("b", 2))
    async with place.worker() as cache:
        await until(cache, {"a": 1, "b": 2})
        place.server.kill()
        place.change(("a", 10), ("c", 3))
        await asyncio.sleep(0.5)
        place.server.start()

        await until(cache, {"a": 10, "b": 2, "c": 3})


async def test_r5_a_sync_worker_that_is_killed_loses_nothing(place: Place) -> None:
    """kill -9 amid batches, under load; another takes over, and every key is compared with the log (R3, I7)."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng, truth = random.Random(seed), dict[str, int | None]()
    command = [sys.executable, "-m", "cache.sync_worker", place.bootstrap, place.server.url, place.entity]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    worker = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - returns at once
    try:
        for _ in range(20):
            changes = [(rng.choice("abcdefgh"), rng.choice((None, rng.randrange(100)))) for _ in range(100)]
            truth.update(changes)
            place.change(*changes)
        async with asyncio.timeout(60):
            while not await applied(place):  # until it is at work  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        worker.kill()
        worker.wait()

    async with place.worker() as cache:
        await until(cache, {key: value for key, value in truth.items() if value is not None}, keys="abcdefgh")


async def test_r3_writers_that_are_killed_leave_nothing_wrong(place: Place) -> None:
    """kill -9 between the log and Redis, again and again; then every key is as the log says."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng, topic = random.Random(seed), f"{place.entity}.changes"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    async with place.worker() as cache:
        with closing(KafkaConsumer(bootstrap_servers=place.bootstrap)) as log:
            for life in range(3):
                command = [sys.executable, "-m", "cache.sync_writer", place.bootstrap, place.server.url, place.entity]
                writer = subprocess.Popen([*command, str(seed + life)], env=env)  # noqa: ASYNC220 - returns at once
                try:
                    enough = ends(log, topic) + rng.randrange(20, 200)
                    async with asyncio.timeout(40):
                        while ends(log, topic) < enough:
                            assert writer.poll() is None
                            await asyncio.sleep(rng.random() / 100)
                finally:
                    writer.kill()
                    writer.wait()
        await until(cache, logged(place, topic), keys="abcdefgh")


def ends(log: KafkaConsumer, topic: str) -> int:
    """How many records the topic was given."""
    counts: dict[KafkaPartition, int] = log.end_offsets([KafkaPartition(topic, number) for number in range(2)])
    return sum(counts.values())


def logged(place: Place, topic: str) -> dict[str, int]:
    """What the log says of each key, read by another client."""
    decode = place.codec.decoder()
    held: dict[str, int] = {}
    for record in read_all(place.bootstrap, topic, 2):
        key = record.key.decode()
        event = None if record.value is None else decode(record.value)
        if event is not None and event["op"] == "UPSERT":
            held[key] = MsgpackValues[int]().decode(0, event["value"])
        else:
            held.pop(key, None)
    return held


async def test_r20_a_redis_that_is_emptied_under_load_ends_as_the_log(place: Place) -> None:
    """FLUSHALL beside a worker that is applying, three times, while changes go on."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng, truth = random.Random(seed), dict[str, int | None](a=1, b=1)
    place.change(*truth.items())
    async with place.worker() as cache, redis.asyncio.Redis.from_url(place.server.url) as client:
        await until(cache, {"a": 1, "b": 1}, keys="ab")
        for step in range(60):
            changes = [(rng.choice("abcdefgh"), rng.choice((None, rng.randrange(100)))) for _ in range(50)]
            truth.update(changes)
            await asyncio.to_thread(place.change, *changes)
            if step % 20 == 10:
                await client.flushall()
        await until(cache, {key: value for key, value in truth.items() if value is not None}, keys="abcdefgh")


async def test_r19_a_failover_under_load_ends_as_the_log(
    bootstrap: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Sentinels promote a replica in the midst of the applies; the worker finds it and replays what that lacks."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng, truth = random.Random(seed), dict[str, int | None](a=1, b=1)
    with watched(tmp_path) as servers:
        place = Place(bootstrap, unique("plane"), servers.primary, servers.url)
        place.change(*truth.items())
        async with place.worker() as cache:
            await until(cache, {"a": 1, "b": 1}, keys="ab")
            await asyncio.to_thread(servers.await_quorum)
            for step in range(30):
                changes = [(rng.choice("abcdefgh"), rng.choice((None, rng.randrange(100)))) for _ in range(50)]
                truth.update(changes)
                await asyncio.to_thread(place.change, *changes)
                if step == 15:
                    servers.primary.kill()
            await until(cache, {key: value for key, value in truth.items() if value is not None}, keys="abcdefgh")


async def applied(place: Place) -> int:
    """How far Redis has applied the topic, over its partitions."""
    async with redis.asyncio.Redis.from_url(place.server.url) as client:
        marks = await client.hgetall(f"{{{place.entity}:1}}:watermark")
        return sum(int(marks.get(f"{place.entity}.changes:{number}".encode(), b"0")) for number in range(2))


async def test_a_view_that_writes_to_kafka_and_its_sync_agree(place: Place) -> None:
    """The version of a write is the position of its event; a delete is followed by a tombstone."""
    topic = f"{place.entity}.changes"
    spec = TopicSpec(topic, schema="ChangeEvent", partitions=2, replication=1, cleanup="compact")
    catalogue = Catalogue.of(topics=[spec], schemas=[place.codec.catalogue.schema("ChangeEvent")])
    registry, settings = place.codec.registry, ProducerSettings(KafkaSettings(place.bootstrap))
    with EventProducer(settings, catalogue, registry, source="test") as producer:
        log = KafkaChangeLog(producer, source="test")
        with EntityCache[int](place.entity, place.server.url, log=log, cold="miss") as view:
            tokens = [view.put(key, number) for number, key in enumerate("abca")]
            tokens.append(view.delete("b"))
            assert view.get_many("abc") == {"a": 3, "c": 2}
            place.server.kill()
            late = await view.aput("d", 4)  # the log has it; Redis is away
            place.server.start()
            async with place.worker() as cache:
                await until(cache, {"a": 3, "c": 2, "d": 4})
                assert await cache.aget("d", min_version=late) == 4
                assert (await cache.aread("a")).version == tokens[3].version
            await view.aclose()
        log.close()
    records = read_all(place.bootstrap, topic, 2)
    assert [(record.key.decode(), record.value is None) for record in records if record.key == b"b"] == [
        ("b", False),
        ("b", False),
        ("b", True),
    ]


def read_all(bootstrap: str, topic: str, partitions: int) -> list[Any]:
    """Every record, by another client."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)) as consumer:
        places = [KafkaPartition(topic, number) for number in range(partitions)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        records: list[Any] = []
        while any(consumer.position(place) < ends[place] for place in places):
            for batch in consumer.poll(timeout_ms=1000).values():
                records += batch
    return records
