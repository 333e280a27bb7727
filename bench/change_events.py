"""The change events of the cache sync's bench: entities, keys, values, topics, and a topic full of them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Producer

from fleet import create_topic
from headwater_cache import MsgpackValues
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry

__all__ = ["KEYS", "PARTITIONS", "change_of", "codec_for", "fill", "key_of", "made_topic", "number_of", "topic_of"]

PARTITIONS = 4
KEYS = 10_000
NOTE = "x" * 140
_VALUES = MsgpackValues[Any]()


def key_of(number: int) -> str:
    """Events go round the keys."""
    return f"2013-01-01-UA-{number % KEYS}-EWR"


def change_of(entity: str, number: int) -> dict[str, Any]:
    """A change event whose value holds its number."""
    return {
        "entity": entity,
        "key": key_of(number),
        "version": 0,
        "op": "UPSERT",
        "schema_id": None,
        "value": _VALUES.encode({"number": number, "note": NOTE})[1],
        "source": "bench",
        "occurred_at": datetime.now(UTC),
    }


def number_of(value: bytes) -> int:
    """The number in the encoded value of a change event."""
    number: int = _VALUES.decode(0, value)["number"]
    return number


def topic_of(entity: str) -> str:
    return f"{entity}.changes"


def codec_for(entity: str) -> Codec:
    """The same in every process."""
    topic = TopicSpec(topic_of(entity), "ChangeEvent", partitions=PARTITIONS)
    codec = Codec(Catalogue.of(topics=[topic], schemas=[Catalogue.load().schema("ChangeEvent")]), LocalRegistry())
    codec.encoder(topic.name)
    return codec


def made_topic(bootstrap: str) -> str:
    """An entity whose topic is there and empty."""
    entity = f"flight-{uuid.uuid4().hex[:8]}"
    create_topic(bootstrap, topic_of(entity), PARTITIONS)
    return entity


def fill(bootstrap: str, entity: str, events: int) -> None:
    """Write the events."""
    encode = codec_for(entity).encoder(topic_of(entity))
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for number in range(events):
        producer.produce(topic_of(entity), encode(change_of(entity, number)), key=key_of(number).encode())
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise SystemExit("the broker did not take the events")
