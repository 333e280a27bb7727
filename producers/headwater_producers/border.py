"""The border to librdkafka: the one place where its errors become ours."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

from headwater_schemas.admin import refusal
from headwater_schemas.errors import (
    BrokerUnavailable,
    HeadwaterError,
    NotPermitted,
    Overloaded,
    RecordTooLarge,
    UnknownTopic,
    UsageError,
)

__all__ = ["is_purged", "translate"]

_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

_NOT_PERMITTED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)

_UNKNOWN: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_EXCEPTION,
    }
)

_REFUSED: Final = frozenset(
    {
        # A compacted topic takes no record without a key.
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        # A codec that the broker or this build of librdkafka does not have.
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError._INVALID_ARG,
    }
)

_PURGED: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})


def is_purged(error: KafkaError) -> bool:
    """Whether a record was given up by us, because the producer closes."""
    return error.code() in _PURGED


def translate(error: KafkaError, topic: str, *, last: KafkaError | None = None) -> HeadwaterError:
    """The error of ours that says what the caller of ``emit`` should do.

    Args:
        error: what librdkafka reports for a record of ``topic``.
        last: the client's last error of its own: why a record timed out.
    """
    code = error.code()
    if error.fatal():
        return BrokerUnavailable(
            f"librdkafka met a fatal error, and sends nothing more: make a new producer ({error.str()})"
        )
    if code in _TOO_LARGE:
        return RecordTooLarge(f"a record of {topic!r} is over HEADWATER_KAFKA_MAX_RECORD_BYTES: {error.str()}")
    if code in _NOT_PERMITTED:
        return NotPermitted(
            f"the broker refuses to write to {topic!r}: {error.str()}; grant this user Write and Describe on it"
        )
    if code in _UNKNOWN:
        return UnknownTopic(f"the broker has no topic {topic!r}; run `headwater topics apply` ({error.str()})")
    if code in _REFUSED:
        return UsageError(f"the broker refuses a record of {topic!r}: {error.str()}")
    if code == KafkaError._QUEUE_FULL:
        return Overloaded("the producer's queue is full")
    if code in _PURGED:
        return BrokerUnavailable(f"a record of {topic!r} was not acknowledged before the producer closed")
    if code == KafkaError._MSG_TIMED_OUT and last is not None:
        if (refused := refusal(last)) is not None:
            return refused
        return BrokerUnavailable(f"no acknowledgement for a record of {topic!r} in time; last seen: {last.str()}")
    # What is left is the broker's or the network's, and librdkafka has already retried until the delivery timeout.
    return BrokerUnavailable(f"a record of {topic!r} was not acknowledged: {error.str()}")
