"""Which tasks are to be cancelled: every worker reads the whole control topic from its beginning, and reads on.

A worker that begins to run tasks must know every cancellation that was asked for before, whoever handled it then, so
there is nothing to commit and no group. Cancellations are few; one costs about 100 bytes until the topic forgets it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Final, Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from headwater_schemas.codec import Codec
from headwater_schemas.errors import BadRecord, BrokerUnavailable, Unavailable, UnknownTopic
from headwater_schemas.events import TaskCancelRequested
from headwater_schemas.settings import KafkaSettings
from headwater_tasks.changes import CONTROL

__all__ = ["Cancellations", "KnownCancellations", "LoggedCancellations"]

logger = logging.getLogger(__name__)

_TOGETHER: Final = 500
_PATIENCE: Final = 10.0


class Cancellations(Protocol):
    """What a worker asks."""

    def add(self, request: TaskCancelRequested) -> None:
        """Remember one that came another way."""
        ...

    def of(self, task_id: str, run: int) -> TaskCancelRequested | None:
        """The request to cancel this run of a task, if there is one."""
        ...

    async def caught_up(self) -> None:
        """Wait until every request is known that was on the log when this worker started.

        Raises:
            BrokerUnavailable: the log cannot be read now.
        """
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class KnownCancellations:
    """Those that were added, no more: the memory behind the log, and enough for tests without one."""

    def __init__(self) -> None:
        self._requests: dict[str, TaskCancelRequested] = {}

    def add(self, request: TaskCancelRequested) -> None:
        known = self._requests.get(request.id)
        if known is None or known.run < request.run:
            self._requests[request.id] = request

    def of(self, task_id: str, run: int) -> TaskCancelRequested | None:
        request = self._requests.get(task_id)
        return request if request is not None and request.run >= run else None

    async def caught_up(self) -> None:
        return

    def close(self) -> None:
        return


class LoggedCancellations(KnownCancellations):
    """Reads the control topic in a thread that starts with the first ``caught_up``."""

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        super().__init__()
        self._kafka = kafka
        self._decode = codec.decoder(CONTROL, TaskCancelRequested)
        self._thread: threading.Thread | None = None
        self._read = threading.Event()
        self._stopping = threading.Event()
        self._ready = False

    async def caught_up(self) -> None:
        if self._ready:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="headwater-cancellations", daemon=True)
            self._thread.start()
        if not await asyncio.to_thread(self._read.wait, _PATIENCE):
            raise BrokerUnavailable(f"{CONTROL} could not be read to its end in {_PATIENCE:.0f} s")
        self._ready = True

    def close(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except (KafkaException, UnknownTopic, Unavailable) as exc:
                # From the beginning again: what is known stays known, and repeats do no harm.
                logger.warning("cancellations cannot be read now, and are read again in a second: %s", exc)
                self._stopping.wait(1.0)

    def _follow(self) -> None:
        client = Consumer(
            {
                **self._kafka.client_config(),
                "group.id": "headwater-cancellations",  # librdkafka wants one; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            }
        )
        try:
            unread = self._partitions(client)
            client.assign([TopicPartition(CONTROL, number, OFFSET_BEGINNING) for number in unread])
            while not self._stopping.is_set():
                for message in client.consume(_TOGETHER, timeout=0.1):
                    self._take(message, unread)
                if not unread:
                    self._read.set()
        finally:
            client.close()

    @staticmethod
    def _partitions(client: Consumer) -> set[int]:
        topic = client.list_topics(CONTROL, timeout=_PATIENCE).topics.get(CONTROL)
        if topic is None or topic.error is not None:
            raise UnknownTopic(f"no topic {CONTROL}; run `headwater topics apply`")
        return set(topic.partitions)

    def _take(self, message: Any, unread: set[int]) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            elif error.fatal():
                raise KafkaException(error)
            else:
                logger.warning("reading %s: %s", CONTROL, error)
            return
        try:
            request = self._decode(message.value())
        except BadRecord as exc:
            logger.error("%s[%d]@%d is no cancellation: %s", CONTROL, message.partition(), message.offset(), exc)
        else:
            if request is not None:
                self.add(request)
