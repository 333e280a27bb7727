"""The auditor on a real Redis: what is wrong, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from cache.table import Table
from headwater_cache import Auditor, Change, EntityCache, Violation, log_version
from headwater_cache.entry import HEADER_SIZE
from headwater_cache.steps import Ask, Batch
from headwater_cache.testing import MemoryLog
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def view(redis_url: str, name: str, log: MemoryLog, clock: ManualClock) -> Iterator[EntityCache[int]]:
    with EntityCache[int](name, redis_url, log=log, clock=clock) as cache:
        yield cache


def test_a_change_that_arrives_late_is_wrong_only_at_first(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock
) -> None:
    """At one second it is missing, at ten it is there."""
    auditor = view.auditor(share=1)
    log.append("x", "a", b"\x01", 0)
    auditor.observe(log.changes)
    assert view.audit(auditor) == []

    clock.advance(1)
    assert [violation.found for violation in view.audit(auditor)] == ["absent"]
    view.apply_many(log.changes)
    clock.advance(9)
    assert view.audit(auditor) == []

    assert auditor.report().consistent == {1: 0.0, 10: 1.0, 60: 1.0, 300: 1.0}
    assert auditor.report().waiting == 0


def test_a_lasting_error_is_counted_at_every_age(view: EntityCache[int], log: MemoryLog, clock: ManualClock) -> None:
    """And named."""
    view.put("a", 1)
    auditor = view.auditor(share=1)
    auditor.observe([Change("a", log_version(1, 9), b"\x02")])
    for seconds in (1, 9, 50, 240):
        clock.advance(seconds)
        (violation,) = view.audit(auditor)
        assert violation.key == "a"

    assert auditor.report().violations == {1: 1, 10: 1, 60: 1, 300: 1}
    assert auditor.report().waiting == 0


def test_a_newer_value_is_right(view: EntityCache[int], log: MemoryLog, clock: ManualClock) -> None:
    """The change was overtaken."""
    view.put("a", 1)
    view.put("a", 2)
    auditor = view.auditor(share=1)
    auditor.observe(log.changes)
    clock.advance(1)

    assert view.audit(auditor) == []
    assert auditor.report().checked == {1: 2}
    assert auditor.report().decided == {1: 2, 10: 2, 60: 2, 300: 2}


def test_nines_count_what_showed_in_time(view: EntityCache[int], log: MemoryLog, clock: ManualClock) -> None:
    """Of a thousand changes one is late and one never shows: 99.8 % within a second, 99.9 % within ten."""
    auditor = view.auditor(share=1)
    changes = [Change(f"k{number}", log_version(1, number), b"\x01") for number in range(1000)]
    view.apply_many(changes[2:], positions={})
    auditor.observe(changes)
    clock.advance(1)
    assert len(view.audit(auditor)) == 2
    view.apply_many(changes[:1], positions={})
    clock.advance(9)
    assert [violation.key for violation in view.audit(auditor)] == ["k1"]

    report = auditor.report()
    assert report.checked == {1: 1000, 10: 2}
    assert report.decided == {1: 1000, 10: 1000, 60: 999, 300: 999}
    assert {age: round(of, 4) for age, of in report.consistent.items()} == {1: 0.998, 10: 0.999, 60: 1.0, 300: 1.0}
    assert {age: round(of, 1) for age, of in report.nines.items()} == {1: 2.7, 10: 3.0, 60: 3.0, 300: 3.0}


def _come_of_age(view: EntityCache[int], auditor: Auditor, clock: ManualClock) -> list[list[Violation]]:
    seen = []
    for seconds in (1, 9, 50, 240):
        clock.advance(seconds)
        seen.append(view.audit(auditor))
    return seen


def test_a_missing_change_is_repaired_after_ten_seconds(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock
) -> None:
    """Nobody applied it. Before that it is lag."""
    auditor = view.auditor(share=1, repair=True)
    view.put("a", 1)
    log.append("x", "a", b"\x02", 0)
    log.append("x", "b", b"\x03", 0)
    auditor.observe(log.changes)
    at_1, at_10, at_60, _ = _come_of_age(view, auditor, clock)

    assert [(violation.key, violation.repair) for violation in at_1] == [("a", None), ("b", None)]
    assert [(violation.key, violation.repair) for violation in at_10] == [("a", "applied"), ("b", "applied")]
    assert at_60 == []
    assert view.get_many(["a", "b"]) == {"a": 2, "b": 3}
    assert auditor.report().repaired == 2


def test_a_value_that_was_written_past_the_cache_is_repaired(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock, raw: redis.Redis, name: str
) -> None:
    """Same version, other bytes: no event would ever change it."""
    auditor = view.auditor(share=1, repair=True)
    view.put("a", 1)
    raw.setrange(f"{{{name}:1:a}}", HEADER_SIZE, b"\x07")
    assert view.get("a") == 7
    auditor.observe(log.changes)
    _, at_10, at_60, _ = _come_of_age(view, auditor, clock)

    assert [violation.repair for violation in at_10] == ["applied"]
    assert at_60 == []
    assert view.get("a") == 1


def test_a_repair_that_comes_too_late_changes_nothing(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock
) -> None:
    """A newer change was applied between the look and the repair: the version decides."""
    auditor = view.auditor(share=1, repair=True)
    log.append("x", "a", b"\x01", 0)
    auditor.observe(log.changes)
    clock.advance(1)
    view.audit(auditor)
    clock.advance(9)
    look = auditor.due()
    request = next(look)
    assert isinstance(request, Ask)
    view.put("a", 2)
    repair = look.send([None])  # what it had read before that
    assert isinstance(repair, Batch | Ask)
    try:
        while True:
            repair = look.send(view._connection.driver._do(repair))
    except StopIteration as stop:
        (violation,) = stop.value

    assert violation.repair == "stale"
    assert view.get("a") == 2


def test_in_cache_mode_a_stale_value_is_repaired(redis_url: str, name: str, clock: ManualClock) -> None:
    """The event of the second write was lost, and its write-through too."""
    table = Table()
    with EntityCache(name, redis_url, mode="cache", source=table, clock=clock) as cache:
        auditor = cache.auditor(share=1, repair=True)
        cache.put("k", 1)
        table.write("k", 2)
        auditor.observe(table.events)
        _, at_10, at_60, _ = _come_of_age(cache, auditor, clock)

        assert [violation.repair for violation in at_10] == ["applied"]
        assert at_60 == []
        assert cache.get("k") == 2


def test_in_cache_mode_what_is_not_served_is_not_wrong(redis_url: str, name: str, clock: ManualClock) -> None:
    """Absent and fenced keys are loaded at the next read."""
    table = Table()
    with EntityCache(name, redis_url, mode="cache", source=table, clock=clock) as cache:
        auditor = cache.auditor(share=1)
        table.write("absent", 1)
        table.write("fenced", 1)
        cache.apply_many(table.events[1:], positions={})
        auditor.observe(table.events)
        clock.advance(1)

        assert cache.audit(auditor) == []


def test_a_share_of_the_keys_is_watched(view: EntityCache[int]) -> None:
    """Chosen by hash: about so many, and always the same."""
    auditor = view.auditor(share=0.1)
    auditor.observe([Change(f"k{number}", log_version(1, number), None) for number in range(2000)])

    assert 120 < auditor.report().waiting < 280
    with pytest.raises(UsageError):
        view.auditor(share=0)
