"""Dead letters as kafka-python reads them, a client that shares no code with ours: nothing judges itself."""

from __future__ import annotations

from kafka import KafkaConsumer, TopicPartition

__all__ = ["read_dead"]


def read_dead(bootstrap: str, topic: str) -> list[bytes]:
    """The values of a dead-letter topic; none where there is no such topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=5000, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        if not partitions:
            return []
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        left = sum(consumer.end_offsets(partitions).values())
        found: list[bytes] = []
        while len(found) < left:
            batch = consumer.poll(timeout_ms=2000)
            if not batch:
                break
            found += [record.value for records in batch.values() for record in records]
        return found
    finally:
        consumer.close()
