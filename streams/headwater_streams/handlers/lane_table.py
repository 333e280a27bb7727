"""The lanes of all busy keys of one handler, and which of their records may run.

A key that has one record alone, and that with the handler, has no lane: the record itself stands for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator

from faust.types import TP

from headwater_streams.handlers.lanes import Lane, Record
from headwater_streams.handlers.message import Message, tp_of

__all__ = ["LaneTable"]


class LaneTable:
    """Bookkeeping in memory, like the lanes.

    Args:
        ordered: whether the records of a key keep their order; else each has a lane of its own.
        park: called with a record that must wait on Kafka, behind older ones of its key.
        on_ready: called when a record was put into ``ready``.

    Attributes:
        by_key: what keeps each key busy: its lane, or the one record that runs.
        ready: heads of lanes that may run.
        waiting: records that wait in lanes for one that runs.
        serial: the last number that was the key of a record without one.
    """

    __slots__ = ("_on_ready", "_ordered", "_park", "by_key", "ready", "serial", "waiting")

    def __init__(self, ordered: bool, park: Callable[[Record], None], on_ready: Callable[[], None]) -> None:
        self._ordered = ordered
        self._park = park
        self._on_ready = on_ready
        self.by_key: dict[bytes | int, Message | Lane] = {}
        self.ready: deque[Record] = deque()
        self.waiting = 0
        self.serial = 0

    def full(self) -> Iterator[Lane]:
        """The keys that have more than one record that runs."""
        return (lane for lane in self.by_key.values() if isinstance(lane, Lane))

    def of(self, message: Message, partition: int) -> Lane:
        """The lane of a record's key; a new one, with what runs in it, if it has none."""
        raw = message.key()
        key: bytes | int
        if raw is None or not self._ordered:
            self.serial += 1
            key = self.serial
        else:
            key = raw
        lane = self.by_key.get(key)
        return lane if isinstance(lane, Lane) else self.make(key, lane, partition)

    def make(self, key: bytes | int, running: Message | None, partition: int) -> Lane:
        """A new lane for a key."""
        lane = Lane(key, partition)
        if running is not None:
            lane.running = Record(running, tp_of(running), lane)
        self.by_key[key] = lane
        return lane

    def queue(self, message: Message, tp: TP, key: bytes, lane: Message | Lane) -> None:
        """A record whose key is kept busy by ``lane``: wait in memory, or be parked behind older ones on Kafka."""
        if not isinstance(lane, Lane):
            lane = self.make(key, lane, tp.partition)
        record = Record(message, tp, lane)
        if lane.hold == message.offset():
            return  # the one that holds the key, read again after a crash: its letter stands already
        if lane.fenced:
            self._park(record)
        else:
            lane.waiting.append(record)
            self.waiting += 1
            if lane.running is None:
                self.advance(lane)

    def advance(self, lane: Lane) -> None:
        """Let the lane's next record run, or forget the lane. Nothing if it is not its key's any more."""
        if self.by_key.get(lane.key) is not lane:
            return
        waiting = len(lane.waiting)
        record = lane.next()
        self.waiting -= waiting - len(lane.waiting)
        if record is not None:
            self.ready.append(record)
            self._on_ready()
        elif lane.idle:
            del self.by_key[lane.key]

    def park_waiting(self, lane: Lane) -> None:
        """The lane is fenced now: what waits in memory waits on Kafka instead."""
        while lane.waiting:
            self.waiting -= 1
            self._park(lane.waiting.popleft())

    def drop(self, gone: Collection[TP]) -> list[Record]:
        """Forget what of these partitions has not begun; gives what was forgotten."""
        dropped = [record for record in self.ready if record.tp in gone]
        for record in dropped:
            record.lane.running = None
        kept = [record for record in self.ready if record.tp not in gone]
        self.ready.clear()  # the same queue: workers that pull look at it
        self.ready.extend(kept)
        for lane in self.full():
            self.waiting -= len(lane.waiting)
            dropped += lane.drop(gone)
            self.waiting += len(lane.waiting)
        return dropped

    def forget(self, partitions: Collection[int]) -> None:
        """Drop every key of these partitions."""
        for key, lane in list(self.by_key.items()):
            if (lane.partition if isinstance(lane, Lane) else lane.partition()) in partitions:
                del self.by_key[key]

    def unsettled(self) -> Iterator[tuple[TP, int]]:
        """Partition and offset of each record that was begun or waits."""
        for lane in self.by_key.values():
            if isinstance(lane, Lane):
                yield from ((record.tp, record.offset) for record in lane.in_memory())
            else:
                yield tp_of(lane), lane.offset()
