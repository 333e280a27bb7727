"""Faust's producer interface on our sender."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from faust.transport import base
from faust.types import TP
from faust.types.core import HeadersArg
from faust.types.tuples import RecordMetadata
from mode import Seconds, want_seconds

from headwater_schemas.errors import HeadwaterError, Overloaded, UsageError
from headwater_schemas.partitioner import partition_for
from headwater_streams.handlers.message import Headers, Message
from headwater_streams.transport.sender import Sender
from headwater_streams.transport.topics import TopicRequest, create_topics

__all__ = ["Producer", "topic_request"]


class Producer(base.Producer):
    """Sends for Faust (``topic.send``, table changelogs) and owns the sender that handlers use too."""

    transport: Any  # the driver's; Faust's interface does not know its settings
    sender: Sender | None = None

    def started_sender(self) -> Sender:
        """The sender, started in the running loop at first use."""
        if self.sender is None:
            self.sender = Sender(
                self.transport.kafka,
                client_id=self.client_id,
                linger=self.linger_ms / 1000 or 0.005,
                on_fatal=self._crash_soon,
            )
            self.sender.start()
        return self.sender

    def _crash_soon(self, error: HeadwaterError) -> None:
        """End the worker: it would go on handling records whose copies and emits it can never send."""
        self.add_future(self.app.crash(error))

    async def on_start(self) -> None:
        self.started_sender()
        await super().on_start()

    async def on_stop(self) -> None:
        await super().on_stop()
        if self.sender is not None:
            await self.sender.close(timeout=30.0)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Hand a record over; await the result for the acknowledgement. Waits while the queue is full."""
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()

        def delivered(error: HeadwaterError | None, message: Message) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
                return
            tp = TP(message.topic(), message.partition())
            kind, at = message.timestamp()
            future.set_result(RecordMetadata(tp.topic, tp.partition, tp, message.offset(), at / 1000, kind))

        sender = self.started_sender()
        stamp = 0 if timestamp is None else int(timestamp * 1000)
        number = -1 if partition is None else partition
        while True:
            try:
                sender.send(topic, value, key, _headers(headers), number, delivered, stamp)
            except Overloaded:
                await asyncio.sleep(0.01)
            else:
                return future

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Send and wait until every in-sync replica has it."""
        return await (await self.send(topic, key, value, partition, timestamp, headers))

    async def flush(self) -> None:
        """Wait until everything handed over is acknowledged."""
        await self.buffer.flush()
        if self.sender is not None:
            while await self.sender.flush(5.0):
                self.log.warning("records still await acknowledgement")

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Where a key goes: murmur2, as every other client of the cluster has it."""
        partitions = self.app.consumer.topic_partitions(topic)
        if partitions is None:
            raise UsageError(f"topic {topic} is not known to this worker")
        return TP(topic, partition_for(key, partitions))

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Seconds = 30.0,
        retention: Seconds | None = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        """Create a topic if it does not exist."""
        request = topic_request(topic, partitions, replication, config, retention, compacting, deleting)
        await create_topics(self.transport.kafka, [request])

    def supports_headers(self) -> bool:
        return True


def topic_request(
    topic: str,
    partitions: int,
    replication: int,
    config: Mapping[str, Any] | None,
    retention: Seconds | None,
    compacting: bool | None,
    deleting: bool | None,
) -> TopicRequest:
    """Faust's arguments as a request.

    Faust's default of one replica is the brokers' default to us: of a changelog on one disk a table is lost with it.
    """
    settings = {name: str(value) for name, value in (config or {}).items()}
    if retention is not None:
        settings["retention.ms"] = str(int(want_seconds(retention) * 1000))
    policies = [name for name, wanted in (("compact", compacting), ("delete", deleting)) if wanted]
    if policies:
        settings["cleanup.policy"] = ",".join(policies)
    return TopicRequest(topic, partitions, replication if replication > 1 else -1, settings)


def _headers(headers: HeadersArg | None) -> Headers | None:
    if not headers:
        return None
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(name, value) for name, value in pairs]
