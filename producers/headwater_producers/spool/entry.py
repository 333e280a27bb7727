"""A record of the spool on its way to the broker, and its form on disk."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from headwater_producers.border import is_purged, translate
from headwater_producers.spool.log import Position, frame
from headwater_schemas.errors import HeadwaterError

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
        """librdkafka's report. A record that was purged, because the producer closes, stays as it is: on disk."""
        if error is None:
            self.acked = True
        elif not is_purged(error):
            self.error = translate(error, self.topic)
