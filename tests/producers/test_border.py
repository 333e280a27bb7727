"""Each error of librdkafka becomes the one that says what to do."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from headwater_producers.border import translate
from headwater_schemas.errors import (
    BrokerUnavailable,
    HeadwaterError,
    NotPermitted,
    Overloaded,
    RecordTooLarge,
    UnknownTopic,
    UsageError,
)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, RecordTooLarge),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, NotPermitted),
        (KafkaError._AUTHENTICATION, NotPermitted),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, UnknownTopic),
        (KafkaError._UNKNOWN_PARTITION, UnknownTopic),
        (KafkaError.INVALID_RECORD, UsageError),
        (KafkaError._QUEUE_FULL, Overloaded),
        (KafkaError._PURGE_QUEUE, BrokerUnavailable),
        (KafkaError._MSG_TIMED_OUT, BrokerUnavailable),
        (KafkaError.NOT_ENOUGH_REPLICAS, BrokerUnavailable),
        (KafkaError._TRANSPORT, BrokerUnavailable),
    ],
)
def test_the_error_says_what_to_do(code: int, error: type[HeadwaterError]) -> None:
    translated = translate(KafkaError(code), "orders.placed")
    assert type(translated) is error
    assert "orders.placed" in str(translated) or error is Overloaded


def test_a_timeout_while_credentials_are_refused_is_not_permitted() -> None:
    refused = KafkaError(KafkaError._AUTHENTICATION, "bad password")
    translated = translate(KafkaError(KafkaError._MSG_TIMED_OUT), "orders.placed", last=refused)
    assert type(translated) is NotPermitted
    assert "bad password" in str(translated)


def test_a_fatal_error_asks_for_a_new_producer() -> None:
    translated = translate(KafkaError(KafkaError._FATAL, "out of order", fatal=True), "orders.placed")
    assert type(translated) is BrokerUnavailable
    assert "make a new producer" in str(translated)


def test_a_timeout_names_what_was_seen_last() -> None:
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
    translated = translate(KafkaError(KafkaError._MSG_TIMED_OUT), "orders.placed", last=down)
    assert type(translated) is BrokerUnavailable
    assert "1/1 brokers are down" in str(translated)
