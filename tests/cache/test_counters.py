"""What the counters of a cache count: each read once, each waiter once, each value that is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis
from prometheus_client import REGISTRY

from cache.table import VALUES, Table
from headwater_cache import CachePolicy, EntityCache, KeyFilter, NearPolicy, Reading, RedisSettings, SourceFailed
from headwater_cache.testing import MemoryLog
from headwater_cache.versions import version
from headwater_schemas.clock import ManualClock

RESULTS = ("hit", "stale", "negative", "miss", "bypass", "error")
CALM = CachePolicy(jitter=0, early=0, wait="60ms", passers=1)


@pytest.fixture
def table() -> Table:
    table = Table()
    table.write("a", 1)
    return table


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(redis_url: str, name: str, table: Table, clock: ManualClock) -> Iterator[EntityCache[int]]:
    with EntityCache(name, redis_url, mode="cache", source=table, policy=CALM, clock=clock) as cache:
        cache.check()
        yield cache


@pytest.fixture
def without_redis(name: str, table: Table) -> Iterator[EntityCache[int]]:
    away = RedisSettings("redis://127.0.0.1:1", timeout=0.1)
    with EntityCache(name, away, mode="cache", source=table, policy=CALM) as cache:
        yield cache


class Counted:
    """What was counted since it was made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._before = {result: self._read(result) for result in RESULTS}

    def _read(self, result: str) -> float:
        labels = {"entity": self._name, "tier": "redis", "result": result}
        return REGISTRY.get_sample_value("headwater_cache_requests_total", labels) or 0

    @property
    def reads(self) -> dict[str, float]:
        now = {result: self._read(result) - self._before[result] for result in RESULTS}
        return {result: count for result, count in now.items() if count}


def _sample(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0


def test_a_miss_and_a_hit(cache: EntityCache[int]) -> None:
    """One loads, the next does not."""
    counted = Counted(cache.name)
    cache.get("a")
    cache.get("a")
    cache.get_many(["a", "a"])

    assert counted.reads == {"miss": 1, "hit": 3}


def test_not_found_is_a_miss_and_then_negative(cache: EntityCache[int]) -> None:
    """The source was asked once."""
    counted = Counted(cache.name)
    cache.get("b")
    cache.get("b")

    assert counted.reads == {"miss": 1, "negative": 1}


def test_what_the_key_filter_rules_out_is_negative(redis_url: str, name: str, table: Table) -> None:
    """Nothing was asked."""
    keys = KeyFilter(100)
    keys.caught_up()
    with EntityCache(name, redis_url, mode="cache", source=table, keys=keys) as cache:
        counted = Counted(name)
        cache.get("b")

    assert counted.reads == {"negative": 1}


def test_a_read_past_redis_is_a_bypass_alone(without_redis: EntityCache[int]) -> None:
    """It is no miss besides: the hit ratio of an outage is that of the reads."""
    counted = Counted(without_redis.name)
    without_redis.get("a")
    without_redis.get("a")
    without_redis.get_many(["a", "b"])

    assert counted.reads == {"bypass": 4}


def test_a_read_that_fails_is_an_error_alone(
    cache: EntityCache[int], without_redis: EntityCache[int], table: Table
) -> None:
    """With Redis and without."""
    counted = Counted(cache.name)
    table.error = RuntimeError("no database")
    for each in (cache, without_redis):
        with pytest.raises(SourceFailed):
            each.get("a")

    assert counted.reads == {"error": 2}


def test_a_stale_value_in_place_of_a_failure_is_stale_alone(
    cache: EntityCache[int], table: Table, clock: ManualClock
) -> None:
    """The caller saw no error."""
    cache.get("a")
    clock.advance(3601)
    table.error = RuntimeError("no database")
    counted = Counted(cache.name)
    cache.get("a")

    assert counted.reads == {"stale": 1}


def test_a_refresh_behind_a_reader_is_no_read(cache: EntityCache[int], clock: ManualClock) -> None:
    """The read was a hit."""
    cache.get("a")
    clock.advance(301)
    counted = Counted(cache.name)
    cache.get("a")
    cache.close()  # finishes the refresh

    assert counted.reads == {"hit": 1}


def test_who_waits_for_a_lease_and_passes_is_one_miss_and_one_waiter(cache: EntityCache[int], raw: redis.Redis) -> None:
    """However often it looks whether the lease is free; and the next one, refused, is an error."""
    raw.set(cache._space.key("a") + ":l", "somebody who hangs", px=60_000)
    cache._space.clock = SteppingClock()
    counted, waited = Counted(cache.name), _sample("headwater_cache_lease_total", entity=cache.name, result="waited")
    cache.get("a")

    assert counted.reads == {"miss": 1}
    assert _sample("headwater_cache_lease_total", entity=cache.name, result="waited") == waited + 1


class SteppingClock(ManualClock):
    """Goes on a little each time it is looked at."""

    def monotonic(self) -> float:
        self.advance(0.01)
        return super().monotonic()


async def test_each_reader_of_one_flight_is_a_miss(cache: EntityCache[int]) -> None:
    """As many misses as readers, and one load."""
    counted = Counted(cache.name)
    await asyncio.gather(*(cache.aget("a") for _ in range(10)))
    await cache.aclose()

    assert sum(counted.reads.values()) == 10
    assert counted.reads["miss"] >= 1


@pytest.mark.parametrize("sourced", [True, False])
def test_a_read_that_meets_another_version_domain_is_a_conflict(
    redis_url: str, name: str, table: Table, raw: redis.Redis, sourced: bool
) -> None:
    """Counted once, whether it can load or not, and though its load meets the entry as well (R18)."""
    with (
        EntityCache[int](name, redis_url, mode="cache", domain="lsn") as foreign,
        EntityCache(name, redis_url, mode="cache", source=table if sourced else None) as cache,
    ):
        foreign.check()
        data, life = foreign._space.entry("V", version("FF/0"), VALUES.encode(9)[1])
        raw.set(foreign._space.key("a"), data, px=int(life))

        assert cache.get("a") == (1 if sourced else None)
        assert _sample("headwater_cache_version_conflict_total", entity=name) == 1


def test_what_the_near_cache_has_no_room_for_is_an_eviction(redis_url: str, name: str) -> None:
    """As is what an invalidation drops."""
    with EntityCache[int](name, redis_url, log=MemoryLog(), near=NearPolicy(entries=5)) as cache:
        near = cache._near
        assert near is not None
        near.flush(live=True)
        for number in range(30):
            mark = near.reserve(str(number))
            near.fill(str(number), mark, Reading(number, version(1)))
        kept = len(near._entries)

        assert kept <= 5
        assert _sample("headwater_cache_l1_evictions_total", entity=name) == 30 - kept
