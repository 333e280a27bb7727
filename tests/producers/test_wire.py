"""What stands on the log, read back by another client, is the contract to the byte."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fastavro
import psutil
import pytest

from headwater_ops.stack import Endpoints
from headwater_producers import EventProducer
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError
from headwater_schemas.partitioner import partition_for
from headwater_schemas.registry import LocalRegistry, Registry
from headwater_schemas.settings import Environment, RegistrySettings
from producers.orders import PARTITIONS, SCHEMA, create_topic, order, read_all, settings_for


def test_a_value_is_magic_byte_registered_id_and_avro(
    bootstrap: str, env: Environment, topic: str, catalogue: Catalogue
) -> None:
    registry = Registry(RegistrySettings.from_env(env))
    with EventProducer(settings_for(bootstrap), catalogue, registry, source="orders") as producer:
        producer.emit(topic, order(7, note="quick"), key="o-7").result(20)

    [record] = read_all(bootstrap, topic)
    assert record.value[:1] == b"\0"
    fresh = Registry(RegistrySettings.from_env(env))
    written_with = fresh.schema(int.from_bytes(record.value[1:5], "big"))
    assert fastavro.schemaless_reader(io.BytesIO(record.value[5:]), written_with, None) == order(7, note="quick")
    assert fresh.versions(f"{topic}-value") == [written_with]
    fresh.close()
    registry.close()


def test_a_producer_by_the_settings_alone_lets_go_of_all_that_it_opened(
    endpoints: Endpoints, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "Order.avsc").write_text(json.dumps(SCHEMA), "utf-8")
    (tmp_path / "topics.toml").write_text(f'[topics."{topic}"]\nschema = "Order"\n', "utf-8")
    env = Environment(endpoints.settings() | {"HEADWATER_CONTRACTS": str(tmp_path)})
    before = set(psutil.Process().net_connections())
    with EventProducer.from_env(source="orders", env=env) as producer:
        producer.emit(topic, order(1), key="o-1").result(20)
        assert set(psutil.Process().net_connections()) > before
    assert set(psutil.Process().net_connections()) <= before
    assert len(read_all(endpoints.bootstrap, topic)) == 1


def test_headers_are_those_of_the_cloudevents_binding(
    bootstrap: str, catalogue: Catalogue, topic: str, producer: EventProducer
) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    delivery = producer.emit(topic, order(1), key="o-1").result(20)
    after = datetime.now(UTC)

    [record] = read_all(bootstrap, topic)
    headers = dict(record.headers)
    assert before <= datetime.fromisoformat(headers.pop("ce_time").decode()) <= after
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": delivery.id.encode(),
        "ce_source": b"orders-service",
        "ce_type": topic.encode(),
        "content-type": b"application/avro",
    }
    assert len(record.headers) == 6


def test_what_the_caller_gives_stands_in_the_headers(bootstrap: str, topic: str, producer: EventProducer) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    producer.emit(
        topic,
        order(1),
        id="event-1",
        time=datetime(2013, 1, 1, 5, 17, tzinfo=timezone(timedelta(hours=-5))),
        traceparent=trace,
        headers={"tenant": "blue", "ce_subject": "o-1", "raw": b"\xff\x00", "nothing": None},
    ).result(20)

    [record] = read_all(bootstrap, topic)
    headers = dict(record.headers)
    assert headers["ce_id"] == b"event-1"
    assert headers["ce_time"] == b"2013-01-01T10:17:00.000Z"
    assert headers["traceparent"] == trace.encode()
    assert headers["tenant"] == b"blue"
    assert headers["ce_subject"] == b"o-1"
    assert headers["raw"] == b"\xff\x00"
    assert headers["nothing"] is None


@pytest.mark.parametrize("key", ["o-1", "ключ", b"\x00\xff\x80", "a", "abcd", "abcdefgh", b""])
def test_a_key_chooses_the_java_clients_partition(
    bootstrap: str, topic: str, producer: EventProducer, key: str | bytes
) -> None:
    delivery = producer.emit(topic, order(1), key=key).result(20)

    raw = key.encode() if isinstance(key, str) else key
    [record] = read_all(bootstrap, topic)
    assert record.key == raw
    assert (record.partition, record.offset) == (delivery.partition, delivery.offset)
    assert record.partition == partition_for(raw, PARTITIONS)


def test_events_of_a_key_stand_in_the_order_of_their_emits(bootstrap: str, topic: str, producer: EventProducer) -> None:
    for number in range(5000):
        producer.emit(topic, order(number), key=f"k-{number % 7}")
    producer.flush(30)

    seen: dict[bytes, list[int]] = {}
    for record in read_all(bootstrap, topic):
        value: Any = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), SCHEMA, None)
        seen.setdefault(record.key, []).append(value["amount"])
    assert seen == {f"k-{k}".encode(): list(range(k, 5000, 7)) for k in range(7)}


def test_an_event_without_key_has_none(bootstrap: str, topic: str, producer: EventProducer) -> None:
    producer.emit(topic, order(1)).result(20)

    [record] = read_all(bootstrap, topic)
    assert record.key is None


def test_a_tombstone_is_a_null_value_on_a_compacted_topic(
    bootstrap: str, topic_name: str, producer: EventProducer
) -> None:
    compacted = f"{topic_name}-compacted"
    create_topic(bootstrap, compacted, cleanup_policy="compact")
    producer.emit(compacted, None, key="o-1").result(20)

    [record] = read_all(bootstrap, compacted)
    assert (record.key, record.value) == (b"o-1", None)


def test_a_tombstone_needs_a_compacted_topic(topic: str, producer: EventProducer) -> None:
    with pytest.raises(UsageError, match="is not compacted: pass a value"):
        producer.emit(topic, None, key="o-1")


def test_a_compacted_topic_needs_a_key(topic_name: str, producer: EventProducer) -> None:
    with pytest.raises(UsageError, match="compacted and keeps the newest value of each key: pass key="):
        producer.emit(f"{topic_name}-compacted", order(1))


def test_the_time_of_an_event_is_the_producers_clock(bootstrap: str, topic: str, catalogue: Catalogue) -> None:
    clock = ManualClock(1_700_000_000.25)
    with EventProducer(settings_for(bootstrap), catalogue, LocalRegistry(), source="orders", clock=clock) as producer:
        producer.emit(topic, order(1), key="a")
        clock.advance(1.001)
        producer.emit(topic, order(2), key="a")

    times = [dict(record.headers)["ce_time"] for record in read_all(bootstrap, topic)]
    assert times == [b"2023-11-14T22:13:20.250Z", b"2023-11-14T22:13:21.251Z"]


def test_a_raw_record_goes_out_untouched(bootstrap: str, topic: str, producer: EventProducer) -> None:
    reports: list[tuple[object, int, int]] = []
    producer.emit_raw(
        topic,
        b"not avro",
        b"k",
        [("hw-attempt", b"2"), ("hw-attempt", b"3")],
        partition=3,
        on_delivery=lambda error, message: reports.append((error, message.partition(), message.offset())),
    )
    producer.emit_raw(topic, None, b"k")
    producer.flush(20)

    assert reports == [(None, 3, 0)]
    raw, tombstone = sorted(read_all(bootstrap, topic), key=lambda record: record.value is None)
    assert (raw.partition, raw.value, raw.key) == (3, b"not avro", b"k")
    assert raw.headers == [("hw-attempt", b"2"), ("hw-attempt", b"3")]
    assert (tombstone.value, tombstone.partition) == (None, partition_for(b"k", PARTITIONS))
    assert tombstone.headers == []
