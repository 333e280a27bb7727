"""A log in memory: topics of partitions of records, and the committed offsets of one group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from faust.types import TP

from headwater_schemas.clock import Clock
from headwater_schemas.errors import HeadwaterError, UnknownTopic
from headwater_schemas.partitioner import partition_for
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.fences import Fences, Ranges
from headwater_streams.handlers.message import Headers, Message

__all__ = ["MemoryBroker", "MemoryMessage"]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryMessage:
    """A record of the memory log, with librdkafka's accessors."""

    _topic: str
    _partition: int
    _offset: int
    _key: bytes | None
    _value: bytes | None
    _headers: Headers = field(default_factory=list)
    _timestamp: int = 0

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Headers | None:
        return list(self._headers) or None

    def timestamp(self) -> tuple[int, int]:
        return 1, self._timestamp

    def error(self) -> None:
        return None


class MemoryBroker:
    """Keeps every record for ever. ``refuse`` makes a topic unwritable and ``hold`` keeps acknowledgements back, as a
    broker may.

    It is also the one member of the one group: what ``GroupConsumer`` is to Kafka.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.topics: dict[str, list[list[MemoryMessage]]] = {}
        self.offsets: dict[TP, int] = {}
        self.told: dict[TP, str] = {}
        self.paused: set[TP] = set()
        self._refusals: dict[str, HeadwaterError] = {}
        self._held: dict[str, list[Callable[[], None]]] = {}
        self._round_robin = 0

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic, if it is not there."""
        self.topics.setdefault(topic, [[] for _ in range(partitions)])

    def refuse(self, topic: str, error: HeadwaterError | None) -> None:
        """Answer every record for ``topic`` with ``error`` from now on; ``None`` accepts again."""
        if error is None:
            self._refusals.pop(topic, None)
        else:
            self._refusals[topic] = error

    def hold(self, topic: str) -> None:
        """Take records for ``topic`` from now on, and acknowledge none until ``acknowledge``."""
        self._held.setdefault(topic, [])

    def acknowledge(self, topic: str) -> None:
        """Acknowledge what was held, and hold no more."""
        for deliver in self._held.pop(topic, []):
            deliver()

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        on_delivery: Callable[[HeadwaterError | None, Message], None] | None = None,
    ) -> None:
        """Append a record; the acknowledgement comes in the loop's next step, as from a broker it comes later."""
        if topic not in self.topics:
            raise UnknownTopic(f"{topic} does not exist in the memory broker: create it first")
        log = self.topics[topic]
        if partition < 0:
            if key is None:
                self._round_robin += 1
            partition = self._round_robin % len(log) if key is None else partition_for(key, len(log))
        refusal = self._refusals.get(topic)
        offset = len(log[partition])
        stamp = int(self._clock.time() * 1000)
        message = MemoryMessage(topic, partition, offset, key, value, _raw(headers), stamp)
        if refusal is None:
            log[partition].append(message)
        if on_delivery is not None and topic in self._held:
            self._held[topic].append(partial(on_delivery, refusal, message))
        elif on_delivery is not None:
            asyncio.get_running_loop().call_soon(on_delivery, refusal, message)

    def records(self, topic: str) -> list[MemoryMessage]:
        """Every record of a topic, partition after partition."""
        return [message for partition in self.topics.get(topic, []) for message in partition]

    def fetch(self, tp: TP, position: int, limit: int) -> list[Message]:
        """Up to ``limit`` records from ``position``; none while the partition is paused."""
        return [] if tp in self.paused else list(self.topics[tp.topic][tp.partition][position : position + limit])

    # -- the group ------------------------------------------------------------------------------------------------

    def pause(self, partitions: Iterable[TP]) -> None:
        self.paused.update(partitions)

    def resume(self, partitions: Iterable[TP]) -> None:
        self.paused.difference_update(partitions)

    @property
    def ask(self) -> MemoryBroker:
        return self

    async def watermarks(self, partitions: Collection[TP]) -> dict[TP, tuple[int, int]]:
        return {tp: (0, len(self.topics[tp.topic][tp.partition])) for tp in partitions}

    async def committed_told(self, partitions: Collection[TP]) -> tuple[dict[TP, int | None], dict[TP, str]]:
        return {tp: self.offsets.get(tp) for tp in partitions}, {tp: self.told.get(tp, "") for tp in partitions}

    def commit_soon(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> bool:
        self.offsets.update(offsets)
        self.told.update({tp: told.get(tp, "") for tp in offsets})
        return True

    async def commit_told(self, offsets: Mapping[TP, int], told: Mapping[TP, str]) -> None:
        self.commit_soon(offsets, told)

    async def fences(self, family: Family, fences: Fences, ranges: Ranges) -> Fences:
        """What ``read_fences`` finds on Kafka."""
        for tp, (start, end) in ranges.items():
            for message in self.topics[tp.topic][tp.partition][start:end]:
                fences.add(message, parked=tp.topic == family.parked)
        return fences


def _raw(headers: Any) -> Headers:
    """Headers as the broker gives them back: bytes."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers or []]
