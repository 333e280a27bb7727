"""The lock on a real Redis: who holds it, what its tokens promise, and what they do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cache.driving import Driven
from cache.redis_server import RedisServer
from cache.resp import RespPort
from headwater_cache import EntityCache, InvalidKey, LockLost, LockTaken
from headwater_cache.steps import Ask
from headwater_schemas.errors import CacheUnavailable, UsageError


@pytest.fixture
def cache(redis_url: str, name: str) -> Iterator[EntityCache[int]]:
    with EntityCache[int](name, redis_url) as cache:
        yield cache


def test_one_holds_it_and_another_is_refused(cache: EntityCache[int]) -> None:
    """Until it is given back."""
    with cache.lock("report"):
        with pytest.raises(LockTaken, match="report"), cache.lock("report", wait=0):
            pass
        with cache.lock("another"):
            pass
    with cache.lock("report", wait=0):
        pass


def test_a_waiter_gets_it_when_it_is_given_back(cache: EntityCache[int]) -> None:
    """In no order among several waiters, and each with a larger token."""
    tokens: list[int] = []

    def hold() -> None:
        with cache.lock("report", wait="30s") as lock:
            tokens.append(lock.token)

    threads = [threading.Thread(target=hold) for _ in range(8)]
    with cache.lock("report") as lock:
        tokens.append(lock.token)
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()

    assert len(tokens) == 9
    assert tokens == sorted(set(tokens))


async def test_coroutines_take_turns(cache: EntityCache[int]) -> None:
    """The same lock for asyncio."""
    holders = 0

    async def hold() -> None:
        nonlocal holders
        async with cache.lock("report", wait="30s") as lock:
            holders += 1
            assert holders == 1
            await lock.aextend()
            holders -= 1

    await asyncio.gather(*(hold() for _ in range(10)))
    await cache.aclose()


def test_r10_a_holder_that_slept_past_the_end_is_told_and_can_be_told_by_its_token(
    cache: EntityCache[int], raw: redis.Redis, name: str
) -> None:
    """It keeps believing; the larger token of the next holder is what tells them apart (R10)."""
    with cache.lock("report") as sleeper:
        raw.delete(f"{{{name}:lock:report}}:l")  # its end
        with cache.lock("report", wait=0) as next_one:
            assert next_one.token > sleeper.token
            with pytest.raises(LockLost):
                sleeper.extend()
            sleeper.__exit__(None, None, None)
            with pytest.raises(LockTaken), cache.lock("report", wait=0):
                pass


def test_a_lock_whose_grant_was_lost_on_the_way_is_granted_again(cache: EntityCache[int], port: RespPort) -> None:
    """A retry, of the connection or of the caller, does not wait for itself."""
    cache.check()
    lock = cache.lock("report", wait=0)
    taking = Driven(port, lock._take()).up_to(lambda request: isinstance(request, Ask))
    assert isinstance(taking.request, Ask)
    granted = port.ask(taking.request.command)
    taking.finish()
    assert str(lock.token) == granted.decode()
    lock.extend()
    with pytest.raises(LockTaken), cache.lock("report", wait=0):
        pass
    lock.__exit__(None, None, None)
    with cache.lock("report", wait=0):
        pass


def test_a_held_lock_is_extended(cache: EntityCache[int], raw: redis.Redis, name: str) -> None:
    """Each time by its whole ttl."""
    with cache.lock("report", ttl="60s") as lock:
        raw.pexpire(f"{{{name}:lock:report}}:l", 5000)
        lock.extend()
        assert raw.pttl(f"{{{name}:lock:report}}:l") > 50_000


def test_tokens_go_on_growing_when_redis_is_emptied(tmp_path: Path) -> None:
    """The last token is gone, the server's clock goes on."""
    server = RedisServer(tmp_path)
    with EntityCache[int]("flights", server.url) as cache, server.client() as client:
        with cache.lock("report") as lock:
            before = lock.token
        client.flushall()
        with cache.lock("report") as lock:
            assert lock.token > before
    server.kill()


def test_tokens_never_go_back_with_the_clock_of_the_server(
    cache: EntityCache[int], raw: redis.Redis, name: str
) -> None:
    """While the last one is remembered, the next is larger, whatever the time."""
    ahead = 4_000_000_000_000_000
    raw.set(f"{{{name}:lock:report}}:n", ahead)
    with cache.lock("report") as lock:
        assert lock.token == ahead + 1


def test_a_redis_that_is_away_lets_nobody_in(tmp_path: Path) -> None:
    """And what was held is simply held no longer."""
    server = RedisServer(tmp_path)
    with EntityCache[int]("flights", server.url) as cache:
        with cache.lock("report"):
            server.kill()
        with pytest.raises(CacheUnavailable), cache.lock("report"):
            pass


def test_a_lock_is_entered_once_and_read_while_it_is_held(cache: EntityCache[int]) -> None:
    """Wrong use says what to do."""
    lock = cache.lock("report")
    with pytest.raises(UsageError, match="enter it first"):
        _ = lock.token
    with lock, pytest.raises(UsageError, match="another holder"):
        lock.__enter__()
    with pytest.raises(InvalidKey):
        cache.lock("")
    with pytest.raises(UsageError, match="10ms"):
        cache.lock("report", ttl=0)
