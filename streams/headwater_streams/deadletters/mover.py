"""Writing records and the audit entry that tells of them in one transaction: both are on the log, or neither is.

So an interrupted redrive repeats nothing when it is run again, and two redrives of one topic cannot both move a letter:
the second takes over the topic's transactional id, which ends the first (Kafka's producer fencing, KIP-98).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from headwater_schemas.errors import BrokerUnavailable, UsageError
from headwater_schemas.settings import KafkaSettings
from headwater_streams.handlers.message import Headers
from headwater_streams.transport.errors import Fenced, kafka_error, translate

__all__ = ["Move", "Mover", "TakenOver"]

logger = logging.getLogger(__name__)

_ANSWER = 15.0  # seconds for one step of a transaction; a crash leaves it open for as long, and holds readers up
_COMMIT_TRIES = 4


class TakenOver(UsageError):
    """Another redrive, edit or purge of the same topic has begun; this one has ended. What it did before stands."""


@dataclass(frozen=True, slots=True)
class Move:
    """A record to write."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Mover:
    """The one writer for one dead-letter topic. Blocks. Close it.

    Args:
        kafka: how to reach the brokers; the user needs the right to write to the transactional id ``headwater.dlq.*``.
        topic: the dead-letter topic whose records are moved.

    Raises:
        BrokerUnavailable: no answer within 15 s.
        NotPermitted: no right to the transactional id.
    """

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                **kafka.client_config(),
                "transactional.id": f"headwater.dlq.{topic}",
                "transaction.timeout.ms": int(_ANSWER * 1000),
                "delivery.timeout.ms": int(_ANSWER * 1000),
                "compression.type": "lz4",
                "message.max.bytes": max(kafka.max_record_bytes * 2, 2_000_000),
                "logger": logger,
            }
        )
        self._step("begin to move letters", self._producer.init_transactions, _ANSWER)

    def move(self, moves: Sequence[Move], entry: Callable[[list[int]], Move]) -> list[int]:
        """Write records, then the audit entry that ``entry`` makes of their offsets; returns the offsets.

        Raises:
            TakenOver: somebody else moves letters of this topic now; nothing of this call is written.
            BrokerUnavailable: not known to be written. Read the audit again before going on.
            RecordTooLarge: the brokers refuse a record; nothing of this call is written.
        """
        delivered: dict[int, Any] = {}
        self._step("begin a transaction", self._producer.begin_transaction)
        try:
            for index, record in enumerate(moves):
                self._send(record, _reporting(delivered, index))
            self._flush()
            offsets = [self._offset(delivered.get(index)) for index in range(len(moves))]
            self._send(entry(offsets), _reporting(delivered, -1))
            self._flush()
            self._offset(delivered.get(-1))
        except BaseException:
            self._abort()
            raise
        self._commit()
        return offsets

    def close(self) -> None:
        """Let go of the connection. A transaction that is open is given up."""
        self._producer.purge()
        self._producer.flush(0)

    def _send(self, record: Move, on_delivery: Callable[..., None]) -> None:
        headers: Any = record.headers
        while True:
            try:
                self._producer.produce(
                    record.topic, record.value, record.key, record.partition, headers=headers, on_delivery=on_delivery
                )
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as exc:
                raise self._translated(kafka_error(exc), f"writing to {record.topic}") from exc

    def _flush(self) -> None:
        try:
            left = self._producer.flush(_ANSWER)
        except KafkaException as exc:  # a client that was fenced says so here
            raise self._translated(kafka_error(exc), f"moving letters of {self._topic}") from exc
        if left:
            raise BrokerUnavailable(f"moving letters of {self._topic}: no acknowledgement within {_ANSWER:.0f} s")

    def _offset(self, report: Any) -> int:
        if report is None:
            raise BrokerUnavailable(f"moving letters of {self._topic}: a record was not acknowledged")
        if isinstance(report, KafkaError):
            raise self._translated(report, f"moving letters of {self._topic}")
        offset: int = report.offset()
        return offset

    def _commit(self) -> None:
        for left in reversed(range(_COMMIT_TRIES)):
            try:
                self._producer.commit_transaction(_ANSWER)
                return
            except KafkaException as exc:
                error = kafka_error(exc)
                if left and error.retriable():
                    continue  # asking again is the protocol: the outcome is not known yet
                if error.txn_requires_abort():
                    self._abort()
                raise self._translated(error, f"committing what was moved of {self._topic}") from exc

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(_ANSWER)
        except KafkaException as exc:
            # The brokers abort it themselves after its time-out; what made us abort is the error to tell.
            logger.debug("aborting a transaction on %s: %s", self._topic, exc)

    def _step(self, doing: str, call: Callable[..., None], *args: float) -> None:
        try:
            call(*args)
        except KafkaException as exc:
            raise self._translated(kafka_error(exc), f"{doing} of {self._topic}") from exc

    def _translated(self, error: KafkaError, doing: str) -> Exception:
        translated = translate(error, doing)
        if isinstance(translated, Fenced) or error.code() == KafkaError.INVALID_PRODUCER_EPOCH:
            return TakenOver(
                f"somebody else moves dead letters of {self._topic} now; run this again when they are done"
            )
        return translated


def _reporting(delivered: dict[int, Any], index: int) -> Callable[[KafkaError | None, Any], None]:
    """A delivery callback that keeps the error, or else the message."""

    def report(error: KafkaError | None, message: Any) -> None:
        delivered[index] = message if error is None else error

    return report
