"""What was fetched from a delay tier and is not due yet: a heap by due time, bounded by pausing the partition.

A tier's log is nearly in due order, since all its delays are equal; jitter and hops disturb it a little. The heap
puts right what lies within one buffer, so the error of a delay stays at the timer's, not at the disorder's.
"""

from __future__ import annotations

import heapq
from itertools import count

from headwater_streams.handlers.lanes import Record

__all__ = ["DueHeap"]


class DueHeap:
    """Records by due time (seconds since the epoch); equal times keep their log order."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Record]] = []
        self._serial = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, due: float, record: Record) -> None:
        heapq.heappush(self._heap, (due, next(self._serial), record))

    @property
    def next_due(self) -> float | None:
        """When the first record is due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[tuple[float, Record]]:
        """Every record that is due at ``now``, the longest due first."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            at, _, record = heapq.heappop(self._heap)
            due.append((at, record))
        return due

    def records(self) -> list[Record]:
        """Those that wait, in no order."""
        return [record for _, _, record in self._heap]

    def drop(self, partition: int) -> None:
        """Forget the records of a partition that is no longer ours."""
        self._heap = [entry for entry in self._heap if entry[2].tp.partition != partition]
        heapq.heapify(self._heap)
