"""A log of records in append-only segment files: fsynced before it is promised, cheap to forget, whole after a crash.

A frame is length, CRC-32 and body. A write that fails half-way is cut off again; one that a crash cut short is seen by
its length or checksum and ends its segment for the reader, which is sound because nothing in it was promised. A process
never appends to a segment of another. Space comes back by deleting whole segments, which a full disk allows.

Against SQLite in WAL mode with ``synchronous=FULL`` on the same disk, 1000 records of 400 bytes per commit: 440,000
records/s at 1.5 us of processor each against 120,000 at 5 us, and deleting rows there needs room on the full disk.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Frame", "Position", "SegmentLog", "frame"]

_HEAD: Final = struct.Struct(">II")
_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_SUFFIX: Final = ".log"

_log = logging.getLogger("headwater.producers")


class Position(NamedTuple):
    """A place in the log; positions compare in log order."""

    segment: int
    offset: int


class Frame(NamedTuple):
    """A record read from the log: where it stands, how many bytes it takes there, and what it says."""

    position: Position
    size: int
    body: bytes


def frame(body: bytes) -> bytes:
    """``body``, not empty, as it stands in a segment."""
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


class _Segment:
    """What is known of a file."""

    __slots__ = ("records", "size")

    def __init__(self) -> None:
        self.size = 0
        self.records = 0


class SegmentLog:
    """The log in a folder. One thread appends; another may read and release.

    Opening it reads all files once.

    Args:
        folder: where the segments are.
        start: nothing before this place is wanted any more.
        segment_bytes: size after which the next append begins a segment.

    Attributes:
        start: the oldest place when it was opened.
        end: where the next append goes; everything before it is on disk.
    """

    def __init__(self, folder: Path, *, start: Position | None = None, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segments: dict[int, _Segment] = {}
        self._writing: int | None = None
        self._reading: tuple[int, int] | None = None
        self._appending = threading.Lock()
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            self._adopt(path, start or Position(0, 0))
        self.end = Position(max(self._segments, default=start.segment if start else 0) + 1, 0)
        first = min(self._segments, default=self.end.segment)
        self.start = start if start is not None and start.segment == first else Position(first, 0)

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(segment.size for segment in list(self._segments.values()))

    @property
    def records(self) -> int:
        """Frames in the files; those before the start do not count."""
        return sum(segment.records for segment in list(self._segments.values()))

    def append(self, frames: Sequence[bytes]) -> Position:
        """Write frames and wait until they are on disk; gives the place of the first, the others follow it.

        Blocks for the fsync. All or nothing: after an error none of them stands in the log.

        Raises:
            OSError: the disk is full or broken.
        """
        with self._appending:
            if self.end.offset >= self._segment_bytes:
                self._seal()
            start = self.end
            try:
                self._write(start, memoryview(b"".join(frames)), len(frames))
            except OSError:
                self._undo(start)
                raise
            return start

    def read(self, position: Position) -> tuple[list[Frame], Position]:
        """Some frames from ``position`` on, and the place after them; no frames at the end of the log.

        Raises:
            OSError: the disk is broken.
        """
        while position < self.end:
            frames, after = self._read_segment(position)
            if frames:
                return frames, after
            position = after
        return [], self.end

    def release(self, before: Position) -> int:
        """Delete the segments that lie wholly before a place; at the end, all. Gives how many records went."""
        if before >= self.end and self._appending.acquire(blocking=False):
            try:
                if before >= self.end:
                    self._seal()
                    before = self.end
            finally:
                self._appending.release()
        gone = 0
        for number in [number for number in list(self._segments) if number < before.segment]:
            if self._reading is not None and self._reading[0] == number:
                self._stop_reading()
            self._path(number).unlink(missing_ok=True)
            gone += self._segments.pop(number).records
        return gone

    def close(self) -> None:
        """Let go of the files."""
        with self._appending:
            self._seal()
        self._stop_reading()

    def _write(self, start: Position, data: memoryview, records: int) -> None:
        if self._writing is None:
            self._writing = self._create(start.segment)
        written = 0
        while written < len(data):
            written += os.write(self._writing, data[written:])
        os.fdatasync(self._writing)
        segment = self._segments.setdefault(start.segment, _Segment())
        segment.size = start.offset + len(data)
        segment.records += records
        self.end = Position(start.segment, start.offset + len(data))  # last: the reader goes by it

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:012}{_SUFFIX}"

    def _create(self, segment: int) -> int:
        descriptor = os.open(self._path(segment), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power cut may leave a synced file without a name
        finally:
            os.close(folder)
        return descriptor

    def _undo(self, start: Position) -> None:
        """Cut off a failed write, else end the segment here: the reader goes no further than what was promised."""
        if self._writing is None:
            return
        try:
            os.ftruncate(self._writing, start.offset)
        except OSError:
            _log.exception("the spool cannot undo a failed write; going on in a new segment")
        if start.offset:
            self._seal()
        else:
            os.close(self._writing)
            self._writing = None
            self._path(start.segment).unlink(missing_ok=True)

    def _seal(self) -> None:
        """The next append begins a segment."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None
        if self.end.offset:
            self.end = Position(self.end.segment + 1, 0)

    def _adopt(self, path: Path, start: Position) -> None:
        """Take over a segment of an earlier process, as far as it is whole."""
        number = int(path.stem)
        if number < start.segment:
            path.unlink()
            return
        segment = self._segments[number] = _Segment()
        wanted_from = start.offset if number == start.segment else 0
        data = path.read_bytes()
        for segment.size in _ends(data):
            segment.records += segment.size > wanted_from
        if segment.size < len(data):
            kept = path.with_suffix(".damaged")
            kept.unlink(missing_ok=True)
            os.link(path, kept)
            _log.warning(
                "%s is whole up to byte %d of %d. A crash cuts a segment short, and nothing behind that place was "
                "promised; if this machine did not crash, its disk is damaged. Kept as %s",
                path,
                segment.size,
                len(data),
                kept,
            )

    def _read_segment(self, position: Position) -> tuple[list[Frame], Position]:
        """Frames of one segment, or the beginning of the next."""
        size = self._segments[position.segment].size if position.segment in self._segments else 0
        wanted = min(_READ_BYTES, size - position.offset)
        if wanted <= 0:
            return [], self._after(position.segment)
        descriptor = self._open(position.segment)
        data = os.pread(descriptor, wanted, position.offset)
        if len(data) >= _HEAD.size:
            whole = _HEAD.size + _HEAD.unpack_from(data)[0]
            if whole > len(data):  # one frame is larger than the piece
                data = os.pread(descriptor, min(whole, size - position.offset), position.offset)
        frames: list[Frame] = []
        offset = 0
        while offset + _HEAD.size <= len(data):
            length, checksum = _HEAD.unpack_from(data, offset)
            body = data[offset + _HEAD.size : offset + _HEAD.size + length]
            if len(body) < length:
                break
            if zlib.crc32(body) != checksum:
                return frames, self._skip_damaged(position.segment, position.offset + offset)
            frames.append(Frame(Position(position.segment, position.offset + offset), _HEAD.size + length, body))
            offset += _HEAD.size + length
        if not offset:
            return frames, self._skip_damaged(position.segment, position.offset)
        return frames, Position(position.segment, position.offset + offset)

    def _skip_damaged(self, segment: int, offset: int) -> Position:
        lost = self._segments[segment].size - offset
        _log.critical("%s: %d bytes from %d on are damaged and skipped", self._path(segment), lost, offset)
        return self._after(segment)

    def _after(self, segment: int) -> Position:
        following = (number for number in list(self._segments) if number > segment)
        return Position(min(following, default=self.end.segment), 0)

    def _open(self, segment: int) -> int:
        if self._reading is None or self._reading[0] != segment:
            self._stop_reading()
            self._reading = (segment, os.open(self._path(segment), os.O_RDONLY))
        return self._reading[1]

    def _stop_reading(self) -> None:
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None


def _ends(data: bytes) -> Iterator[int]:
    """Where each whole and sound frame of a segment ends."""
    offset = 0
    while offset + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, offset)
        body = memoryview(data)[offset + _HEAD.size : offset + _HEAD.size + length]
        # A power cut may leave zeros, which would read as empty frames with a sound checksum.
        if not length or len(body) < length or zlib.crc32(body) != checksum:
            return
        offset += _HEAD.size + length
        yield offset
