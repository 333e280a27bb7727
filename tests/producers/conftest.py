"""A topic of the test's own and producers that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from headwater_ops.stack import Stack
from headwater_producers import EventProducer
from headwater_producers.outbox import Outbox
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.registry import LocalRegistry
from producers.broker import Broker
from producers.orders import NOWHERE, MakeProducer, catalogue_of, create_topic, settings_for


@pytest.fixture
def bootstrap(request: pytest.FixtureRequest, bootstrap: str) -> str:
    """Of the broker that a test may freeze and kill where it asks for one, which is embedded on every backend."""
    if "broker" not in request.fixturenames:
        return bootstrap
    broker: Broker = request.getfixturevalue("broker")
    return broker.bootstrap


@pytest.fixture
def topic(bootstrap: str, topic_name: str) -> str:
    """A topic of four partitions on the broker."""
    create_topic(bootstrap, topic_name)
    return topic_name


@pytest.fixture
def catalogue(topic_name: str) -> Catalogue:
    """The topic, and the same with ``-compacted`` behind its name."""
    return catalogue_of(
        TopicSpec(topic_name, "Order"), TopicSpec(f"{topic_name}-compacted", "Order", cleanup="compact")
    )


@pytest.fixture
def make_producer(catalogue: Catalogue) -> Iterator[MakeProducer]:
    """Makes producers with a registry in memory; what they still hold at the end of the test is given up."""
    with ExitStack() as stack:

        def make(bootstrap: str, registry: Any = None, **changes: Any) -> EventProducer:
            settings = settings_for(bootstrap, **changes)
            producer = EventProducer(settings, catalogue, registry or LocalRegistry(), source="orders-service")
            stack.callback(_close, producer)
            return producer

        yield make


def _close(producer: EventProducer) -> None:
    with suppress(BrokerUnavailable):
        producer.close(0)


@pytest.fixture
def producer(make_producer: MakeProducer, bootstrap: str) -> EventProducer:
    """A producer to the real broker."""
    return make_producer(bootstrap)


@pytest.fixture
def nowhere(make_producer: MakeProducer) -> EventProducer:
    """A producer whose broker is down."""
    return make_producer(NOWHERE)


@pytest.fixture
def broker(stack: Stack) -> Iterator[Broker]:
    """The broker of the run; thawed and running again after the test."""
    broker = Broker(stack)
    yield broker
    broker.thaw()


@pytest.fixture
def outbox(catalogue: Catalogue) -> Outbox:
    """An outbox with a registry in memory."""
    return Outbox(catalogue, LocalRegistry(), source="orders-service")
