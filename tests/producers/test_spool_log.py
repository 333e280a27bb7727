"""The segment log keeps what it promised, through crashes, full disks and bit rot."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_producers.spool.log import Position, SegmentLog, frame


def append(log: SegmentLog, *bodies: bytes) -> Position:
    return log.append([frame(body) for body in bodies])


def read_all(log: SegmentLog, position: Position | None = None) -> list[bytes]:
    position = position or log.start
    bodies: list[bytes] = []
    while True:
        frames, position = log.read(position)
        if not frames:
            return bodies
        bodies += [found.body for found in frames]


def test_what_was_appended_is_read_in_order(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    append(log, b"one", b"two")
    append(log, b"3", b"four")
    assert read_all(log) == [b"one", b"two", b"3", b"four"]
    assert (log.records, log.size) == (4, sum(path.stat().st_size for path in tmp_path.iterdir()))


def test_another_process_reads_what_the_first_left(tmp_path: Path) -> None:
    append(SegmentLog(tmp_path), b"one", b"two")
    second = SegmentLog(tmp_path)
    append(second, b"three")
    assert read_all(second) == [b"one", b"two", b"three"]
    assert read_all(SegmentLog(tmp_path)) == [b"one", b"two", b"three"]


def test_a_full_segment_is_followed_by_another(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=20)
    for number in range(10):
        append(log, b"record %d" % number)
    assert len(list(tmp_path.glob("*.log"))) == 5
    assert read_all(log) == [b"record %d" % number for number in range(10)]


def test_a_record_larger_than_what_is_read_at_once_is_read_whole(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    append(log, b"small", b"x" * 1_000_000, b"small too")
    assert [len(body) for body in read_all(log)] == [5, 1_000_000, 9]


def test_released_segments_are_deleted(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=1)
    append(log, b"one")
    second = append(log, b"two")
    append(log, b"three")

    assert log.release(second) == 1
    assert log.records == 2
    assert read_all(log, second) == [b"two", b"three"]
    assert log.release(log.end) == 2
    assert (log.records, log.size, list(tmp_path.glob("*.log"))) == (0, 0, [])

    append(log, b"four")
    assert read_all(log, log.end._replace(offset=0)) == [b"four"]


def test_opening_at_a_place_forgets_what_lies_before(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, segment_bytes=30)
    append(log, b"one")
    append(log, b"two", b"three", b"four")
    append(log, b"five")
    place = Position(1, len(frame(b"one")) + len(frame(b"two")))

    again = SegmentLog(tmp_path, start=place)
    assert again.records == 3
    assert read_all(again) == [b"three", b"four", b"five"]


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=8), st.integers(min_value=0), st.booleans())
def test_a_segment_that_a_crash_cut_short_is_read_as_far_as_it_is_whole(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], cut: int, zeros: bool
) -> None:
    """Cut at any byte; with and without the zeros that a power cut may leave behind it."""
    folder = tmp_path_factory.mktemp("log")
    append(SegmentLog(folder), *bodies)
    [path] = folder.glob("*.log")
    size = path.stat().st_size
    kept = cut % (size + 1)
    os.truncate(path, kept)
    if zeros:
        os.truncate(path, size)

    found = read_all(SegmentLog(folder))
    assert found == bodies[: len(found)]
    assert sum(len(frame(body)) for body in bodies[: len(found) + 1]) > kept or len(found) == len(bodies)


def test_damage_is_said_and_kept_for_a_look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(SegmentLog(tmp_path), b"one", b"two", b"three")
    [path] = tmp_path.glob("*.log")
    data = bytearray(path.read_bytes())
    data[len(frame(b"one")) + 9] ^= 1
    path.write_bytes(data)

    with caplog.at_level(logging.WARNING):
        assert read_all(SegmentLog(tmp_path)) == [b"one"]
    assert "is whole up to byte" in caplog.text
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SegmentLog(tmp_path)
    append(log, b"one")
    write = os.write

    def half_then_full(descriptor: int, data: memoryview) -> int:
        if len(data) > 4:
            return write(descriptor, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(OSError, match="No space left"):
        append(log, b"two")
    monkeypatch.undo()
    append(log, b"three")

    assert read_all(log) == [b"one", b"three"]
    assert read_all(SegmentLog(tmp_path)) == [b"one", b"three"]
