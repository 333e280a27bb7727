"""What a producer does is counted, per topic and outcome."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from headwater_producers import EventProducer
from producers.orders import NOWHERE, MakeProducer, order


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"headwater_producer_{name}", labels) or 0.0


def test_acknowledged_records_are_counted_and_timed(topic: str, producer: EventProducer) -> None:
    for number in range(1000):
        producer.emit(topic, order(number))
    producer.flush(20)

    assert sample("records_total", topic=topic, outcome="acked") == 1000
    assert sample("records_total", topic=topic, outcome="failed") == 0
    assert 0 < sample("ack_seconds_count", topic=topic) <= 1000
    assert 0 < sample("ack_seconds_sum", topic=topic) < 20 * sample("ack_seconds_count", topic=topic)


def test_failures_are_counted_and_logged_once_per_kind(
    topic_name: str, make_producer: MakeProducer, caplog: pytest.LogCaptureFixture
) -> None:
    producer = make_producer(NOWHERE, delivery_timeout=0.3)
    deliveries = [producer.emit(topic_name, order(number)) for number in range(50)]
    producer.flush(20)
    producer.close()

    assert {delivery.state for delivery in deliveries} == {"failed"}
    assert sample("records_total", topic=topic_name, outcome="failed") == 50
    lines = [line for line in caplog.messages if "not delivered" in line]
    assert 1 <= len(lines) <= 2
    assert sum(int(line.split()[0]) for line in lines) == 50
    assert {record.levelno for record in caplog.records if "not delivered" in record.message} == {logging.ERROR}


def test_the_queue_is_a_gauge(topic_name: str, nowhere: EventProducer) -> None:
    """librdkafka counts its unserved error reports in, so the gauge may read a little high while the broker is away."""
    for number in range(1000):
        nowhere.emit(topic_name, order(number))
    assert 1000 <= sample("queue_records") < 1100
