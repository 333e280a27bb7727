"""What a group member asks the brokers about partitions. All is asked on its poll thread, between two polls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition
from faust.types import TP

from headwater_streams.transport.errors import kafka_error, translate

__all__ = ["Questions"]

T = TypeVar("T")


class PollThread(Protocol):
    """Runs a function there and waits for its result."""

    def __call__(self, fun: Callable[..., T], *args: object) -> Coroutine[Any, Any, T]: ...


class Questions:
    """Each waits for its answer; a poll that finds nothing makes way within milliseconds, a rebalance does not.

    Args:
        call: runs a function on the poll thread.
        raw: the client of the moment.
    """

    def __init__(self, call: PollThread, raw: Callable[[], Consumer]) -> None:
        self._call = call
        self._raw = raw

    async def committed(self, partitions: Collection[TP], timeout: float = 10.0) -> dict[TP, int | None]:
        """The group's committed offset of each partition; ``None`` where it never committed.

        Raises:
            BrokerUnavailable: no answer within ``timeout`` seconds.
        """
        offsets, _ = await self.committed_told(partitions, timeout)
        return offsets

    async def committed_told(
        self, partitions: Collection[TP], timeout: float = 10.0
    ) -> tuple[dict[TP, int | None], dict[TP, str]]:
        """``committed``, and the metadata of the same commits.

        Raises:
            BrokerUnavailable: no answer within ``timeout`` seconds.
        """
        answer = await self._call(self._ask_committed, partitions, timeout)
        offsets = {TP(tp.topic, tp.partition): tp.offset if tp.offset >= 0 else None for tp in answer}
        return offsets, {TP(tp.topic, tp.partition): tp.metadata or "" for tp in answer}

    def _ask_committed(self, partitions: Collection[TP], timeout: float) -> list[TopicPartition]:
        wanted = [TopicPartition(tp.topic, tp.partition) for tp in partitions]
        if not wanted:
            return []
        try:
            return self._raw().committed(wanted, timeout)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "reading committed offsets") from exc

    async def watermarks(self, partitions: Collection[TP], timeout: float = 10.0) -> dict[TP, tuple[int, int]]:
        """The first and the next offset of each partition, asked from the brokers.

        Raises:
            BrokerUnavailable: no answer within ``timeout`` seconds.
        """
        return await self._call(self._watermarks, partitions, timeout)

    def _watermarks(self, partitions: Collection[TP], timeout: float) -> dict[TP, tuple[int, int]]:
        first = self._edges(partitions, OFFSET_BEGINNING, timeout)
        following = self._edges(partitions, OFFSET_END, timeout)
        return {tp: (first[tp], following[tp]) for tp in partitions}

    def _edges(self, partitions: Collection[TP], edge: int, timeout: float) -> dict[TP, int]:
        """As times, the edges of a log are their numbers."""
        return self._at([TopicPartition(tp.topic, tp.partition, edge) for tp in partitions], timeout)

    def _at(self, times: list[TopicPartition], timeout: float) -> dict[TP, int]:
        """The offset at a time of each partition, given as its offset. One request to each leader asks for all."""
        if not times:
            return {}
        try:
            answer = self._raw().offsets_for_times(times, timeout)
        except KafkaException as exc:
            raise translate(kafka_error(exc), "asking for offsets by time") from exc
        for tp in answer:
            if tp.error is not None:
                raise translate(tp.error, f"reading the offsets of {tp.topic}[{tp.partition}]")
        return {TP(tp.topic, tp.partition): tp.offset for tp in answer}

    async def offsets_since(self, partitions: Iterable[TP], since: float, timeout: float = 10.0) -> dict[TP, int]:
        """The offset of the first record at or after ``since`` (seconds since the epoch); the end if there is none.

        Raises:
            BrokerUnavailable: no answer within ``timeout`` seconds.
        """
        return await self._call(self._offsets_since, partitions, since, timeout)

    def _offsets_since(self, partitions: Iterable[TP], since: float, timeout: float) -> dict[TP, int]:
        found = self._at([TopicPartition(tp.topic, tp.partition, int(since * 1000)) for tp in partitions], timeout)
        ends = self._edges([tp for tp, offset in found.items() if offset < 0], OFFSET_END, timeout)
        return found | ends

    async def positions(self, partitions: Collection[TP]) -> dict[TP, int]:
        """The offset after the last record that ``consume`` returned; negative where nothing was returned yet."""
        return await self._call(self._positions, partitions)

    def _positions(self, partitions: Collection[TP]) -> dict[TP, int]:
        answer = self._raw().position([TopicPartition(tp.topic, tp.partition) for tp in partitions])
        return {TP(tp.topic, tp.partition): tp.offset for tp in answer}
