"""The auditor on a real Redis: what is wrong, and for how long."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest
import redis

from cache.redis_server import RedisServer
from cache.table import Table
from headwater_cache import Auditor, CachePolicy, Change, EntityCache, Loaded, RedisSettings, Violation, log_version
from headwater_cache.entry import HEADER_SIZE
from headwater_cache.steps import Ask, Batch
from headwater_cache.testing import MemoryLog
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import CacheUnavailable, UsageError


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


def test_a_look_that_failed_is_made_when_redis_is_back(
    own: RedisServer, name: str, log: MemoryLog, clock: ManualClock
) -> None:
    """What was wrong while Redis was away is wrong all the same."""
    settings = RedisSettings(own.url, timeout=5)
    with EntityCache[int](name, settings, log=log, clock=clock) as view:
        view.check()
        auditor = view.auditor(share=1)
        auditor.observe([Change("a", log_version(1, 9), b"\x02")])
        clock.advance(1)
        own.kill()
        with pytest.raises(CacheUnavailable):
            view.audit(auditor)
        assert auditor.report().waiting == 1
        own.start()
        (violation,) = view.audit(auditor)

    assert (violation.key, violation.age) == ("a", 1)
    assert auditor.report().violations == {1: 1}


def test_a_look_that_comes_too_late_is_not_counted_as_in_time(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock
) -> None:
    """Right after 20 s says nothing of the first ten; it is looked at again at 60."""
    view.put("a", 1)
    auditor = view.auditor(share=1)
    auditor.observe(log.changes)
    clock.advance(20)
    assert view.audit(auditor) == []
    assert auditor.report().checked == {}
    clock.advance(40)
    assert view.audit(auditor) == []

    assert auditor.report().checked == {60: 1}
    assert auditor.report().consistent == {60: 1.0, 300: 1.0}


def test_a_violation_is_told_even_if_its_repair_failed(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock
) -> None:
    """It was counted, and is repaired at the next age."""
    auditor, look, _ = _repairing(view, log, clock)
    look.send([None])
    with pytest.raises(CacheUnavailable):
        look.throw(CacheUnavailable("away"))
    clock.advance(50)

    assert [(found.age, found.repair) for found in view.audit(auditor)] == [(10, None), (60, "applied")]
    assert auditor.report().violations == {1: 1, 10: 1, 60: 1}


def test_bytes_of_another_program_are_a_violation(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock, raw: redis.Redis, name: str
) -> None:
    """A reader gets an error; so it goes on being looked at, and the others are too. It is not repaired."""
    view.put("a", 1)
    view.put("b", 2)
    auditor = view.auditor(share=1, repair=True)
    auditor.observe(log.changes)
    raw.set(f"{{{name}:1:a}}", "hello")
    at_1, at_10, _, _ = _come_of_age(view, auditor, clock)

    assert [(violation.key, violation.found) for violation in at_1] == [("a", "bytes of another program")]
    assert [(violation.key, violation.repair) for violation in at_10] == [("a", None)]
    assert auditor.report().checked == {1: 2, 10: 1, 60: 1, 300: 1}


def _repairing(
    view: EntityCache[int], log: MemoryLog, clock: ManualClock
) -> tuple[Auditor, Generator[Any, Any, list[Violation]], Any]:
    """An auditor about to repair what nobody applied: its look at ten seconds, and what that asks first."""
    auditor = view.auditor(share=1, repair=True)
    log.append("x", "a", b"\x01", 0)
    auditor.observe(log.changes)
    clock.advance(1)
    view.audit(auditor)
    clock.advance(9)
    look = auditor.due()
    return auditor, look, next(look)


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
    _, look, request = _repairing(view, log, clock)
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
        assert cache.explain("k").state == "F"
        assert cache.get("k") == 2


def test_in_cache_mode_what_a_tag_has_ended_is_not_wrong(redis_url: str, name: str, clock: ManualClock) -> None:
    """It is not served; once it is, it is."""
    table = Table()
    with EntityCache(name, redis_url, mode="cache", source=table, clock=clock) as cache:
        cache.load("k", lambda: Loaded(1, 1, ("t",)))
        auditor = cache.auditor(share=1)
        auditor.observe([table.event("k", 2, 2)])
        clock.advance(1)
        assert len(cache.audit(auditor)) == 1
        cache.invalidate_tags("t")
        clock.advance(9)

        assert cache.audit(auditor) == []


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


def test_in_cache_mode_what_has_expired_or_is_of_another_domain_is_not_wrong(
    redis_url: str, name: str, clock: ManualClock
) -> None:
    """Nobody is served it, whatever its version."""
    table = Table()
    policy = CachePolicy(soft_ttl=0, hard_ttl="1s", jitter=0)
    with EntityCache(name, redis_url, mode="cache", source=table, clock=clock, policy=policy) as cache:
        cache.put("expired", 1)
        clock.advance(2)
        with EntityCache(name, redis_url, mode="cache", source=table, domain="lsn") as other:
            other.put("other", 1)
        auditor = cache.auditor(share=1)
        auditor.observe([table.event("expired", 2, 99), table.event("other", 2, 99)])
        clock.advance(1)

        assert cache.audit(auditor) == []


def test_in_cache_mode_an_older_value_that_is_served_is_wrong(redis_url: str, name: str, clock: ManualClock) -> None:
    """The change, its write-through too, did not arrive."""
    table = Table()
    with EntityCache(name, redis_url, mode="cache", source=table, clock=clock) as cache:
        cache.put("k", 1)
        table.write("k", 2)
        auditor = cache.auditor(share=1)
        auditor.observe(table.events)
        clock.advance(1)

        assert [violation.found[0] for violation in cache.audit(auditor)] == ["V"]


def test_a_share_of_the_keys_is_watched(view: EntityCache[int]) -> None:
    """Chosen by hash: about so many, and always the same."""
    auditor = view.auditor(share=0.1)
    auditor.observe([Change(f"k{number}", log_version(1, number), None) for number in range(2000)])

    assert 120 < auditor.report().waiting < 280
    with pytest.raises(UsageError):
        view.auditor(share=0)
