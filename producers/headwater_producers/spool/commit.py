"""Group commit: whatever waits to be written goes to disk in one write and one fsync, by a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from headwater_producers.delivery import Waiter, wake_all
from headwater_producers.errors import SpoolUnavailable
from headwater_producers.metrics import RECORDS, RecordOutcome
from headwater_producers.spool.delivery import SpooledDelivery
from headwater_producers.spool.entry import Entry, encode
from headwater_producers.spool.log import Position, SegmentLog

__all__ = ["GroupCommit"]

_TOGETHER: Final = 5000
_RETRY_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 10.0
_SPOOLED: Final[RecordOutcome] = "spooled"

_log = logging.getLogger("headwater.producers")


class GroupCommit:
    """The queue to the log and the thread that empties it.

    A delivery with an ``entry`` is *moved*: librdkafka has its record already. When the disk fails, moved ones wait for
    it to recover (librdkafka still has them), the others fail.

    Args:
        log: where to write.
        moved: told about the entries of moved records that stand in the log now, in log order.

    Attributes:
        broken: why nothing can be written; ``None`` when it can.
    """

    def __init__(self, log: SegmentLog, moved: Callable[[list[Entry]], None]) -> None:
        self._moved = moved
        self._segments = log
        self._queue: deque[SpooledDelivery] = deque()
        # One side counts up, the other down, each on a counter of its own: no lock.
        self._put_bytes = self._done_bytes = 0
        self._put_moved = self._done_moved = 0
        self._busy = False
        self._asleep = False
        self._stopping = False
        self._work = threading.Event()
        self._complained = 0.0
        self._retry_at = 0.0
        self.broken: SpoolUnavailable | None = None
        self._thread = threading.Thread(target=self._run, name="headwater-spool-commit", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Deliveries that wait to be written."""
        return len(self._queue)

    @property
    def settled(self) -> bool:
        """Whether everything put so far was dealt with."""
        return not self._queue and not self._busy

    @property
    def moving(self) -> int:
        """Moved deliveries that were not dealt with yet."""
        return self._put_moved - self._done_moved

    @property
    def queued_bytes(self) -> int:
        """About how many bytes wait to be written."""
        return self._put_bytes - self._done_bytes

    def put(self, delivery: SpooledDelivery) -> None:
        """Queue a delivery. One caller at a time: their order is the order of the log."""
        self._put_bytes += delivery.size
        if delivery.entry is not None:
            self._put_moved += 1
        self._queue.append(delivery)
        if self._asleep:
            self._work.set()

    def refusing(self) -> SpoolUnavailable | None:
        """Why a put would be in vain now; from time to time one is let through to try."""
        return self.broken if self.broken is not None and time.monotonic() < self._retry_at else None

    def stop(self) -> None:
        """Write what is queued, unless the disk fails, then end the thread. Blocks."""
        self._stopping = True
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while not (self._stopping and (not self._queue or self.broken)):
            if not self._queue or self.refusing():
                self._sleep()
                continue
            self._busy = True
            batch = self._next_batch()
            try:
                self._write(batch)
            except OSError as exc:
                self._fail(batch, exc)
            self._busy = False

    def _sleep(self) -> None:
        self._asleep = True
        if not self._queue or self.refusing():
            self._work.wait(_RETRY_SECONDS)
        self._work.clear()
        self._asleep = False

    def _next_batch(self) -> list[SpooledDelivery]:
        """From the front, all moved or all not."""
        batch = [self._queue.popleft()]
        moved = batch[0].entry is not None
        while self._queue and len(batch) < _TOGETHER and (self._queue[0].entry is not None) is moved:
            batch.append(self._queue.popleft())
        return batch

    def _write(self, batch: list[SpooledDelivery]) -> None:
        wanted = [(delivery, record) for delivery in batch if (record := delivery.record()) is not None]
        frames = [encode(record) for _, record in wanted]
        if frames:
            start = self._segments.append(frames)
            self._enter([delivery for delivery, _ in wanted], frames, start)
            self.broken = None
        self._done_bytes += sum(delivery.size for delivery in batch)
        if batch[0].entry is not None:
            self._done_moved += len(batch)
        woken: list[Waiter] = []
        for delivery, _ in wanted:
            woken += delivery.spooled()
        wake_all(woken)
        for topic, count in Counter(delivery.topic for delivery, _ in wanted).items():
            RECORDS.labels(topic, _SPOOLED).inc(count)

    def _enter(self, deliveries: list[SpooledDelivery], frames: list[bytes], start: Position) -> None:
        """Tell where moved records stand now."""
        entries = []
        offset = start.offset
        for delivery, data in zip(deliveries, frames, strict=True):
            if delivery.entry is not None:
                delivery.entry.position = Position(start.segment, offset)
                entries.append(delivery.entry)
            offset += len(data)
        if entries:
            self._moved(entries)

    def _fail(self, batch: list[SpooledDelivery], exc: OSError) -> None:
        self.broken = SpoolUnavailable(f"the spool cannot be written: {exc}")
        self.broken.__cause__ = exc
        now = time.monotonic()
        self._retry_at = now + _RETRY_SECONDS
        waiting = batch + [self._queue.popleft() for _ in range(len(self._queue))]
        failed = [delivery for delivery in waiting if delivery.entry is None]
        self._queue.extendleft(reversed([delivery for delivery in waiting if delivery.entry is not None]))
        if now >= self._complained:
            self._complained = now + _QUIET_SECONDS
            _log.critical("%s; events are refused until it can (%d failed now)", self.broken, len(failed))
        woken: list[Waiter] = []
        for delivery in failed:
            self._done_bytes += delivery.size
            woken += delivery.failed(self.broken)
        wake_all(woken)
