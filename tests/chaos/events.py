"""What is sent, and what is to happen to it: 1 % poison, 5 % fail once or twice, 1 % always."""

from __future__ import annotations

import zlib
from typing import Any

from headwater_ops.testing.verdict import Event
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry

__all__ = ["HEALTHY", "codec_for", "event_of", "failures_of", "is_doomed", "is_poison", "value_of"]

HEALTHY = -1  # a seed of failures with which nothing fails
_HOPELESS = 99

_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Step",
    "fields": [{"name": "key", "type": "string"}, {"name": "number", "type": "long"}],
}
_POISON = b"\x07"


def failures_of(seed: int, key: str, number: int) -> int:
    """How often the handler fails for this event: 5 % once or twice, 1 % always (99)."""
    if seed == HEALTHY:
        return 0
    dice = _dice(f"{seed}/{key}/{number}")
    if dice < 10:
        return _HOPELESS
    return 1 if dice < 40 else 2 if dice < 60 else 0


def is_poison(seed: int, key: str, number: int) -> bool:
    """Whether the bytes of this event are none that anybody can decode: 1 %."""
    return seed != HEALTHY and _dice(f"poison/{seed}/{key}/{number}") < 10


def is_doomed(seed: int, event: Event) -> bool:
    """Whether it must become a dead letter."""
    return is_poison(seed, *event) or failures_of(seed, *event) == _HOPELESS


def _dice(text: str) -> int:
    return zlib.crc32(text.encode()) % 1000


def codec_for(topic: str) -> Codec:
    """The codec of one topic, on a registry in memory: every process gives the schema the same id."""
    catalogue = Catalogue.of(topics=[TopicSpec(name=topic, schema="Step")], schemas=[_SCHEMA])
    codec = Codec(catalogue, LocalRegistry())
    codec.encoder(topic)
    return codec


def value_of(codec: Codec, topic: str, seed: int, event: Event) -> bytes:
    key, number = event
    if is_poison(seed, key, number):
        return _POISON + f"{key} {number}".encode()
    return codec.encoder(topic)({"key": key, "number": number})


def event_of(codec: Codec, topic: str, value: bytes) -> Event:
    """The event of a value, poison or not."""
    if value[:1] == _POISON:
        key, number = value[1:].decode().split()
        return key, int(number)
    decoded: dict[str, Any] = codec.decoder(topic)(value)
    return decoded["key"], decoded["number"]
