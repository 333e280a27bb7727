"""What a coroutine awaits does the same as what a thread calls, on a real Redis."""

from __future__ import annotations

import pytest

from cache.redis_server import RedisServer
from cache.table import Table
from headwater_cache import CachePolicy, EntityCache
from headwater_cache.testing import MemoryLog
from headwater_schemas.clock import ManualClock

SHORT = CachePolicy(soft_ttl=0, hard_ttl="10s", jitter=0, early=0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def table() -> Table:
    return Table()


async def test_a_buffer_is_written_through_after_the_commit(redis_url: str, name: str, table: Table) -> None:
    async with EntityCache(name, redis_url, mode="cache", source=table) as cache:
        for key in "ab":
            table.write(key, 1)
            assert await cache.aget(key) == 1
        called, awaited = cache.buffer(), cache.buffer()
        called.put("a", 2, table.write("a", 2))
        awaited.put("b", 2, table.write("b", 2))
        before = table.loads

        (token,), (atoken,) = cache.flush(called), await cache.aflush(awaited)

        assert await cache.aget("a", min_version=token) == 2
        assert await cache.aget("b", min_version=atoken) == 2
        assert table.loads == before
        assert await cache.aflush(awaited) == cache.flush(called) == []


async def test_a_touch_extends_a_life(redis_url: str, name: str, table: Table, clock: ManualClock) -> None:
    async with EntityCache(name, redis_url, mode="cache", source=table, policy=SHORT, clock=clock) as cache:
        for key in "abc":
            table.write(key, 1)
            assert await cache.aget(key) == 1
        clock.advance(8)

        assert (cache.touch("a"), await cache.atouch("b")) == (True, True)
        assert (cache.touch("none"), await cache.atouch("none")) == (False, False)
        clock.advance(8)
        before = table.loads
        assert [await cache.aget(key) for key in "ab"] == [1, 1]
        assert table.loads == before
        await cache.aget("c")
        assert table.loads == before + 1


async def test_the_hottest_keys_are_found(counting: RedisServer, name: str, table: Table) -> None:
    async with EntityCache(name, counting.url, mode="cache", source=table) as cache:
        for number in range(10):
            table.write(f"k{number}", number)
            for _ in range(1 + 20 * (number < 2)):
                await cache.aget(f"k{number}")

        assert sorted(await cache.ahot_keys(2)) == sorted(cache.hot_keys(2)) == ["k0", "k1"]


async def test_an_audit_finds_what_is_wrong(redis_url: str, name: str, clock: ManualClock) -> None:
    log = MemoryLog()
    log.append("x", "a", b"\x01", 0)
    async with EntityCache[int](name, redis_url, log=log, clock=clock) as view:
        called, awaited = view.auditor(share=1), view.auditor(share=1)
        for auditor in (called, awaited):
            auditor.observe(log.changes)
        clock.advance(1)
        assert [wrong.found for wrong in await view.aaudit(awaited)] == ["absent"]
        assert [wrong.found for wrong in view.audit(called)] == ["absent"]

        view.apply_many(log.changes)
        clock.advance(9)
        assert await view.aaudit(awaited) == view.audit(called) == []
