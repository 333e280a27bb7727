"""Lanes: one per key that is busy. They hold the order of a key through everything that can befall its records.

A key's records can be in five places. From oldest to newest:

    running     with the handler, or just failed and on the way to a delay tier or the dead letters
    due         back from a delay tier, its delay over
    held        read back from the parking log
    waiting     fetched from the topic, in memory, behind one that runs
    (fenced)    in a delay tier or the parking log, on Kafka: ``retrying`` and ``parked`` count them

A key is *fenced* while ``retrying`` or ``parked`` is not zero: new records from the topic then go to the parking log
instead of to the handler, because older ones of the key are on Kafka and must come first.

A key is *held* while a record of it is a dead letter that must not be skipped (``on_dead="hold"``): then only what
comes back from a tier runs, which is what an operator sends. What is read back from the parking log waits.

This module is pure bookkeeping; it knows no Kafka and no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from enum import IntEnum

from faust.types import TP

from headwater_streams.handlers.message import Message

__all__ = ["NOWHERE", "Lane", "Origin", "Record"]


class Origin(IntEnum):
    """Where a record was read from."""

    TOPIC = 0
    TIER = 1
    PARKED = 2


class Record:
    """A record on the slow path: one that failed, waits, or came back. The fast path needs none."""

    __slots__ = (
        "attempt",
        "counted",
        "due",
        "first_failed_at",
        "hold",
        "immediate",
        "lane",
        "message",
        "origin",
        "outages",
        "tp",
    )

    def __init__(
        self,
        message: Message,
        tp: TP,
        lane: Lane,
        origin: Origin = Origin.TOPIC,
        *,
        attempt: int = 0,
        first_failed_at: float | None = None,
        counted: bool = False,
        hold: bytes | None = None,
    ) -> None:
        self.message = message
        self.tp = tp
        self.lane = lane
        self.origin = origin
        self.attempt = attempt
        self.first_failed_at = first_failed_at
        self.counted = counted
        self.hold = hold
        self.immediate = 0
        self.outages = 0
        self.due = 0.0

    @property
    def offset(self) -> int:
        """Its offset in the partition it was read from."""
        return self.message.offset()


class Lane:
    """The state of one busy key. ``key`` is the record key, or a number where order does not matter.

    Attributes:
        hold: the offset in the topic of the dead record that holds the key; ``None`` when none does.
        marker: what says so in the parking log, once it is read back: unsettled as long as the key is held.
    """

    __slots__ = ("due", "held", "hold", "key", "marker", "parked", "partition", "retrying", "running", "waiting")

    def __init__(self, key: bytes | int, partition: int) -> None:
        self.key = key
        self.partition = partition
        self.running: Record | None = None
        self.due: deque[Record] = deque()
        self.held: deque[Record] = deque()
        self.waiting: deque[Record] = deque()
        self.retrying = 0
        self.parked = 0
        self.hold: int | None = None
        self.marker: Record | None = None

    @property
    def fenced(self) -> bool:
        """Whether older records of the key are on Kafka, so that new ones must be parked behind them."""
        return bool(self.retrying or self.parked) or self.hold is not None

    @property
    def idle(self) -> bool:
        """Nothing of the key is anywhere: the lane can be forgotten."""
        return not (self.running or self.due or self.held or self.waiting or self.fenced)

    def next(self) -> Record | None:
        """The record that may run now, which then counts as running; ``None`` while the key must wait."""
        if self.running is not None:
            return None
        record: Record | None = None
        if self.due:
            record = self.due.popleft()
        elif self.retrying:
            return None  # the oldest is in a tier, not due yet
        elif self.hold is not None:
            return None  # the oldest is a dead letter that must not be skipped
        elif self.held:
            record = self.held.popleft()
        elif self.parked:
            return None  # the oldest is in the parking log, not read yet
        elif self.waiting:
            record = self.waiting.popleft()
        self.running = record
        return record

    def settle(self, record: Record) -> None:
        """``record`` is settled where it was read from."""
        if record is self.running:
            self.running = None
        if record.counted:
            record.counted = False
            if record.origin is Origin.TIER:
                self.retrying -= 1
            elif record.origin is Origin.PARKED:
                self.parked -= 1

    def drop(self, partitions: Collection[TP]) -> list[Record]:
        """Forget what waits in memory and was read from these partitions; gives what was forgotten."""
        dropped: list[Record] = []
        for queue in (self.due, self.held, self.waiting):
            dropped += [record for record in queue if record.tp in partitions]
            kept = [record for record in queue if record.tp not in partitions]
            queue.clear()
            queue.extend(kept)
        if self.marker is not None and self.marker.tp in partitions:
            dropped.append(self.marker)
            self.marker = None
        return dropped

    def in_memory(self) -> list[Record]:
        """Every record of the key that is fetched and not settled."""
        single = [record for record in (self.running, self.marker) if record is not None]
        return [*single, *self.due, *self.held, *self.waiting]


NOWHERE = Lane(-1, -1)
"""The lane of a record that was read back and has not entered its key's lane yet."""
