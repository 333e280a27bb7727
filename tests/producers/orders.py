"""Orders: the events of these tests, and an independent reader of what came of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic
from kafka import KafkaConsumer, TopicPartition

from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.settings import KafkaSettings

PARTITIONS = 4

SCHEMA = {
    "type": "record",
    "name": "Order",
    "namespace": "headwater.tests",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "amount", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}

NOWHERE = "127.0.0.1:1"
"""Nothing listens there."""

MakeProducer = Callable[..., EventProducer]


def order(number: int, **changes: Any) -> dict[str, Any]:
    """A value of the schema."""
    return {"order_id": f"o-{number}", "amount": number, "note": None} | changes


def catalogue_of(*specs: TopicSpec) -> Catalogue:
    return Catalogue.of(topics=specs, schemas=[SCHEMA])


def settings_for(bootstrap: str, *, max_record_bytes: int = 1_000_000, **changes: Any) -> ProducerSettings:
    return ProducerSettings(KafkaSettings(bootstrap, max_record_bytes=max_record_bytes), **changes)


def create_topic(bootstrap: str, name: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = NewTopic(name, PARTITIONS, 1, config={key.replace("_", "."): value for key, value in config.items()})
    for created in admin.create_topics([new]).values():
        created.result(30)


def alter_topic(bootstrap: str, name: str, **config: str) -> None:
    entries = [
        ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for key, value in config.items()
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(30)


def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic as kafka-python sees it, by partition and offset."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records: list[Any] = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for batch in consumer.poll(timeout_ms=1000).values():
                records += batch
    return sorted(records, key=lambda record: (record.partition, record.offset))
