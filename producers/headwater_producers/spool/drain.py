"""The drain: hands what stands in the log to librdkafka, in order, and forgets what the broker has acknowledged."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException

from headwater_producers.client import ANY_PARTITION, Client
from headwater_producers.metrics import RECORDS, SPOOL_REJECTED, RecordOutcome
from headwater_producers.spool.entry import Entry, Record, decode
from headwater_producers.spool.log import Position, SegmentLog, frame

__all__ = ["Drain"]

_CURSOR: Final = "cursor"
_CURSOR_SECONDS: Final = 0.2
_ROOM_SECONDS: Final = 0.1
_ACKED: Final[RecordOutcome] = "acked"

_log = logging.getLogger("headwater.producers")


class Drain:
    """Everything behind ``position`` is still to be handed over; ``in_flight`` was, and is not forgotten yet.

    One thread calls it. The cursor (a file with the oldest unacknowledged place) is written some times a second and not
    fsynced: after a kill little is sent twice, after a power cut perhaps more.

    Args:
        folder: of the log.
        client: where to hand records.

    Attributes:
        alive: the broker has answered for a record since this was last set to ``False``.
    """

    def __init__(self, folder: Path, client: Client) -> None:
        self._client = client
        self._cursor = folder / _CURSOR
        self._rejected = SegmentLog(_made(folder / "rejected"))
        self.log = SegmentLog(folder, start=self._read_cursor())
        self._requeue_rejected()
        self.position = self.log.start
        self.in_flight: deque[Entry] = deque()
        self.alive = False
        self._forgotten = 0
        self._saved = self.position
        self._saved_at = 0.0

    @property
    def records(self) -> int:
        """Records that are on disk and not acknowledged."""
        return self.log.records - self._forgotten

    @property
    def oldest_at(self) -> float | None:
        """When the oldest of them was accepted, in seconds since the epoch."""
        try:
            return self.in_flight[0].accepted_at
        except IndexError:
            return None

    @property
    def behind(self) -> int:
        """Bytes to hand over, at least."""
        end = self.log.end
        return end.offset - self.position.offset if end.segment == self.position.segment else self.log.size

    def moved(self, entries: list[Entry]) -> None:
        """These stand at the end of the log now, and librdkafka has them already."""
        self.in_flight.extend(entries)
        self.position = self.log.end

    def hand_over(self, wanted: Callable[[], bool]) -> bool:
        """Hand some records over, waiting for room in the queue while ``wanted`` says so. Whether any were."""
        frames, after = self.log.read(self.position)
        handed = False
        for found in frames:
            record = decode(found.body)
            entry = Entry(record.topic, record.accepted_at, found.position)
            if not self._produce(record, entry, wanted):
                return handed
            self.in_flight.append(entry)
            self.position = Position(found.position.segment, found.position.offset + found.size)
            handed = True
        self.position = after
        self._client.poll()
        return handed

    def sweep(self) -> None:
        """Forget what is acknowledged, from the oldest on; put aside what the broker will never take."""
        acked: Counter[str] = Counter()
        while self.in_flight and (self.in_flight[0].acked or self.in_flight[0].error):
            entry = self.in_flight[0]
            if entry.error is not None:
                self._reject(entry)
            else:
                acked[entry.topic] += 1
            self._forgotten += 1
            self.in_flight.popleft()
            self.alive = True
        if acked:
            for topic, count in acked.items():
                RECORDS.labels(topic, _ACKED).inc(count)
        self._release()

    def close(self) -> None:
        """Leave the folder as the next process should find it."""
        self.sweep()
        self._save()
        self.log.close()
        self._rejected.close()

    def _produce(self, record: Record, entry: Entry, wanted: Callable[[], bool]) -> bool:
        timestamp = round(record.accepted_at * 1000)
        while True:
            try:
                self._client.produce(
                    record.topic, record.value, record.key, ANY_PARTITION, entry.settle, None, timestamp, record.headers
                )
            except BufferError:
                if not wanted():
                    return False
                self._client.serve(_ROOM_SECONDS)
            except KafkaException as exc:
                entry.refuse(exc.args[0])
                return entry.error is not None
            else:
                return True

    def _reject(self, entry: Entry) -> None:
        """The broker will not take it, but it was promised: it is kept beside the log, for the next start."""
        assert entry.position is not None, "only what stands in the log is in flight"
        frames, _ = self.log.read(entry.position)
        self._rejected.append([frame(frames[0].body)])
        SPOOL_REJECTED.labels(entry.topic).inc()
        _log.error("a spooled event is put aside, and tried again when the producer starts anew: %s", entry.error)

    def _requeue_rejected(self) -> None:
        position = self._rejected.start
        while True:
            frames, position = self._rejected.read(position)
            if not frames:
                break
            self.log.append([frame(found.body) for found in frames])
        self._rejected.release(self._rejected.end)

    def _release(self) -> None:
        oldest = self._oldest()
        if oldest != self._saved and time.monotonic() - self._saved_at >= _CURSOR_SECONDS:
            self._save()
        self._forgotten -= self.log.release(oldest)

    def _oldest(self) -> Position:
        position = self.in_flight[0].position if self.in_flight else None
        return position or self.position

    def _save(self) -> None:
        oldest = self._oldest()
        draft = self._cursor.with_suffix(".draft")
        try:
            draft.write_text(f"{oldest.segment} {oldest.offset}\n")
            draft.replace(self._cursor)
        except OSError as exc:  # it only saves work: without it more is sent twice
            _log.warning("the spool's cursor cannot be written: %s", exc)
        self._saved, self._saved_at = oldest, time.monotonic()

    def _read_cursor(self) -> Position | None:
        try:
            segment, offset = self._cursor.read_text().split()
            return Position(int(segment), int(offset))
        except (OSError, ValueError):
            return None


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
