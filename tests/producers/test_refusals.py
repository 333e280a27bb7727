"""Everything that can be wrong with an emit, and what the caller is told. Nothing is queued then."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from headwater_producers import Block, EventProducer, ProducerSettings, Refuse
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.errors import (
    BrokerUnavailable,
    HeadwaterError,
    InvalidValue,
    Overloaded,
    RecordTooLarge,
    RegistryUnavailable,
    SettingError,
    UnknownTopic,
    UsageError,
)
from headwater_schemas.registry import LocalRegistry, Registry
from headwater_schemas.settings import Environment, KafkaSettings, RegistrySettings
from producers.orders import NOWHERE, MakeProducer, order


def test_an_unknown_topic_names_the_nearest_one(topic_name: str, nowhere: EventProducer) -> None:
    with pytest.raises(UnknownTopic, match=f"did you mean '{topic_name}"):
        nowhere.emit(topic_name + "s", order(1))
    assert len(nowhere) == 0


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"order_id": "o-1", "amount": "many", "note": None}, "amount"),
        ({"order_id": 7, "amount": 1, "note": None}, "order_id"),
        ({"order_id": "o-1", "note": None}, "amount"),
        ({"order_id": "o-1", "amount": 1, "note": None, "colour": "red"}, "colour"),
    ],
)
def test_an_invalid_value_names_its_field(
    topic_name: str, nowhere: EventProducer, value: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        nowhere.emit(topic_name, value, key="o-1")
    assert caught.value.field == field
    assert len(nowhere) == 0


@pytest.mark.parametrize("key", [7, 1.5, ["o-1"], bytearray(b"o-1")])
def test_a_key_is_text_or_bytes(topic_name: str, nowhere: EventProducer, key: Any) -> None:
    with pytest.raises(UsageError, match="must be a str or bytes"):
        nowhere.emit(topic_name, order(1), key=key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"headers": {"ce_id": "x"}}, "pass id= instead"),
        ({"headers": {"traceparent": "x"}}, "pass traceparent= instead"),
        ({"headers": {"n": 7}}, "must be a text, bytes or None"),
        ({"key": "\ud800"}, "has no UTF-8 form"),
        ({"id": "\ud800"}, "has no UTF-8 form"),
        ({"headers": {"n": "\ud800"}}, "has no UTF-8 form"),
        ({"headers": {"\ud800": "x"}}, "has no UTF-8 form"),
        ({"id": ""}, "must be a text that is not empty"),
        ({"id": 7}, "must be a text that is not empty"),
        ({"traceparent": "00-xyz"}, "is not a W3C traceparent"),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, "is not a W3C traceparent"),
        ({"time": "yesterday"}, "is not seconds since the epoch"),
        ({"time": 1e20}, "is not seconds since the epoch"),
    ],
)
def test_a_malformed_argument_says_what_to_pass(
    topic_name: str, nowhere: EventProducer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        nowhere.emit(topic_name, order(1), **arguments)
    assert len(nowhere) == 0


def test_what_librdkafka_logs_while_it_cannot_connect_is_not_counted_as_events(make_producer: MakeProducer) -> None:
    for _ in range(40):
        producer = make_producer(NOWHERE)
        deadline = time.monotonic() + 0.025
        while time.monotonic() < deadline:
            assert len(producer) == 0
        producer.close(0)


def test_an_oversized_record_is_refused_before_the_queue(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, max_record_bytes=2000)
    producer.emit(topic_name, order(1, note="x" * 1000))
    with pytest.raises(RecordTooLarge, match=topic_name):
        producer.emit(topic_name, order(1, note="x" * 2000))
    with pytest.raises(RecordTooLarge, match=topic_name):
        producer.emit(topic_name, order(1), headers={"blob": b"x" * 2000})
    with pytest.raises(RecordTooLarge, match=topic_name):
        producer.emit_raw(topic_name, b"x" * 2000)
    assert len(producer) == 1


def test_the_largest_record_that_is_let_through_is_taken_by_a_broker_as_it_comes(
    topic: str, producer: EventProducer
) -> None:
    assert producer.emit(topic, order(1, note="x" * 999_000), key="a").result(20).state == "acked"


def test_a_registry_that_is_down_is_named_and_asked_again_later(topic_name: str, make_producer: MakeProducer) -> None:
    registry = LocalRegistry()
    producer = make_producer(NOWHERE, registry)
    registry.down = True
    with pytest.raises(RegistryUnavailable):
        producer.emit(topic_name, order(1))

    registry.down = False
    producer.prepare(topic_name)
    registry.down = True
    producer.emit(topic_name, order(1))
    assert len(producer) == 1


def test_the_real_registry_client_says_so_too(topic_name: str, make_producer: MakeProducer) -> None:
    registry = Registry(RegistrySettings(f"http://{NOWHERE}", timeout=1.0))
    with pytest.raises(RegistryUnavailable, match=NOWHERE):
        make_producer(NOWHERE, registry).emit(topic_name, order(1))
    registry.close()


def test_a_broker_that_is_down_fails_the_delivery_after_its_timeout(
    topic_name: str, make_producer: MakeProducer
) -> None:
    delivery = make_producer(NOWHERE, delivery_timeout=0.5).emit(topic_name, order(1))
    with pytest.raises(BrokerUnavailable, match="in time; last seen"):
        delivery.result(10)
    assert (delivery.state, delivery.partition, delivery.offset) == ("failed", None, None)
    assert isinstance(delivery.error, BrokerUnavailable)


async def test_a_failed_delivery_raises_in_a_coroutine_too(topic_name: str, make_producer: MakeProducer) -> None:
    with pytest.raises(BrokerUnavailable):
        await make_producer(NOWHERE, delivery_timeout=0.5).emit(topic_name, order(1))


def test_a_topic_that_the_broker_does_not_have_says_how_to_make_it(
    bootstrap: str, topic_name: str, make_producer: MakeProducer
) -> None:
    delivery = make_producer(bootstrap).emit(topic_name, order(1))
    with pytest.raises(UnknownTopic, match="headwater topics apply"):
        delivery.result(60)


def test_a_full_queue_refuses_at_once_by_that_policy(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, queue_records=3, back_pressure=Refuse())
    for number in range(3):
        producer.emit(topic_name, order(number))
    with pytest.raises(Overloaded, match="3 records"):
        producer.emit(topic_name, order(4))
    assert len(producer) == 3


def test_a_full_queue_blocks_until_its_deadline(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, queue_records=3, back_pressure=Block(0.4))
    for number in range(3):
        producer.emit(topic_name, order(number))
    started, cpu = time.monotonic(), time.process_time()
    with pytest.raises(Overloaded, match=r"waited 0\.4 s"):
        producer.emit(topic_name, order(4))
    assert 0.4 <= time.monotonic() - started < 2
    assert time.process_time() - cpu < 0.2, "waiting must not burn the processor"


def test_a_full_queue_of_bytes_counts_too(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, queue_bytes=10_240, back_pressure=Refuse())
    for number in range(8):
        producer.emit(topic_name, order(number, note="x" * 1000))
    with pytest.raises(Overloaded, match="10240 bytes"):
        producer.emit(topic_name, order(9, note="x" * 9000))


def test_a_queue_that_empties_lets_a_blocked_emit_through(
    bootstrap: str, topic: str, make_producer: MakeProducer
) -> None:
    producer = make_producer(bootstrap, queue_records=100)
    deliveries = [producer.emit(topic, order(number), key="a") for number in range(2000)]
    producer.flush(30)
    assert [delivery.offset for delivery in deliveries] == list(range(2000))


async def test_a_full_queue_never_blocks_an_event_loop(topic_name: str, make_producer: MakeProducer) -> None:
    producer = make_producer(NOWHERE, queue_records=3, back_pressure=Block(30))
    for number in range(3):
        producer.emit(topic_name, order(number))
    with pytest.raises(Overloaded, match=r"await producer\.drain\(\)"):
        producer.emit(topic_name, order(4))


async def test_drain_is_the_back_pressure_of_coroutines(
    bootstrap: str, topic: str, make_producer: MakeProducer
) -> None:
    producer = make_producer(bootstrap, queue_records=100)
    deliveries = []
    for number in range(2000):
        await producer.drain()
        deliveries.append(producer.emit(topic, order(number), key="a"))
    await asyncio.gather(*deliveries)
    assert [delivery.offset for delivery in deliveries] == list(range(2000))


def test_emitting_from_a_raw_report_does_not_deadlock(bootstrap: str, topic: str, producer: EventProducer) -> None:
    emitted = threading.Event()

    def again(error: object, _message: object) -> None:
        producer.emit(topic, order(2))
        emitted.set()

    producer.emit_raw(topic, b"x", on_delivery=again)
    assert emitted.wait(20)
    producer.flush(20)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HEADWATER_PRODUCER_QUEUE_RECORDS", "0"),
        ("HEADWATER_PRODUCER_QUEUE_BYTES", "12"),
        ("HEADWATER_PRODUCER_BACK_PRESSURE", "drop"),
        ("HEADWATER_PRODUCER_COMPRESSION", "rar"),
        ("HEADWATER_PRODUCER_LINGER", "1h"),
        ("HEADWATER_PRODUCER_DELIVERY_TIMEOUT", "0"),
        ("HEADWATER_PRODUCER_BLOCK", "soon"),
    ],
)
def test_a_malformed_setting_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=name):
        ProducerSettings.from_env(Environment({name: text}))


def test_what_librdkafka_refuses_is_a_setting_error(catalogue: Catalogue) -> None:
    kafka = KafkaSettings("127.0.0.1:1", security_protocol="SSL", ca="/nowhere/ca.pem")
    with pytest.raises(SettingError, match=r"ssl\.ca\.location"):
        EventProducer(ProducerSettings(kafka), catalogue, LocalRegistry(), source="orders")


def test_a_source_is_needed(catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match="source is empty"):
        EventProducer(ProducerSettings(KafkaSettings(NOWHERE)), catalogue, LocalRegistry(), source="")


def test_every_error_is_of_our_tree() -> None:
    from headwater_producers import DeliveryPending, ProducerClosed

    assert issubclass(DeliveryPending, HeadwaterError)
    assert issubclass(ProducerClosed, HeadwaterError)
