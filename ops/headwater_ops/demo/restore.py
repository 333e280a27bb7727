"""Reading a partition of a change topic to its end: how a worker gets its memory back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.settings import KafkaSettings

__all__ = ["Stored", "read_partition"]

_TOGETHER = 1000
_PATIENCE = 10.0


class Stored(NamedTuple):
    """A record of a log; ``value`` is ``None`` for a tombstone."""

    offset: int
    key: bytes | None
    value: bytes | None


def read_partition(kafka: KafkaSettings, topic: str, partition: int) -> Iterator[Stored]:
    """Every record from the beginning until there are no more. Blocks; commits nothing.

    Raises:
        BrokerUnavailable: Kafka sent nothing for ten seconds.
    """
    client = Consumer(
        {
            **kafka.client_config(),
            "group.id": "headwater-reader",  # librdkafka wants one; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        client.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        while True:
            messages = client.consume(_TOGETHER, timeout=_PATIENCE)
            if not messages:
                raise BrokerUnavailable(f"{topic}[{partition}]: Kafka sent nothing for {_PATIENCE:.0f} s")
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return
                    raise KafkaException(error)
                yield Stored(message.offset() or 0, _bytes(message.key()), _bytes(message.value()))
    except KafkaException as exc:
        raise BrokerUnavailable(f"{topic}[{partition}] cannot be read: {exc.args[0].str()}") from exc
    finally:
        client.close()


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
