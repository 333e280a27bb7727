"""The producer: emit events to topics of the catalogue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from confluent_kafka import KafkaException

from headwater_producers.backpressure import Block, Spool
from headwater_producers.border import translate
from headwater_producers.breaker import Breaker
from headwater_producers.client import ANY_PARTITION, Client, OnDelivery, in_event_loop
from headwater_producers.delivery import Delivery
from headwater_producers.envelope import Envelope, Header
from headwater_producers.errors import DeliveryPending
from headwater_producers.route import Route
from headwater_producers.settings import ProducerSettings
from headwater_producers.spool import Spooler
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BrokerUnavailable, Overloaded
from headwater_schemas.pace import Pace
from headwater_schemas.registry import Registry, SchemaRegistry
from headwater_schemas.settings import Environment, RegistrySettings

__all__ = ["EventProducer"]

_POLL_EVERY: Final = 64
"""Emits between two polls; a power of two. Rarer is not faster, and lets reports pile up."""

_log = logging.getLogger("headwater.producers")


class EventProducer:
    """Emits events: schema-checked Avro values with CloudEvents headers, in order per key, kept by all replicas.

    Make one per process and share it: threads and coroutines may all use it. ``emit`` returns before anything is sent;
    the ``Delivery`` says when the event is safe. Until then it is lost if the process is killed. Order per key holds
    among the events of one producer.

    Use it as a context manager (``with`` or ``async with``), or call ``close``. After a fork the child may go on using
    it (it gets connections of its own); the deliveries of the parent's events stay with the parent.

    Args:
        settings: how to send.
        catalogue: which topics there are, and the schemas of their values.
        registry: where schemas get their ids, or a codec made elsewhere.
        source: the name of the emitting service: ``ce_source`` of every event.
        clock: gives ``ce_time``; only a test passes another than the system's.

    Raises:
        SettingError: librdkafka refuses the settings. Whether the brokers are there is not looked at.
        UsageError: ``source`` is empty.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        catalogue: Catalogue,
        registry: SchemaRegistry | Codec,
        *,
        source: str,
        clock: Clock | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._codec = registry if isinstance(registry, Codec) else Codec(catalogue, registry)
        self._envelope = Envelope(source, clock or SystemClock())
        self._settings = settings
        self._own_registry: Registry | None = None
        self._pace = None if settings.rate is None else Pace(settings.rate, SystemClock())
        self._client = Client(settings)
        self._client.on_fork.append(self._envelope.renew)
        self._routes = self._client.routes
        policy = settings.back_pressure
        self._spooler = Spooler(policy, self._client) if isinstance(policy, Spool) else None
        self._client.start()
        if self._spooler is not None:
            self._spooler.start()

    @classmethod
    def from_env(cls, *, source: str, env: Environment | None = None) -> Self:
        """A producer by the ``HEADWATER_*`` settings, with the catalogue of ``HEADWATER_CONTRACTS``.

        Raises:
            SettingError: a setting is unknown, malformed or missing.
            UsageError: the catalogue is wrong.
        """
        env = env or Environment()
        registry = Registry(RegistrySettings.from_env(env))
        producer = cls(ProducerSettings.from_env(env), Catalogue.from_env(env), registry, source=source)
        producer._own_registry = registry
        return producer

    def __len__(self) -> int:
        """Events that are not resolved: neither acknowledged nor spooled nor failed."""
        return self._client.pending() if self._spooler is None else self._spooler.pending()

    @property
    def degraded(self) -> bool:
        """Whether the broker is away: events go to the spool, or, with ``fail_fast``, emits fail at once. Always
        ``False`` without either."""
        return self._client.degraded()

    def emit(
        self,
        topic: str,
        value: Mapping[str, Any] | msgspec.Struct | None,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str | bytes | None] | None = None,
        id: str | None = None,  # noqa: A002 - CloudEvents' own name for it
        time: datetime | float | None = None,
        traceparent: str | None = None,
    ) -> Delivery:
        """Queue an event for sending.

        Does not block, but for two cases: the first emit to a topic asks the registry (see ``prepare``), and a full
        queue, or one that is over its ``rate``, waits as the back-pressure policy says. Returning does not promise that
        the event is sent: wait for the delivery. When it raises, nothing was queued.

        Args:
            topic: a topic of the catalogue.
            value: a dict or a generated struct; ``None`` is a tombstone, for compacted topics.
            key: decides partition and order; ``None`` leaves the partition to chance. Compacted topics need one.
            headers: further headers, passed on as they are.
            id: the event's id, when it has one already (the same event emitted twice should keep it).
            time: when it happened: an aware datetime or seconds since the epoch; default now.
            traceparent: W3C trace context; default that of the active OpenTelemetry span, if there is one.

        Raises:
            InvalidValue: the value does not match the schema; ``field`` names where.
            UnknownTopic: the topic is not in the catalogue.
            RecordTooLarge: it is over ``HEADWATER_KAFKA_MAX_RECORD_BYTES``.
            UsageError: a key, header, time or traceparent of the wrong kind.
            RegistryUnavailable: the first emit to this topic, and the registry does not answer.
            Overloaded: the queue, or the spool, is full, or this would be faster than ``rate``.
            BrokerUnavailable: the broker has acknowledged nothing for ``fail_fast``.
            SpoolUnavailable: the broker is away and the spool cannot be written.
            ProducerClosed: after ``close``.
        """
        route = self._routes.get(topic) or self._open_route(topic)
        raw_key = key if key.__class__ is bytes else route.key_bytes(key)
        payload = route.encode(value) if value is not None else route.payload(value)
        if self._pace is not None:
            self._keep_pace(self._pace)
        envelope = self._envelope
        number = next(envelope.numbers)
        if headers is None and id is None and time is None and traceparent is None:
            event_id = envelope.new_id(number)
            record_headers = envelope.headers(event_id, route.ce_type)
        else:
            event_id = envelope.new_id(number) if id is None else id
            record_headers = envelope.custom_headers(event_id, route.ce_type, time, traceparent, headers)
        client = route.client
        if self._spooler is not None:
            delivery = self._spooler.send(route, event_id, payload, raw_key, record_headers)
        else:
            delivery = self._send(route, event_id, payload, raw_key, record_headers)
        if client.asleep:
            client.wake()
        if not number % _POLL_EVERY:
            client.poll()
        return delivery

    def _send(
        self, route: Route, event_id: str, value: bytes | None, key: bytes | None, headers: list[Header]
    ) -> Delivery:
        delivery = Delivery(route, event_id)
        client = route.client
        try:
            client.produce(route.topic, value, key, ANY_PARTITION, delivery.settle, None, 0, headers)
        except BufferError:
            client.produce_when_room(route.topic, value, key, headers, ANY_PARTITION, delivery.settle)
        except KafkaException as exc:
            raise translate(exc.args[0], route.topic) from exc
        return delivery

    def _keep_pace(self, pace: Pace) -> None:
        """Wait for this event's turn, as the back-pressure policy allows."""
        policy = self._settings.back_pressure
        wait = pace.take(policy.seconds if isinstance(policy, Block) and not in_event_loop() else 0.0)
        if wait is None:
            advice = "in a coroutine `await producer.drain()` between emits" if in_event_loop() else "slow down"
            raise Overloaded(f"faster than {pace.rate:g} events/s (HEADWATER_PRODUCER_RATE): {advice}")
        if wait:
            time.sleep(wait)

    def emit_raw(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: list[Header] | None = None,
        partition: int | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue a record as it is: no catalogue, no schema, no headers of ours, no metrics. For the layers above.

        Shares queue, connections and order with ``emit``. It never polls: whoever calls it in a loop calls ``poll``
        once per batch. Blocks only when the queue is full and the policy says so.

        Args:
            topic: any topic.
            value: the framed bytes; ``None`` is a tombstone.
            key: the key bytes.
            headers: all headers.
            partition: where to put it; ``None`` lets the partitioner choose by key.
            on_delivery: librdkafka's report ``(KafkaError | None, Message)``, called by the thread that polls. It must
                be short and must not raise; ``headwater_producers.border.translate`` makes the error one of ours.

        Raises:
            RecordTooLarge, Overloaded, BrokerUnavailable, ProducerClosed: as ``emit``; ``rate`` does not count here.
        """
        client = self._client
        if client.breaker is not None:
            on_delivery = _heard_by(client.breaker, on_delivery)
        where = ANY_PARTITION if partition is None else partition
        try:
            client.produce(topic, value, key, where, on_delivery, None, 0, headers)
        except BufferError:
            client.produce_when_room(topic, value, key, headers or [], where, on_delivery)
        except KafkaException as exc:
            raise translate(exc.args[0], topic) from exc
        if client.asleep:
            client.wake()

    def poll(self) -> None:
        """Serve the delivery reports that are there, in this thread; never blocks. ``emit`` does it now and then."""
        self._client.poll()

    def prepare(self, *topics: str) -> None:
        """Ask the registry for the schemas of ``topics`` now, so that their first emit does not block. Blocks.

        In a coroutine: ``await asyncio.to_thread(producer.prepare, "orders.placed")``.

        Raises:
            UnknownTopic, IncompatibleSchema, RegistryUnavailable: as the first ``emit`` would.
        """
        for topic in topics:
            if topic not in self._routes:
                self._open_route(topic)

    async def drain(self) -> None:
        """Wait until the queue has room again, and the next event is not over the ``rate``; returns at once when so.

        The back pressure of coroutines, as with ``asyncio.StreamWriter``: call it between emits. It does not wait for
        deliveries.
        """
        if self._pace is not None:
            while wait := self._pace.wait():  # noqa: ASYNC110 - time is what it waits for
                await asyncio.sleep(wait)
        await (self._client.drain() if self._spooler is None else self._spooler.drain())

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every event so far is resolved: acknowledged, spooled or failed. Blocks.

        Returning does not promise that they were acknowledged: a delivery may have failed (it is logged, and counted).

        Args:
            timeout: seconds; ``None`` waits as long as the delivery timeout lets it take.

        Raises:
            DeliveryPending: some are still on the way.
        """
        sender = self._client if self._spooler is None else self._spooler
        pending = sender.flush(self._patience(timeout))
        if pending:
            raise DeliveryPending(f"{pending} events are still on the way to the broker")

    def close(self, timeout: float | None = None) -> None:
        """Flush, then stop. What is not acknowledged in ``timeout`` seconds goes to the spool; without one it is given
        up, and its deliveries fail. Blocks.

        Closing twice is no error.

        Args:
            timeout: seconds; ``None`` waits as long as the delivery timeout lets it take.

        Raises:
            BrokerUnavailable: events were given up.
        """
        given_up = self._client.close(self._patience(timeout))
        if self._own_registry is not None:
            self._own_registry.close()
        if given_up:
            lost = ", ".join(f"{count} to {topic}" for topic, count in sorted(given_up.items()))
            raise BrokerUnavailable(f"closed with events not acknowledged: {lost}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        except BrokerUnavailable as lost:
            if exc is None:
                raise
            _log.error("%s", lost)  # the error that is under way matters more

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, exc, tb)

    def _patience(self, timeout: float | None) -> float:
        if timeout is not None:
            return timeout
        policy = self._settings.back_pressure
        # The time on top lets what happens at the limit be reported first.
        return policy.after + 5.0 if isinstance(policy, Spool) else self._settings.delivery_timeout + 1.0

    def _open_route(self, topic: str) -> Route:
        """The way to a topic, made at its first use."""
        route = Route(self._client, self._catalogue.topic(topic), self._codec)
        return self._routes.setdefault(topic, route)


def _heard_by(breaker: Breaker, report: OnDelivery | None) -> OnDelivery:
    def heard(error: Any, message: Any) -> None:
        if error is None:
            breaker.heard = True
        if report is not None:
            report(error, message)

    return heard
