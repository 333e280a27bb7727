"""One dead letter: the record as it was, and what was written beside it when it died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from headwater_schemas import wire
from headwater_schemas.errors import UsageError
from headwater_streams.handlers.failure import HOLD, header
from headwater_streams.handlers.message import Headers, Message
from headwater_streams.readable import text

__all__ = ["DeadLetter", "LetterId", "Origin"]


@dataclass(frozen=True, slots=True, order=True)
class LetterId:
    """Where a dead letter stands; printed and parsed as ``topic/partition/offset``."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id of this text.

        Raises:
            UsageError: it is not ``topic/partition/offset``.
        """
        topic, _, numbers = text.partition("/")
        partition, _, offset = numbers.partition("/")
        if not topic or not partition.isdecimal() or not offset.isdecimal():
            raise UsageError(
                f"{text!r} is no dead letter: pass TOPIC/PARTITION/OFFSET as `headwater dlq list` prints it"
            )
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the record was read from first. ``timestamp`` in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed.

    Attributes:
        died_at: when it was written here, in seconds since the epoch.
        headers: all of them; the original's first.
        origin: ``None`` for a record that no handler of ours wrote; it can be looked at and purged, not redriven.
        redrives: how often it has been redriven before it died this time.
    """

    id: LetterId
    key: bytes | None
    value: bytes | None
    headers: Headers
    died_at: float
    origin: Origin | None
    group: str | None
    handler: str | None
    reason: str | None
    attempts: int
    exception_class: str | None
    exception_message: str | None
    fingerprint: str | None
    redrives: int

    @classmethod
    def of(cls, message: Message) -> Self:
        """The dead letter of a record of a dead-letter topic. Headers that make no sense count as absent."""
        headers = message.headers() or []
        return cls(
            id=LetterId(message.topic(), message.partition(), message.offset()),
            key=message.key(),
            value=message.value(),
            headers=headers,
            died_at=message.timestamp()[1] / 1000,
            origin=_origin(headers),
            group=text(header(headers, wire.HW_GROUP)),
            handler=text(header(headers, wire.HW_HANDLER)),
            reason=text(header(headers, wire.HW_REASON)),
            attempts=_number(headers, wire.HW_ATTEMPT) or 0,
            exception_class=text(header(headers, wire.HW_EXCEPTION_CLASS)),
            exception_message=text(header(headers, wire.HW_EXCEPTION_MESSAGE)),
            fingerprint=text(header(headers, wire.HW_FINGERPRINT)),
            redrives=_number(headers, wire.HW_REDRIVE_COUNT) or 0,
        )

    @property
    def stack(self) -> str | None:
        """The traceback of its last failure."""
        return text(header(self.headers, wire.HW_EXCEPTION_STACK))

    @property
    def holds_key(self) -> bool:
        """Whether later records of its key wait until it is redriven with success, edited or released."""
        return header(self.headers, HOLD) is not None

    def own_headers(self) -> Headers:
        """The headers that its sender gave it."""
        return [(name, value) for name, value in self.headers if not name.startswith("hw-")]


def _origin(headers: Headers) -> Origin | None:
    topic = text(header(headers, wire.HW_ORIGINAL_TOPIC))
    partition = _number(headers, wire.HW_ORIGINAL_PARTITION)
    offset = _number(headers, wire.HW_ORIGINAL_OFFSET)
    if topic is None or partition is None or offset is None:
        return None
    return Origin(topic, partition, offset, (_number(headers, wire.HW_ORIGINAL_TIMESTAMP) or 0) / 1000)


def _number(headers: Headers, name: str) -> int | None:
    raw = header(headers, name)
    return int(raw) if raw is not None and raw.isdigit() else None
