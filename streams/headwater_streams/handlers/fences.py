"""Fences: which keys have records waiting on Kafka, found again when a partition becomes ours.

A worker keeps in memory how many records of each key wait in the delay tiers and in the parking log. A restart or a
rebalance loses that memory, so whoever receives a partition first reads these topics from their committed offsets to
their ends, keys only, and knows again. Until then no record of the partition runs.

Each assignment marks what it writes to these topics (``hw-fence``). What somebody else wrote than the owner of that
time is dropped; see ``owners``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.settings import KafkaSettings
from headwater_streams.handlers.ahead import Ahead
from headwater_streams.handlers.failure import FENCE, HOLD, HOLDS, header
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.message import Message, tp_of
from headwater_streams.handlers.owners import Owners, owner_at
from headwater_streams.transport.errors import kafka_error, translate

__all__ = ["Done", "Fences", "Ranges", "ReadFences", "original_offset", "read_fences", "reading_fences"]

Done = Mapping[TP, Mapping[str, Ahead]]
Ranges = Mapping[TP, tuple[int, int]]

_IDLE_POLLS = 50


class Fences:
    """What waits on Kafka of one partition: records per handler and key, the keys that are held and by the record of
    which offset, and up to where was read.

    Args:
        epoch: what this assignment marks all with that it writes.
        done: what the last commit told of each partition, by handler: that does not wait any more.
        owners: who could write to each retry topic before us.
        ends: where each retry topic ended when we began: from there on only our mark counts.
    """

    __slots__ = ("done", "ends", "epoch", "holds", "owners", "parked", "retrying")

    def __init__(self, epoch: bytes, done: Done, owners: Mapping[TP, Owners], ends: Mapping[TP, int]) -> None:
        self.epoch = epoch
        self.done = done
        self.owners = owners
        self.ends = ends
        self.retrying: dict[str, dict[bytes, int]] = {}
        self.parked: dict[str, dict[bytes, int]] = {}
        self.holds: dict[str, dict[bytes, int]] = {}

    def add(self, message: Message, *, parked: bool) -> None:
        """Count one record. Those of the parking log must come in its order."""
        key = message.key()
        if key is None:
            return
        headers = message.headers()
        tp = tp_of(message)
        handler = (header(headers, wire.HW_HANDLER) or b"").decode("utf-8", "replace")
        done = self.done_of(handler, tp)
        if (done is not None and message.offset() in done) or self.is_stale(message, tp):
            return
        keys = (self.parked if parked else self.retrying).setdefault(handler, {})
        keys[key] = keys.get(key, 0) + 1
        hold = header(headers, HOLD)
        if hold is None or not parked:
            return
        holds = self.holds.setdefault(handler, {})
        if hold == HOLDS:
            holds[key] = original_offset(message)
        elif holds.get(key) == original_offset(message):
            del holds[key]

    def done_of(self, handler: str, tp: TP) -> Ahead | None:
        """What of a partition the handler has settled beyond the committed offset."""
        return self.done.get(tp, {}).get(handler)

    def is_stale(self, message: Message, tp: TP) -> bool:
        """Whether this record of a retry topic was written by somebody who was not the owner: drop it.

        That worker could not commit that the source of the copy is settled, so the source is read again. Run as well,
        an old event would come after newer ones, or, if some of its copies were dropped before, a newer one first.
        What an operator redrove has no mark and is never stale.
        """
        mark = header(message.headers(), FENCE)
        if mark is None:
            return False
        if message.offset() >= self.ends.get(tp, 0):
            return mark != self.epoch
        owner = owner_at(self.owners.get(tp, ()), message.offset())
        return owner is not None and mark != owner


ReadFences = Callable[[Family, Fences, Ranges], Awaitable[Fences]]
"""Fills empty fences with what waits in these ranges of a family's retry topics, and gives them back."""


def original_offset(message: Message) -> int:
    """The offset that a record of a retry topic had in the topic itself; -1 when it does not say."""
    raw = header(message.headers(), wire.HW_ORIGINAL_OFFSET)
    return int(raw) if raw is not None and raw.isdigit() else -1


def reading_fences(kafka: KafkaSettings, isolation: str = "read_committed") -> ReadFences:
    """``read_fences`` of these brokers, off the loop."""

    async def read(family: Family, fences: Fences, ranges: Ranges) -> Fences:
        return await asyncio.to_thread(read_fences, kafka, family, fences, ranges, isolation)

    return read


def read_fences(kafka: KafkaSettings, family: Family, fences: Fences, ranges: Ranges, isolation: str) -> Fences:
    """Fill empty ``fences`` with what waits in ``ranges`` (first and end offset of each tier and parking partition).
    Blocks; run it in a thread.

    Raises:
        BrokerUnavailable: the log could not be read to its end.
    """
    wanted = {tp: bounds for tp, bounds in ranges.items() if bounds[0] < bounds[1]}
    if not wanted:
        return fences
    consumer = Consumer(
        {
            **kafka.client_config(),
            "group.id": family.group,  # neither joined nor committed to, but one that ACLs allow us
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # librdkafka's 500 ms is how long the end of a partition would take to show
        }
    )
    try:
        consumer.assign([TopicPartition(tp.topic, tp.partition, start) for tp, (start, _) in wanted.items()])
        _read(consumer, family, wanted, fences)
    except KafkaException as exc:
        raise translate(kafka_error(exc), f"reading what waits of {family.topic}") from exc
    finally:
        consumer.close()
    return fences


def _read(consumer: Consumer, family: Family, wanted: Mapping[TP, tuple[int, int]], fences: Fences) -> None:
    unfinished = set(wanted)
    idle = 0
    while unfinished:
        messages = consumer.consume(5_000, 0.2)
        idle = 0 if messages else idle + 1
        if idle > _IDLE_POLLS:
            raise BrokerUnavailable(f"the brokers stopped answering while {sorted(unfinished)} was read")
        for message in messages:
            topic, number, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert number is not None
            tp = TP(topic, number)
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise translate(error, f"reading what waits of {topic}[{number}]")
                unfinished.discard(tp)
                continue
            assert offset is not None
            if offset >= wanted[tp][1]:
                unfinished.discard(tp)
                continue
            fences.add(cast("Message", message), parked=topic == family.parked)
            if offset + 1 >= wanted[tp][1]:
                unfinished.discard(tp)
