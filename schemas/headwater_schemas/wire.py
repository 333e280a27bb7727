"""The wire contract: framing, header names and topic names. Other languages talk to Headwater through these alone.

A value is the Confluent wire format: the magic byte 0x00, the schema id as four big-endian bytes, then Avro binary.
Headers follow the CloudEvents Kafka binding (binary mode) and W3C Trace Context; our own start with ``hw-``.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from headwater_schemas.durations import Duration, format_duration, seconds
from headwater_schemas.errors import NotDecodable, UsageError

__all__ = [
    "CE_ID",
    "CE_SOURCE",
    "CE_SPECVERSION",
    "CE_TIME",
    "CE_TYPE",
    "CONTENT_TYPE",
    "CONTENT_TYPE_AVRO",
    "EXCEPTION_STACK_BYTES",
    "HW_ATTEMPT",
    "HW_DUE_AT",
    "HW_EXCEPTION_CLASS",
    "HW_EXCEPTION_MESSAGE",
    "HW_EXCEPTION_STACK",
    "HW_FINGERPRINT",
    "HW_FIRST_FAILED_AT",
    "HW_GROUP",
    "HW_HANDLER",
    "HW_HEADERS",
    "HW_ORIGINAL_OFFSET",
    "HW_ORIGINAL_PARTITION",
    "HW_ORIGINAL_TIMESTAMP",
    "HW_ORIGINAL_TOPIC",
    "HW_REASON",
    "HW_REDRIVE_COUNT",
    "MAGIC",
    "PREFIX_BYTES",
    "REASONS",
    "SPECVERSION",
    "TRACEPARENT",
    "Op",
    "Outcome",
    "Reason",
    "change_topic",
    "check_topic_name",
    "dead_letter_topic",
    "frame",
    "retry_topic",
    "schema_id_of",
    "subject_of",
]

# Framing
MAGIC: Final = 0
PREFIX_BYTES: Final = 5
_LARGEST_ID = 2**31 - 1

# CloudEvents 1.0, Kafka binding, binary content mode
SPECVERSION: Final = "1.0"
CONTENT_TYPE_AVRO: Final = "application/avro"
CE_SPECVERSION: Final = "ce_specversion"
CE_ID: Final = "ce_id"
CE_SOURCE: Final = "ce_source"
CE_TYPE: Final = "ce_type"
CE_TIME: Final = "ce_time"
CONTENT_TYPE: Final = "content-type"

# W3C Trace Context
TRACEPARENT: Final = "traceparent"

# Retry tiers and dead letters: added to a record, never in place of its own headers
HW_ORIGINAL_TOPIC: Final = "hw-original-topic"
HW_ORIGINAL_PARTITION: Final = "hw-original-partition"
HW_ORIGINAL_OFFSET: Final = "hw-original-offset"
HW_ORIGINAL_TIMESTAMP: Final = "hw-original-timestamp"
HW_GROUP: Final = "hw-group"
HW_HANDLER: Final = "hw-handler"
HW_ATTEMPT: Final = "hw-attempt"
HW_FIRST_FAILED_AT: Final = "hw-first-failed-at"
HW_DUE_AT: Final = "hw-due-at"
HW_REASON: Final = "hw-reason"
HW_EXCEPTION_CLASS: Final = "hw-exception-class"
HW_EXCEPTION_MESSAGE: Final = "hw-exception-message"
HW_EXCEPTION_STACK: Final = "hw-exception-stack"
HW_FINGERPRINT: Final = "hw-fingerprint"
HW_REDRIVE_COUNT: Final = "hw-redrive-count"
HW_HEADERS: Final = (
    HW_ORIGINAL_TOPIC,
    HW_ORIGINAL_PARTITION,
    HW_ORIGINAL_OFFSET,
    HW_ORIGINAL_TIMESTAMP,
    HW_GROUP,
    HW_HANDLER,
    HW_ATTEMPT,
    HW_FIRST_FAILED_AT,
    HW_DUE_AT,
    HW_REASON,
    HW_EXCEPTION_CLASS,
    HW_EXCEPTION_MESSAGE,
    HW_EXCEPTION_STACK,
    HW_FINGERPRINT,
    HW_REDRIVE_COUNT,
)
EXCEPTION_STACK_BYTES: Final = 8 * 1024
"""A longer stack is cut to this many bytes."""

Reason = Literal["decode", "schema", "handler", "timeout", "expired", "too-large"]
"""Why a record failed; the value of ``hw-reason``."""

REASONS: Final[tuple[Reason, ...]] = ("decode", "schema", "handler", "timeout", "expired", "too-large")

Outcome = Literal["done", "retry", "dead"]
"""How a record was settled."""

Op = Literal["UPSERT", "DELETE"]
"""What a change event does to its key."""

_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


def frame(schema_id: int, payload: bytes) -> bytes:
    """The wire format of an Avro ``payload`` written with the schema of ``schema_id``."""
    return b"\0" + schema_id.to_bytes(4, "big") + payload


def schema_id_of(value: bytes) -> int:
    """The schema id in front of ``value``; the payload behind it is not looked at.

    Raises:
        NotDecodable: fewer than five bytes, another magic byte, or an id that no registry gives out (1 to 2^31 - 1).
    """
    if len(value) < PREFIX_BYTES or value[0] != MAGIC:
        raise NotDecodable(
            f"not the wire format (0x00, schema id, Avro): {len(value)} bytes, start {value[:8].hex()!r}. A producer "
            "that puts the id into a header must be told to put it into the value"
        )
    schema_id = int.from_bytes(value[1:PREFIX_BYTES], "big")
    if not 0 < schema_id <= _LARGEST_ID:
        raise NotDecodable(
            f"{schema_id} is not a schema id: registries number from 1 to {_LARGEST_ID}. An Apicurio serializer that "
            "writes 8-byte ids must be told to write 4: apicurio.registry.as-confluent=true"
        )
    return schema_id


def check_topic_name(name: str) -> str:
    """``name`` itself, when Kafka would accept it as a topic.

    Raises:
        UsageError: it is empty, ``.`` or ``..``, longer than 249 characters, or has other than ``A-Za-z0-9._-``.
    """
    if _TOPIC_NAME.fullmatch(name) is None or name in (".", ".."):
        raise UsageError(f"{name!r} cannot be a topic: Kafka takes 1 to 249 characters of A-Z, a-z, 0-9, '.', '_', '-'")
    return name


def retry_topic(topic: str, group: str, delay: Duration) -> str:
    """The retry tier of a consumer group: ``<topic>.<group>.retry.<delay>``, the delay in its shortest form.

    Raises:
        UsageError: the delay is not a duration, or the name is not one Kafka takes.
    """
    return check_topic_name(f"{topic}.{group}.retry.{format_duration(seconds(delay))}")


def dead_letter_topic(topic: str, group: str) -> str:
    """Where a consumer group puts records that cannot be processed: ``<topic>.<group>.dlt``.

    Raises:
        UsageError: the name is not one Kafka takes.
    """
    return check_topic_name(f"{topic}.{group}.dlt")


def change_topic(entity: str) -> str:
    """The compacted topic of an entity's change events: ``<entity>.changes``.

    Raises:
        UsageError: the name is not one Kafka takes.
    """
    return check_topic_name(f"{entity}.changes")


def subject_of(topic: str) -> str:
    """The registry subject of a topic's values (TopicNameStrategy)."""
    return f"{topic}-value"
