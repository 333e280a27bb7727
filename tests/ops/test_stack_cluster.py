"""Three brokers: a topic outlives the broker that leads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from backends.embedded import embedded
from headwater_ops.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOPIC = "cluster.test"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Stack]:
    with embedded(tmp_path / "state", brokers=3) as stack:
        yield stack


def test_acknowledged_records_survive_the_kill_of_their_leader(cluster: Stack) -> None:
    bootstrap = cluster.up("kafka").bootstrap
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=3)])[TOPIC].result(30)
    acked: list[bytes] = []

    def note(error: KafkaError | None, message: Message) -> None:
        value = message.value()
        if error is None and isinstance(value, bytes):
            acked.append(value)

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True})
    for number in range(100):
        producer.produce(TOPIC, b"before %d" % number, on_delivery=note)
    assert producer.flush(30) == 0
    leader = admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions[0].leader

    cluster.kill(f"broker-{leader}")
    for number in range(100):
        producer.produce(TOPIC, b"after %d" % number, on_delivery=note)
    assert producer.flush(60) == 0

    assert len(acked) == 200
    assert read(bootstrap, 200) == acked
    assert admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions[0].leader != leader


def read(bootstrap: str, count: int) -> list[bytes | str | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        return [message.value() for message in consumer.consume(count, 30.0)]
    finally:
        consumer.close()
