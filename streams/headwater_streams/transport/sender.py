"""The producing half: an idempotent librdkafka producer whose acknowledgements reach the loop in batches.

One thread serves delivery reports. It gathers all that one poll brings and wakes the loop once for them, so an
acknowledgement costs an append, not a wake-up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from confluent_kafka import KafkaError, KafkaException, Producer

from headwater_schemas.errors import HeadwaterError, Overloaded
from headwater_schemas.settings import KafkaSettings
from headwater_streams.handlers.message import Headers, Message
from headwater_streams.transport.complaints import Complaints
from headwater_streams.transport.errors import kafka_error, translate

__all__ = ["Sender"]

logger = logging.getLogger(__name__)

OnDelivery = Callable[[HeadwaterError | None, Message], None]


class Sender:
    """Sends raw records, acks=all and idempotent: order per partition holds through every retry.

    Args:
        kafka: how to reach the brokers.
        linger: seconds that a record may wait for company in its batch.
        queue_records: records that may await acknowledgement; beyond it ``send`` raises ``Overloaded``.
        overrides: further librdkafka properties.
        on_fatal: told in the loop when nothing more can be sent by this client, ever.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        client_id: str,
        linger: float = 0.005,
        queue_records: int = 100_000,
        overrides: Mapping[str, str | int | float | bool] | None = None,
        on_fatal: Callable[[HeadwaterError], None] | None = None,
    ) -> None:
        self._config: dict[str, Any] = {
            **kafka.client_config(),
            "client.id": client_id,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": linger * 1000,
            "compression.type": "lz4",
            "message.max.bytes": max(kafka.max_record_bytes * 2, 2_000_000),
            "queue.buffering.max.messages": queue_records,
            # A record that we accepted waits as long as the broker is away: giving it up would lose or reorder it.
            "message.timeout.ms": 0,
            "error_cb": self._on_error,
            "log_level": 0,  # what matters comes by the error callback
            "logger": logger,
            **(overrides or {}),
        }
        self._on_fatal = on_fatal
        self._producer: Producer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._complaints = Complaints("producer")
        # A deque: one thread appends while another takes, and neither may miss a report.
        self._reports: deque[tuple[OnDelivery, KafkaError | None, Message]] = deque()

    @property
    def raw(self) -> Producer:
        """The librdkafka producer (transactions need it)."""
        assert self._producer is not None, "start() first"
        return self._producer

    def start(self) -> None:
        """Create the client in the running loop and start its delivery thread. Does not connect."""
        self._loop = asyncio.get_running_loop()
        try:
            self._producer = Producer(self._config)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "configuring the Kafka producer") from exc
        self._thread = threading.Thread(target=self._serve, name="headwater-delivery", daemon=True)
        self._thread.start()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        on_delivery: OnDelivery | None = None,
        timestamp: int = 0,
    ) -> None:
        """Hand one record to librdkafka. Returns at once; it is on the log only when ``on_delivery`` says so.

        Args:
            partition: -1 lets the key decide (murmur2, as the Java client).
            on_delivery: called in the loop, with ``None`` or the error.
            timestamp: milliseconds; 0 means now.

        Raises:
            Overloaded: the queue is full; await some acknowledgements and call again.
            RecordTooLarge: the record is over the client's limit.
        """
        callback = None
        if on_delivery is not None:
            reports = self._reports

            def callback(error: KafkaError | None, message: Any) -> None:
                reports.append((on_delivery, error, message))

        try:
            self.raw.produce(
                topic,
                value,
                key,
                partition,
                on_delivery=callback,
                timestamp=timestamp,
                headers=cast("Any", headers),
            )
        except BufferError as exc:
            raise Overloaded(f"the producer queue is full while sending to {topic}") from exc
        except KafkaException as exc:
            raise translate(kafka_error(exc), f"sending to {topic}") from exc

    async def send_and_wait(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        timestamp: int = 0,
    ) -> Message:
        """Send one record and wait until every in-sync replica has it.

        Raises:
            HeadwaterError: it is not on the log (see ``send``), or the broker refused it for good.
        """
        assert self._loop is not None, "start() first"
        future: asyncio.Future[Message] = self._loop.create_future()

        def delivered(error: HeadwaterError | None, message: Message) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(message)
            else:
                future.set_exception(error)

        while True:
            try:
                self.send(topic, value, key, headers, partition, delivered, timestamp)
            except Overloaded:
                await asyncio.sleep(0.01)
            else:
                return await future

    async def flush(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds until nothing awaits acknowledgement; returns how many still do."""
        assert self._loop is not None, "start() first"
        left = await self._loop.run_in_executor(None, self._flush, timeout)
        self._dispatch()
        return left

    def _flush(self, timeout: float) -> int:
        try:
            return self.raw.flush(timeout)
        except KafkaException:
            return len(self.raw)  # a fatal error, told by the error callback: nothing more will be sent

    async def close(self, timeout: float) -> None:
        """Flush and stop the delivery thread. What the broker did not acknowledge in time is logged as not sent."""
        if self._producer is None or self._stopping:
            return
        left = await self.flush(timeout)
        self._stopping = True
        assert self._loop is not None
        assert self._thread is not None
        await self._loop.run_in_executor(None, self._thread.join)
        self._dispatch()
        if left:
            logger.error("%d records were not acknowledged within %.1f s and are not on the log", left, timeout)

    def _serve(self) -> None:
        assert self._producer is not None
        assert self._loop is not None
        while not self._stopping:
            try:
                self._producer.poll(0.1)
            except KafkaException:
                time.sleep(0.1)  # a fatal error, told by the error callback; reports of what is given up still come
            if self._reports:
                try:
                    self._loop.call_soon_threadsafe(self._dispatch)
                except RuntimeError:
                    return  # the loop is closed: nobody is left to tell

    def _dispatch(self) -> None:
        while self._reports:
            on_delivery, error, message = self._reports.popleft()
            on_delivery(None if error is None else translate(error, f"sending to {message.topic()}"), message)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            logger.critical("the Kafka producer cannot go on: %s (%s)", error.str(), error.name())
            if self._on_fatal is not None and self._loop is not None:
                self._loop.call_soon_threadsafe(self._on_fatal, translate(error, "producing"))
        else:
            self._complaints.add(error)
