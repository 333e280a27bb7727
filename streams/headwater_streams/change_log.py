"""The change log of a view on Kafka: where ``put`` and ``delete`` of an ``EntityCache`` commit.

    log = KafkaChangeLog(EventProducer.from_env(source="flights-service"), source="flights-service")
    flights = EntityCache.from_env("flight", log=log)

The version of a write is the position of its change event, so ``epoch`` must be the one of the cache sync that follows
the topic, and both must be raised when the topic is made anew or gets more partitions.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

from headwater_cache import Version, log_version
from headwater_producers import EventProducer
from headwater_producers.delivery import Delivery
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.wire import change_topic

__all__ = ["KafkaChangeLog"]


class KafkaChangeLog:
    """Writes change events with a producer, which stays the caller's to close; close this first.

    A delete is followed by a tombstone, so that compaction forgets the key in time. A producer with a spool may take a
    change while Kafka is away; it then has no position yet, and the write is ``BrokerUnavailable`` although it will be
    sent: the change event brings it into the cache.

    Args:
        producer: writes with acks=all; the topic must be in its catalogue.
        source: the name of the writing service, as it stands in each change event.
        topic: default ``<entity>.changes``.
        epoch: of the topic; see above.
        clock: stamps the events.
    """

    def __init__(
        self,
        producer: EventProducer,
        *,
        source: str,
        topic: str | None = None,
        epoch: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._producer = producer
        self._source = source
        self._topic = topic
        self._epoch = epoch
        self._clock = clock or SystemClock()
        self._waiting = ThreadPoolExecutor(1, "headwater-change-log")

    def append(self, entity: str, key: str, value: bytes | None, schema_id: int) -> Future[Version]:
        """Hand one change over; see ``headwater_cache.ChangeLog``. Blocks as ``EventProducer.emit`` does.

        Raises:
            UnknownTopic, RecordTooLarge, UsageError, Unavailable: as ``emit``; nothing was handed over.
        """
        topic = self._topic or change_topic(entity)
        event = {
            "entity": entity,
            "key": key,
            "version": 0,  # of a view the position counts
            "op": "DELETE" if value is None else "UPSERT",
            "schema_id": schema_id or None,
            "value": value,
            "source": self._source,
            "occurred_at": datetime.fromtimestamp(self._clock.time(), UTC),
        }
        delivery = self._producer.emit(topic, event, key=key)
        if value is None:
            self._producer.emit(topic, None, key=key)
        return self._waiting.submit(self._version, delivery)

    def close(self) -> None:
        """Wait for what was appended to be acknowledged, or to fail."""
        self._waiting.shutdown()

    def _version(self, delivery: Delivery) -> Version:
        done = delivery.result()
        if done.offset is None:
            raise BrokerUnavailable(f"a change of {done.topic} is in the spool without a position yet; it will be sent")
        return log_version(self._epoch, done.offset)
