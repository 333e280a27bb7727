"""The border with librdkafka: its errors become ours here and nowhere else in this package."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from headwater_schemas.errors import (
    BrokerUnavailable,
    HeadwaterError,
    NotPermitted,
    RecordTooLarge,
    UnknownTopic,
    UsageError,
)

__all__ = ["Fenced", "GroupClosed", "answer_of", "kafka_error", "translate"]


class GroupClosed(UsageError):
    """The member has left its group, or is leaving: nothing can be asked of it any more."""


class Fenced(UsageError):
    """Another member took our static identity, or our transactions: this worker must stop, not retry.

    Give each worker a ``HEADWATER_WORKER_ID`` of its own.
    """


_NOT_PERMITTED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,
}
_UNKNOWN_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_FENCED = {
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.UNRELEASED_INSTANCE_ID,
}


def kafka_error(exc: KafkaException) -> KafkaError:
    """The error inside a librdkafka exception."""
    error = exc.args[0]
    assert isinstance(error, KafkaError)
    return error


def translate(error: KafkaError, doing: str) -> HeadwaterError:
    """The error of ours for one of librdkafka's; ``doing`` says what was tried, for the message.

    Whatever we do not know to be final is taken as an outage (``BrokerUnavailable``): waiting loses nothing.
    """
    code = error.code()
    text = f"{doing}: {error.str()} ({error.name()})"
    if code in _NOT_PERMITTED:
        return NotPermitted(f"{text}; check HEADWATER_KAFKA_SECURITY_* and the broker's ACLs")
    if code in _UNKNOWN_TOPIC:
        return UnknownTopic(f"{text}; create it with `headwater topics apply`")
    if code in _TOO_LARGE:
        return RecordTooLarge(f"{text}; raise max.message.bytes of the topic or send less")
    if code in _FENCED:
        return Fenced(f"{text}; another member uses the same HEADWATER_WORKER_ID")
    return BrokerUnavailable(text)


def answer_of(future: Future[Any], doing: str, seconds: float) -> Any:
    """What the brokers answer. Blocks for ``seconds`` and one more, in which librdkafka may say better what is wrong.

    Raises:
        HeadwaterError: what was answered, in our terms; BrokerUnavailable: nothing in time.
    """
    try:
        return future.result(seconds + 1)
    except TimeoutError as exc:
        raise BrokerUnavailable(f"{doing}: no answer within {seconds:.0f} s") from exc
    except KafkaException as exc:
        raise translate(kafka_error(exc), doing) from exc
