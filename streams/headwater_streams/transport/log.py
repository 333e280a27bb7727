"""The log, looked at from outside any group: where partitions begin and end, and what stands in them.

For operators' tools. Nothing is committed and no group is joined, so no worker is disturbed. Everything blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin._listoffsets import OffsetSpec
from faust.types import TP

from headwater_schemas.admin import Admin
from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, UnknownTopic, UsageError
from headwater_schemas.settings import KafkaSettings
from headwater_streams.handlers.message import Message
from headwater_streams.transport.errors import answer_of, kafka_error, translate

__all__ = ["Log", "Span", "tell"]

Span = tuple[int, int]
"""From the first offset up to, not including, the second."""

_ANSWER = 15.0  # seconds that the brokers may take for one answer
_BATCH = 2_000
_WAIT = 0.2  # seconds for the first record of a batch
_TO_THE_END = {"fetch.wait.max.ms": 10}  # librdkafka's 500 ms is how long the end of a partition would take to show
_LITTLE = {"fetch.message.max.bytes": 1024, "queued.min.messages": 1, "fetch.queue.backoff.ms": 10}
_Spec: Any = OffsetSpec  # its methods carry no types


class Log:
    """The brokers' topics, read committed. Use it in one thread. Holds no connection that must be closed.

    Args:
        kafka: how to reach the brokers.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self.admin = Admin(kafka)

    def topics(self) -> dict[str, int]:
        """The number of partitions of every topic.

        Raises:
            BrokerUnavailable: no answer within 15 s.
        """
        try:
            metadata = self.admin.cluster(_ANSWER)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "asking for the cluster's topics") from exc
        return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}

    def partitions(self, topic: str) -> list[TP]:
        """The partitions of one topic.

        Raises:
            UnknownTopic: the brokers do not have it.
        """
        count = self.topics().get(topic)
        if count is None:
            raise UnknownTopic(f"the brokers have no topic {topic}: see `headwater topics list`")
        return [TP(topic, number) for number in range(count)]

    def starts(self, partitions: Collection[TP]) -> dict[TP, int]:
        """The first offset that is still there, by partition."""
        return self._offsets({tp: _Spec.earliest() for tp in partitions})

    def ends(self, partitions: Collection[TP], *, committed: bool = False) -> dict[TP, int]:
        """The offset that the next record will get, by partition.

        Args:
            committed: up to the first transaction that is still open instead, which is as far as ``read`` comes.
        """
        return self._offsets({tp: _Spec.latest() for tp in partitions}, committed)

    def at(self, partitions: Collection[TP], time: float) -> dict[TP, int]:
        """The offset of the first record that was written at or after ``time`` (seconds since the epoch), else the end.

        By the records' own timestamps, which producers set: with a skewed clock, or events of the past, not by arrival.
        """
        found = self._offsets({tp: _Spec.for_timestamp(int(time * 1000)) for tp in partitions})
        missing = [tp for tp, offset in found.items() if offset < 0]
        return found | (self.ends(missing) if missing else {})

    def read(self, spans: Mapping[TP, Span]) -> Iterator[Message]:
        """Every record of these spans, in offset order within a partition. Ends; skips what is no longer there.

        Raises:
            BrokerUnavailable: the log could not be read to the end of the spans; what came before is right.
        """
        unfinished = {tp: end for tp, (start, end) in spans.items() if start < end}
        if not unfinished:
            return
        consumer = self._consumer({tp: spans[tp][0] for tp in unfinished}, _TO_THE_END)
        try:
            yield from self._through(consumer, unfinished)
        finally:
            consumer.close()

    def _through(
        self, consumer: Consumer, unfinished: dict[TP, int], refused: dict[TP, UsageError] | None = None
    ) -> Iterator[Message]:
        """What the consumer reads, until ``unfinished`` (partition to end) is empty; takes out what is finished."""
        silent = 0.0
        while unfinished:
            messages = _fetched(consumer)
            silent = 0.0 if messages else silent + _WAIT
            if silent > _ANSWER:
                raise BrokerUnavailable(f"the brokers stopped answering while {sorted(unfinished)} was read")
            yield from self._until_the_end(messages, unfinished, refused)

    def _until_the_end(
        self, messages: list[Any], unfinished: dict[TP, int], refused: dict[TP, UsageError] | None
    ) -> Iterator[Message]:
        for message in messages:
            tp = TP(message.topic(), message.partition())
            try:
                if not _is_record(message):
                    unfinished.pop(tp, None)  # the end, as far as committed records go
                    continue
            except UsageError as exc:
                if refused is None or message.topic() is None:  # what is of no partition is of all
                    raise
                refused[tp] = exc
                unfinished.pop(tp, None)
                continue
            end = unfinished.get(tp, 0)
            if message.offset() + 1 >= end:
                unfinished.pop(tp, None)
            if message.offset() < end:
                yield cast("Message", message)

    def first(self, spans: Mapping[TP, Span], *, refused: dict[TP, UsageError] | None = None) -> dict[TP, Message]:
        """The first record of each span; absent where the span has none (compacted away, or transaction markers only).

        Fetches little more than these records.

        Args:
            refused: a partition that cannot be read, for a missing right say, is put here with its error and the
                others are read; ``None`` raises it.

        Raises:
            BrokerUnavailable: the brokers stopped answering.
            UsageError: NotPermitted, UnknownTopic: see ``refused``.
        """
        unfinished = {tp: end for tp, (start, end) in spans.items() if start < end}
        found: dict[TP, Message] = {}
        if not unfinished:
            return found
        starts = {tp: spans[tp][0] for tp in unfinished}
        consumer = self._consumer(starts, _TO_THE_END | _LITTLE)
        try:
            for message in self._through(consumer, unfinished, refused):
                tp = TP(message.topic(), message.partition())
                if found.setdefault(tp, message) is message:
                    unfinished.pop(tp, None)
                    consumer.pause([TopicPartition(*tp)])
        finally:
            consumer.close()
        return found

    def committed(self, group: str, partitions: Collection[TP]) -> dict[TP, int]:
        """The offsets that a group has committed; absent where it has none.

        Raises:
            BrokerUnavailable: no answer within 15 s.
        """
        if not partitions:
            return {}
        asked = self.admin.group_offsets(group, [TopicPartition(*tp) for tp in partitions])
        found = answer_of(asked, f"asking for the offsets of {group}", _ANSWER).topic_partitions
        return {TP(position.topic, position.partition): position.offset for position in found if position.offset >= 0}

    def follow(self, starts: Mapping[TP, int]) -> Iterator[Message]:
        """Every record from these offsets on, and those to come. Does not end."""
        consumer = self._consumer(starts, {})
        try:
            while True:
                for message in _fetched(consumer):
                    if _is_record(message):
                        yield cast("Message", message)
        finally:
            consumer.close()

    def _consumer(self, starts: Mapping[TP, int], overrides: Mapping[str, int]) -> Consumer:
        consumer = Consumer(
            {
                **self._kafka.client_config(),
                "group.id": "headwater-log",  # librdkafka wants one; it is neither joined nor committed to
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "max.poll.interval.ms": 86_400_000,  # a slow reader of a log disturbs nobody
                **overrides,
            }
        )
        consumer.assign([TopicPartition(tp.topic, tp.partition, offset) for tp, offset in starts.items()])
        return consumer

    def _offsets(self, wanted: Mapping[TP, Any], committed: bool = False) -> dict[TP, int]:
        if not wanted:
            return {}
        asked = {TopicPartition(tp.topic, tp.partition): spec for tp, spec in wanted.items()}
        found: dict[TP, int] = {}
        isolation = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        answers = self.admin.list_offsets(asked, isolation_level=isolation, request_timeout=_ANSWER)
        for position, answer in answers.items():
            doing = f"asking for offsets of {position.topic}[{position.partition}]"
            found[TP(position.topic, position.partition)] = answer_of(answer, doing, _ANSWER).offset
        return found


def tell(refused: Mapping[TP, UsageError], failed: list[HeadwaterError] | None) -> None:
    """Put into ``failed`` one error for each topic of which partitions could not be read; raise it for ``None``."""
    errors = list({tp.topic: error for tp, error in refused.items()}.values())
    if failed is not None:
        failed += errors
    elif errors:
        raise errors[0]


def _fetched(consumer: Consumer) -> list[Any]:
    """What is there; librdkafka's own ``consume`` would wait the whole time for a full batch."""
    messages = consumer.consume(_BATCH, 0)
    if not messages and (first := consumer.poll(_WAIT)) is not None:
        messages = [first, *consumer.consume(_BATCH - 1, 0)]
    return [message for message in messages if not _of_the_group(message)]


def _of_the_group(message: Any) -> bool:
    """Whether it tells that we may not use the group that librdkafka wanted and nobody uses."""
    error = message.error()
    return error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def _is_record(message: Any) -> bool:
    """Whether it is a record; else it tells the end of a partition.

    Raises:
        HeadwaterError: it tells an error.
    """
    error = message.error()
    if error is None:
        return True
    if error.code() != KafkaError._PARTITION_EOF:
        raise translate(error, f"reading {message.topic()}[{message.partition()}]")
    return False
