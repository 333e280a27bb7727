"""What ``min_version`` and ``max_staleness`` promise, in cache mode on a real Redis: also when the source lags, when
Redis is away, and for who waits for another's load (I9, R26)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import redis

from cache.table import Table
from headwater_cache import (
    CachePolicy,
    EntityCache,
    Loaded,
    NotVisibleYet,
    Reading,
    RedisSettings,
    SourceFailed,
    VersionToken,
    version,
)
from headwater_schemas.clock import ManualClock

CALM = CachePolicy(jitter=0, early=0, wait="5s", passers=0)
AWAY = RedisSettings("redis://127.0.0.1:1", timeout=0.1)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
def cache(redis_url: str, name: str, table: Table, clock: ManualClock) -> Iterator[EntityCache[int]]:
    with EntityCache(name, redis_url, mode="cache", source=table, policy=CALM, clock=clock) as cache:
        yield cache


@pytest.fixture
def without_redis(table: Table) -> Iterator[EntityCache[int]]:
    with EntityCache("flights", AWAY, mode="cache", source=table, policy=CALM) as cache:
        yield cache


class HeldSource(Table):
    """A source whose loads wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = Event(), Event()

    def load(self, key: str) -> Loaded[int] | None:
        row = super().load(key)  # as it is before the wait
        self.entered.set()
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return row


