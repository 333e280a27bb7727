"""Handlers on the real broker: retries, order, dead letters, restarts; the log is read back with kafka-python."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from kafka import KafkaConsumer, TopicPartition

from headwater_ops.stack import Endpoints
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BrokerUnavailable, UnknownTopic
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment
from headwater_schemas.topics import plan
from headwater_streams import EventContext, Retry, StreamApp
from headwater_streams.handlers.family import Family
from headwater_streams.transport.producer import Producer as FaustProducer
from streams import running as apps
from streams.orders import catalogue, first_seen, order
from streams.running import running

pytestmark = pytest.mark.timeout(90)

until = partial(apps.until, seconds=45.0)


class Place:
    """A topic of two partitions on the real broker, and apps that handle it."""

    def __init__(self, endpoints: Endpoints, unique: Callable[[str], str]) -> None:
        self.bootstrap = endpoints.bootstrap
        self.topic = unique("orders.placed")
        self.out = unique("orders.billed")
        self.group = unique("billing")
        self.catalogue = catalogue(self.topic, self.out)
        self.codec = Codec(self.catalogue, LocalRegistry())
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for answer in admin.create_topics([NewTopic(name, 2, 1) for name in (self.topic, self.out)]).values():
            answer.result()

    def app(self) -> StreamApp:
        env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": self.bootstrap, "HEADWATER_WORKER_COMMIT_INTERVAL": "100ms"})
        return StreamApp(
            self.group, env=env, catalogue=self.catalogue, codec=self.codec, faust_settings={"web_enabled": False}
        )

    def send(self, *events: tuple[str, int], raw: bytes | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        encode = self.codec.encoder(self.topic)
        for key, number in events:
            value = encode(order(key, number)) if raw is None else raw
            producer.produce(self.topic, value, key.encode(), headers=[("tenant", b"t-1")])
        producer.flush()

    def read(self, topic: str) -> list[Any]:
        """Every record of a topic, by another client."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False)
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            left = sum(consumer.end_offsets(partitions).values())
            records: list[Any] = []
            while len(records) < left:
                for batch in consumer.poll(timeout_ms=1000).values():
                    records += batch
            return records
        finally:
            consumer.close()

    def committed(self) -> dict[str, int]:
        """What the group has settled, by topic."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=self.group, enable_auto_commit=False)
        try:
            return {
                topic: sum(
                    consumer.committed(TopicPartition(topic, number)) or 0
                    for number in consumer.partitions_for_topic(topic) or ()
                )
                for topic in consumer.topics()
                if topic.startswith(self.topic)
            }
        finally:
            consumer.close()


@pytest.fixture
def place(endpoints: Endpoints, unique: Callable[[str], str]) -> Place:
    return Place(endpoints, unique)


async def test_order_holds_through_retries_and_a_restart_and_all_is_committed(place: Place) -> None:
    effects: list[tuple[str, int]] = []
    failing = {3: 2, 10: 1, 11: 1, 25: 1}

    def build() -> StreamApp:
        app = place.app()

        @app.handler(place.topic, name="bill", retry=Retry("200ms", "500ms"))
        async def bill(value: dict[str, Any]) -> None:
            number = value["number"]
            if failing.get(number, 0):
                failing[number] -= 1
                raise ValueError(number)
            effects.append((value["key"], number))

        return app

    place.send(*((f"k{number % 4}", number) for number in range(20)))
    async with running(build()):
        await until(lambda: len(effects) >= 4)
    place.send(*((f"k{number % 4}", number) for number in range(20, 40)))
    async with running(build()):
        await until(lambda: len({number for _, number in effects}) == 40)
        await until(lambda: place.committed()[place.topic] == 40)

    assert first_seen(effects) == {f"k{key}": list(range(key, 40, 4)) for key in range(4)}
    assert place.read(f"{place.topic}.{place.group}.dlt") == []


async def test_a_dead_letter_has_the_bytes_the_headers_and_the_reason(place: Place) -> None:
    app = place.app()
    poison = b"\x00\x00\x00\x03\xe7not avro"

    @app.handler(place.topic, name="bill", retry=Retry())
    async def bill(value: dict[str, Any]) -> None:
        raise LookupError("no such customer")

    place.send(("a", 1))
    place.send(("b", 2), raw=poison)
    async with running(app):
        await until(lambda: place.committed().get(place.topic) == 2)
    dead = {record.key: record for record in place.read(f"{place.topic}.{place.group}.dlt")}

    (sent,) = [record for record in place.read(place.topic) if record.key == b"a"]
    headers = dict(dead[b"a"].headers)
    assert dead[b"a"].value == sent.value
    assert dead[b"a"].partition == sent.partition
    assert headers["tenant"] == b"t-1"
    assert headers["hw-reason"] == b"handler"
    assert headers["hw-exception-class"] == b"LookupError"
    assert headers["hw-original-topic"] == place.topic.encode()
    assert headers["hw-original-offset"] == str(sent.offset).encode()
    assert dead[b"b"].value == poison
    assert dict(dead[b"b"].headers)["hw-reason"] == b"decode"


async def test_what_a_handler_emits_is_on_the_log_with_cloudevents_headers_before_the_commit(place: Place) -> None:
    app = place.app()

    @app.handler(place.topic, name="bill")
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        event.emit(place.out, order(value["key"], value["number"] + 100), key=value["key"])

    place.send(*((f"k{number}", number) for number in range(10)))
    async with running(app):
        await until(lambda: place.committed().get(place.topic) == 10)
        emitted = place.read(place.out)

    assert len(emitted) == 10
    headers = dict(emitted[0].headers)
    assert headers["ce_type"] == place.out.encode()
    assert headers["ce_source"] == place.group.encode()
    assert place.codec.decoder(place.out)(emitted[0].value)["number"] >= 100


async def test_two_workers_share_the_work_and_a_leaving_one_hands_over(place: Place) -> None:
    effects: list[tuple[str, int]] = []
    by_worker: dict[str, int] = {"one": 0, "two": 0}

    def build(worker: str) -> StreamApp:
        app = place.app()

        @app.handler(place.topic, name="bill", retry=Retry("200ms"))
        async def bill(value: dict[str, Any]) -> None:
            await asyncio.sleep(0.002)
            by_worker[worker] += 1
            effects.append((value["key"], value["number"]))

        return app

    async with running(build("one")) as one:
        async with running(build("two")) as two:
            await until(lambda: one.pool is not None and two.pool is not None)
            await until(lambda: len(one.pool._active) == len(two.pool._active) == 1)  # type: ignore[union-attr]
            place.send(*((f"k{number % 8}", number) for number in range(200)))
            await until(lambda: min(by_worker.values()) > 0)
        await until(lambda: len({number for _, number in effects}) == 200)

    assert min(by_worker.values()) > 0
    assert first_seen(effects) == {f"k{key}": list(range(key, 200, 8)) for key in range(8)}


async def test_a_topic_that_does_not_exist_is_an_error_that_says_what_to_run(
    endpoints: Endpoints, unique: Callable[[str], str]
) -> None:
    missing = unique("nowhere")
    known = catalogue(missing)
    env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": endpoints.bootstrap})
    app = StreamApp(
        unique("lost"),
        env=env,
        catalogue=known,
        codec=Codec(known, LocalRegistry()),
        faust_settings={"web_enabled": False},
    )

    @app.handler(missing)
    async def bill(value: dict[str, Any]) -> None: ...

    app.finalize()
    with pytest.raises(UnknownTopic, match="headwater topics apply"):
        await app.start()
    await app.stop()


async def test_waiting_records_of_a_renamed_handler_become_dead_letters_before_they_are_committed(place: Place) -> None:
    seen: list[int] = []
    before, after = place.app(), place.app()

    @before.handler(place.topic, name="bill", retry=Retry("1h"))
    async def bill(value: dict[str, Any]) -> None:
        raise ValueError("not now")

    @after.handler(place.topic, name="charge", retry=Retry("1h"))
    async def charge(value: dict[str, Any]) -> None:
        seen.append(value["number"])

    place.send(*(("a", number) for number in range(3)))
    async with running(before):
        await until(lambda: place.committed()[place.topic] == 3)
    place.send(("a", 3))
    async with running(after):
        await until(lambda: sum(at for name, at in place.committed().items() if ".retry." in name) == 3)
        letters = place.read(f"{place.topic}.{place.group}.dlt")
        await until(lambda: seen == [3])

    told = [dict(letter.headers) for letter in letters]
    assert sorted(headers["hw-original-offset"] for headers in told) == [b"0", b"1", b"2"]
    assert {headers["hw-handler"] for headers in told} == {b"bill"}
    assert {headers["hw-exception-message"].decode() for headers in told} == {
        f"no handler bill is registered on {place.topic}"
    }


async def test_tiers_parking_log_and_dead_letters_are_kept_for_four_weeks_and_replicated_as_the_catalogue_says(
    place: Place,
) -> None:
    app = place.app()

    @app.handler(place.topic, name="bill", retry=Retry("1h"))
    async def bill(value: dict[str, Any]) -> None: ...

    async with running(app):
        pass
    family = Family.of(place.topic, place.group, [3600])
    dead = place.catalogue.topic(place.topic).dead_letter(place.group)
    assert dead.name == family.dead
    differences = plan(
        [dataclasses.replace(dead, name=name, partitions=2) for name in family.created],
        AdminClient({"bootstrap.servers": place.bootstrap}),
    )

    assert [difference.action for difference in differences] == []


async def test_a_producer_that_cannot_go_on_ends_the_worker(place: Place) -> None:
    """What is handled after that could neither emit nor retry nor die."""
    app = place.app()

    @app.handler(place.topic, name="bill")
    async def bill(value: dict[str, Any]) -> None:
        """Nothing."""

    async with running(app):
        sender = cast("FaustProducer", app.producer).started_sender()
        fatal = KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "records were lost", True)
        await asyncio.to_thread(sender._on_error, fatal)  # as librdkafka calls it, on a thread of its own
        await until(lambda: app.crashed)

    assert isinstance(app.crash_reason, BrokerUnavailable)
    assert "records were lost" in str(app.crash_reason)
