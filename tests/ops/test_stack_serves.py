"""The session's stack serves all three protocols."""

from __future__ import annotations

import httpx
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_ops.stack import Endpoints


def test_a_record_is_acknowledged_by_kafka(endpoints: Endpoints, topic_name: str) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    admin.create_topics([NewTopic(topic_name, num_partitions=1)])[topic_name].result(10)
    producer = Producer({"bootstrap.servers": endpoints.bootstrap, "acks": "all"})
    outcome: list[object] = []
    producer.produce(topic_name, b"value", on_delivery=lambda error, _message: outcome.append(error))

    assert producer.flush(10) == 0

    assert outcome == [None]


def test_redis_evicts_nothing(endpoints: Endpoints) -> None:
    with redis.Redis.from_url(endpoints.redis_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_registry_registers_a_schema(endpoints: Endpoints, topic_name: str) -> None:
    url = f"{endpoints.registry_url}/subjects/{topic_name}-value/versions"

    answer = httpx.post(url, json={"schema": '{"type":"record","name":"R","fields":[]}'}, timeout=10)

    assert answer.status_code == 200
    assert answer.json()["id"] > 0