class Two:
    """A reader whose load is held by the source, and a second one that has come to where it waits."""

    def __init__(self, cache: EntityCache[int], table: HeldSource, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cache, self._table = cache, table
        self._pool = ThreadPoolExecutor(2)
        self._boarded = 0
        flights = cache._reads._flights  # type: ignore[union-attr]  # not a view's
        board = flights.board

        def counting(*flight: Any) -> Any:
            self._boarded += 1
            return board(*flight)

        monkeypatch.setattr(flights, "board", counting)

    def pilot(self, **limits: Any) -> Future[Reading[int]]:
        first = self._pool.submit(self._cache.read, "a", **limits)
        assert self._table.entered.wait(10)
        return first

    def waiter(self, **limits: Any) -> Future[Reading[int]]:
        second = self._pool.submit(self._cache.read, "a", **limits)
        deadline = time.monotonic() + 10
        while self._boarded < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return second


@pytest.fixture
def held() -> HeldSource:
    return HeldSource()


@pytest.fixture
def two(
    redis_url: str, name: str, held: HeldSource, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Two]:
    with EntityCache(name, redis_url, mode="cache", source=held, policy=CALM, clock=clock) as cache:
        two = Two(cache, held, monkeypatch)
        yield two
        held.go.set()
        two._pool.shutdown()


def _token(number: int) -> VersionToken:
    return VersionToken.parse(f"log:0:{number}")


def test_r26_what_a_fence_shows_to_lag_is_no_answer_to_a_token(cache: EntityCache[int], table: Table) -> None:
    """The fence knows version 2, the source still gives 1: a plain read gets it, flagged; a token's does not."""
    table.write("a", 1)
    table.write("a", 2)
    cache.apply_many(table.events)
    table.rows["a"] = (1, 1)

    with pytest.raises(NotVisibleYet):
        cache.get("a", min_version=_token(2))
    assert cache.read("a").stale


def test_r26_a_token_is_asked_of_the_source_too_while_redis_is_away(
    without_redis: EntityCache[int], table: Table
) -> None:
    """Nothing is stored then, and nothing older returned."""
    token = _token(table.write("a", 1))

    assert without_redis.get("a", min_version=token) == 1
    with pytest.raises(NotVisibleYet, match="lags"):
        without_redis.get("a", min_version=_token(2))


def test_r26_who_passes_a_lease_holder_is_told_too(cache: EntityCache[int], table: Table, raw: redis.Redis) -> None:
    """The wait is over, the source is asked without a lease: the token holds."""
    table.write("a", 1)
    policy = CachePolicy(jitter=0, early=0, wait=0, passers=5)
    with EntityCache(cache.name, cache._connection.settings, mode="cache", source=table, policy=policy) as hasty:
        hasty.check()
        raw.set(hasty._space.key("a") + ":l", "somebody who hangs", px=60_000)

        assert hasty.get("a") == 1
        with pytest.raises(NotVisibleYet):
            hasty.get("a", min_version=_token(2))


def test_the_token_of_a_delete_reads_as_not_found(cache: EntityCache[int], raw: redis.Redis) -> None:
    """With its tombstone, and when that was evicted: a row that the source has not is as new as it gets."""
    cache.put("a", 1)
    token = cache.delete("a")

    assert cache.get("a", min_version=token) is None
    raw.delete(cache._space.key("a"))
    assert cache.get("a", min_version=token) is None


async def test_readers_with_the_token_of_a_delete_share_a_load(redis_url: str, name: str, raw: redis.Redis) -> None:
    """The load that was under way when they came tells them nothing; the next one serves them all."""
    table = Table()
    async with EntityCache(name, redis_url, mode="cache", source=table, policy=CALM) as cache:
        token = await cache.adelete("a")
        raw.delete(cache._space.key("a"))

        found = await asyncio.gather(*(cache.aget("a", min_version=token) for _ in range(20)))

    assert found == [None] * 20
    assert table.loads <= 3


def test_max_staleness_is_not_served_by_a_load_that_began_longer_ago(
    two: Two, held: HeldSource, clock: ManualClock
) -> None:
    """The other's load saw the row, which changed then; it took longer than this caller lets a value be out of date."""
    held.write("a", 1)
    pilot = two.pilot(max_staleness="1s")
    held.write("a", 2)
    waiter = two.waiter(max_staleness="1s")
    clock.advance(2)
    held.go.set()

    assert pilot.result().value == 1
    assert waiter.result().value == 2


def test_a_token_of_a_delete_holds_without_redis(without_redis: EntityCache[int]) -> None:
    """The source says so."""
    token = without_redis.delete("a")

    assert without_redis.get("a", min_version=token) is None


def test_a_token_is_not_satisfied_by_a_not_found_of_before_it(two: Two, held: HeldSource) -> None:
    """Another's load saw no row; then the row was committed. Who has its token waits for that load and then loads."""
    pilot = two.pilot()
    waiter = two.waiter(min_version=_token(held.write("a", 1)))
    held.go.set()

    assert pilot.result().value is None
    assert waiter.result().value == 1


def test_a_token_that_the_source_does_not_satisfy_fails_its_own_reader_alone(two: Two, held: HeldSource) -> None:
    """Who waits for the same load without a token gets its value."""
    held.write("a", 1)
    pilot = two.pilot(min_version=_token(9))
    waiter = two.waiter()
    held.go.set()

    with pytest.raises(NotVisibleYet):
        pilot.result()
    assert waiter.result().value == 1


def test_a_cache_without_a_source_does_not_take_a_token_for_not_found(name: str, redis_url: str) -> None:
    """It can not know."""
    with EntityCache[int](name, redis_url, mode="cache", policy=CALM) as cache:
        assert cache.get("a") is None
        with pytest.raises(NotVisibleYet, match="no source"):
            cache.get("a", min_version=_token(1))


def test_max_staleness_is_not_served_the_stale_value_of_another_reader(
    two: Two, held: HeldSource, clock: ManualClock
) -> None:
    """The other's load fails, and it accepts the expired value; who asked for a fresh one is told of the failure."""
    two._cache.put("a", 1)
    clock.advance(3601)
    pilot = two.pilot()
    waiter = two.waiter(max_staleness="1s")
    held.error = RuntimeError("no database")
    held.go.set()

    assert pilot.result() == (1, version(1), True)
    with pytest.raises(SourceFailed):
        waiter.result()


def test_max_staleness_does_not_accept_what_a_fence_shows_to_lag(cache: EntityCache[int], table: Table) -> None:
    """For how long it has been out of date nobody knows."""
    table.write("a", 1)
    table.write("a", 2)
    cache.apply_many(table.events)
    table.rows["a"] = (1, 1)

    with pytest.raises(NotVisibleYet):
        cache.get("a", max_staleness="1h")
