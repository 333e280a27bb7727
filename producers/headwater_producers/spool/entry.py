"""A record of the spool on its way to the broker, and its form on disk."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError

from headwater_producers.border import is_purged, translate
from headwater_producers.spool.log import Position, frame
from headwater_schemas.errors import HeadwaterError, UsageError

__all__ = ["Entry", "Record", "decode", "encode"]


class Record(msgspec.Struct, array_like=True, gc=False):
    """An event as it is kept on disk: everything that is needed to send it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, Any]]
    """Text, bytes or nothing, as the caller gave them; msgpack tells these apart."""
    accepted_at: float
    """Seconds since the epoch; becomes the timestamp of the record."""


_log = logging.getLogger("headwater.producers")
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The record as a frame of the log."""
    return frame(_encoder.encode(record))


def decode(body: bytes) -> Record:
    """The record of a frame."""
    return _decoder.decode(body)


class Entry:
    """Where a record stands in the log, and what the broker said. Never lives without standing in the log."""

    __slots__ = ("accepted_at", "acked", "error", "position", "topic")

    def __init__(self, topic: str, accepted_at: float, position: Position | None = None) -> None:
        self.topic = topic
        self.accepted_at = accepted_at
        self.position = position
        self.acked = False
        self.error: HeadwaterError | None = None

    def settle(self, error: Any, _message: Any) -> None:
        """librdkafka's report. Only what waiting cannot cure is an error here; else the record stays as it is, on disk,
        for the next start: the producer closes, or librdkafka has met a fatal error."""
        if error is None:
            self.acked = True
        else:
            self.refuse(error)

    def refuse(self, error: KafkaError) -> None:
        """Take down an error if the record is at fault."""
        failure = translate(error, self.topic)
        if isinstance(failure, UsageError):
            self.error = failure
        elif not is_purged(error):
            _log.critical("a spooled event was not delivered and waits for the next start: %s", failure)
