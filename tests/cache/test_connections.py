"""More callers than connections: they take turns, and a Redis that is well is not taken for silent."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cache.table import Table
from headwater_cache import CachePolicy, EntityCache, NoFreeConnection, RedisSettings
from headwater_cache.testing import MemoryLog
from headwater_ops.testing.proxy import Proxy
from headwater_schemas.errors import CacheUnavailable, Overloaded

pytestmark = pytest.mark.timeout(60)
READ_TIMEOUT = 1.0
"""Each answer takes a small part of it; in their turn all callers take longer."""


@pytest.fixture
def table() -> Table:
    return Table.of(100)


def _cache(proxy: Proxy, name: str, table: Table, *, timeout: float, connections: int) -> EntityCache[int]:
    settings = RedisSettings(
        f"redis://{proxy.address}/0", timeout=timeout, read_timeout=READ_TIMEOUT, max_connections=connections
    )
    return EntityCache(name, settings, mode="cache", source=table, policy=CachePolicy(early=0))


async def test_a_burst_of_coroutines_is_answered_by_redis(proxy: Proxy, name: str, table: Table) -> None:
    """Every key is cached; who waits for a connection longer than for an answer gets one all the same."""
    keys = list(table.rows)
    async with _cache(proxy, name, table, timeout=10, connections=2) as cache:
        await cache.awarm(keys)
        loads, proxy.delay = table.loads, READ_TIMEOUT / 20

        values = await asyncio.gather(*(cache.aget(key) for key in keys))

        assert values == list(range(100))
        assert table.loads == loads


def test_a_burst_of_threads_is_answered_by_redis(proxy: Proxy, name: str, table: Table) -> None:
    """The same for blocking callers."""
    keys = list(table.rows)
    with _cache(proxy, name, table, timeout=10, connections=2) as cache, ThreadPoolExecutor(50) as pool:
        cache.warm(keys)
        loads, proxy.delay = table.loads, READ_TIMEOUT / 20

        assert list(pool.map(cache.get, keys)) == list(range(100))
        assert table.loads == loads
        assert cache._connection.breaker.calm


async def test_who_waits_in_vain_for_a_connection_backs_off(proxy: Proxy, name: str, table: Table) -> None:
    """The source is not asked instead, Redis is not taken for silent, and the breaker stays closed."""
    async with _cache(proxy, name, table, timeout=READ_TIMEOUT, connections=1) as cache:
        await cache.awarm(table.rows)
        loads, proxy.delay = table.loads, READ_TIMEOUT / 4

        found = await asyncio.gather(*(cache.aget(key) for key in table.rows), return_exceptions=True)

        assert {type(each) for each in found} == {int, NoFreeConnection}
        assert table.loads == loads
        proxy.delay = 0
        assert await cache.aget("k7") == 7
        assert table.loads == loads
        assert cache._connection.breaker.calm


def test_no_free_connection_is_no_verdict_on_redis_for_threads_either(proxy: Proxy, name: str, table: Table) -> None:
    """Blocking callers count nothing against the breaker while they wait for each other."""
    keys = list(table.rows)[:20]
    with _cache(proxy, name, table, timeout=READ_TIMEOUT, connections=1) as cache, ThreadPoolExecutor(20) as pool:
        cache.warm(keys)
        loads, proxy.delay = table.loads, READ_TIMEOUT / 4

        def read(key: str) -> object:
            try:
                return cache.get(key)
            except NoFreeConnection as exc:
                return exc

        assert {type(each) for each in pool.map(read, keys)} == {int, NoFreeConnection}
        assert table.loads == loads
        assert cache._connection.breaker.calm


async def test_who_waits_for_a_connection_to_a_silent_redis_goes_to_the_source_as_soon_as_that_is_known(
    proxy: Proxy, name: str, table: Table
) -> None:
    """One after the other would find out: 100 callers, one connection, and each would wait for an answer."""
    async with _cache(proxy, name, table, timeout=10, connections=1) as cache:
        await cache.awarm(table.rows)
        proxy.hole = True
        began = asyncio.get_running_loop().time()

        values = await asyncio.gather(*(cache.aget(key) for key in table.rows))
        took = asyncio.get_running_loop().time() - began
        proxy.hole = False

        assert values == list(range(100))
        assert took < 5 * READ_TIMEOUT


def test_threads_do_not_find_out_one_after_the_other_either(proxy: Proxy, name: str, table: Table) -> None:
    """The same for blocking callers."""
    keys = list(table.rows)[:30]
    with _cache(proxy, name, table, timeout=10, connections=1) as cache, ThreadPoolExecutor(30) as pool:
        cache.warm(keys)
        proxy.hole = True
        began = time.monotonic()

        values = list(pool.map(cache.get, keys))
        took = time.monotonic() - began
        proxy.hole = False

        assert values == list(range(30))
        assert took < 5 * READ_TIMEOUT


async def test_a_view_says_that_no_connection_is_free(proxy: Proxy, name: str) -> None:
    """To back off, and as a Redis that did not answer in time to who knows only that."""
    settings = RedisSettings(f"redis://{proxy.address}/0", timeout=0.3, max_connections=1)
    async with EntityCache[int](name, settings, log=MemoryLog()) as view:
        await view.aput("k", 1)
        proxy.delay = 0.1

        found = await asyncio.gather(*(view.aget("k") for _ in range(20)), return_exceptions=True)

        refused = [each for each in found if isinstance(each, NoFreeConnection)]
        assert refused
        assert all(isinstance(each, CacheUnavailable) and isinstance(each, Overloaded) for each in refused)
        assert "HEADWATER_REDIS_MAX_CONNECTIONS" in str(refused[0])
