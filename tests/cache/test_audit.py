"""The auditor on a real Redis: what is wrong, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cache.table import Table
from headwater_cache import Change, EntityCache, log_version
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

    assert auditor.report().consistent == {1: 0.0, 10: 1.0}
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
