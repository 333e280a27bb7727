"""The near cache against a real Redis and redis-py's RESP3: values of a process's own, dropped when Redis says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from cache.driving import Driven
from cache.redis_server import RedisServer
from cache.resp import RespPort
from cache.table import Table
from headwater_cache import CachePolicy, EntityCache, Loaded, NearPolicy, RedisSettings
from headwater_cache.steps import Ask, Command, Join, Request
from headwater_cache.testing import MemoryLog
from headwater_ops.testing.proxy import Proxy
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def near(redis_url: str, name: str, log: MemoryLog, clock: ManualClock) -> Iterator[EntityCache[int]]:
    policy = NearPolicy(ttl="10s", ping="50ms")
    with EntityCache[int](name, redis_url, log=log, near=policy, clock=clock, cold="miss") as cache:
        yield cache


@pytest.fixture
def other(redis_url: str, name: str, log: MemoryLog) -> Iterator[EntityCache[int]]:
    """Another process."""
    with EntityCache[int](name, redis_url, log=log) as cache:
        yield cache


def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def keep(cache: EntityCache[int], key: str) -> None:
    """Read until the near cache has it: the channel takes a moment to come up."""
    assert cache._near is not None
    eventually(lambda: cache.get(key) is not None and cache._near is not None and cache._near.get(key) is not None)


def test_reading_many_asks_redis_only_for_what_is_not_near(near: EntityCache[int], raw: redis.Redis) -> None:
    for key, value in (("a", 1), ("b", 2)):
        near.put(key, value)
    keep(near, "a")
    before = reads(raw)
    assert near.get_many(["a", "a"]) == {"a": 1}
    assert reads(raw) == before
    eventually(lambda: near.get_many(["b", "a", "absent", "b"]) == {"b": 2, "a": 1})
    eventually(lambda: near.get_many(["b"]) == {"b": 2} and near._near is not None and near._near.get("b") is not None)
    before = reads(raw)
    assert near.get_many(["b", "a"]) == {"b": 2, "a": 1}
    assert reads(raw) == before


def test_what_was_read_together_is_dropped_when_another_process_changes_it(
    near: EntityCache[int], other: EntityCache[int]
) -> None:
    near.put("a", 1)
    keep(near, "a")
    assert near.get_many(["a"]) == {"a": 1}
    other.put("a", 2)
    eventually(lambda: near.get_many(["a"]) == {"a": 2})


def reads(raw: redis.Redis) -> int:
    """GET and MGET calls so far."""
    stats = raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("get", "mget"))


def test_a_second_read_does_not_ask_redis(near: EntityCache[int], raw: redis.Redis) -> None:
    """It is answered while Redis is mute."""
    near.put("a", 1)
    keep(near, "a")
    before = raw.info("commandstats")["cmdstat_get"]["calls"]

    assert [near.get("a") for _ in range(5)] == [1] * 5
    assert raw.info("commandstats")["cmdstat_get"]["calls"] == before


async def test_it_serves_coroutines_too(near: EntityCache[int]) -> None:
    """One near cache for threads and loops."""
    near.put("a", 1)
    await asyncio.to_thread(keep, near, "a")

    assert await near.aget("a") == 1
    await near.aclose()


def test_r24_every_write_of_another_process_is_heard(near: EntityCache[int], other: EntityCache[int]) -> None:
    """50 of 50 keys: the failure of another client-side cache on RESP3 was silence (R24)."""
    keys = [f"k{number}" for number in range(50)]
    for key in keys:
        other.put(key, 1)
        keep(near, key)

    for key in keys:
        other.put(key, 2)

    eventually(lambda: all(near.get(key) == 2 for key in keys))


def test_an_event_is_heard_as_a_write_is(near: EntityCache[int], other: EntityCache[int], log: MemoryLog) -> None:
    """Whoever changes the entry: Redis tells."""
    near.put("a", 1)
    keep(near, "a")
    log.append("x", "a", b"\x02", 0)

    other.apply_many(log.changes)

    eventually(lambda: near.get("a") == 2)


def test_r24_a_read_that_a_write_overtook_is_not_kept(
    near: EntityCache[int], other: EntityCache[int], port: RespPort
) -> None:
    """The reader has the old value from Redis and sleeps; the invalidation drops its reservation (R24)."""
    other.put("a", 1)
    other.put("warm-up", 1)
    keep(near, "warm-up")
    assert near._near is not None
    reader = near._read("a", None, None)
    request = next(reader)
    assert isinstance(request, Ask)
    old = port.ask(request.command)
    other.put("a", 2)
    eventually(lambda: near._near is not None and "a" not in near._near._reserved)

    with pytest.raises(StopIteration) as end:
        reader.send(old)

    assert end.value.value.value == 1
    assert near._near.get("a") is None


def test_r25_an_own_write_is_read_back(near: EntityCache[int]) -> None:
    """The writer forgets its copy before the write returns (R25)."""
    near.put("a", 0)
    keep(near, "a")
    for value in range(1, 30):
        near.put("a", value)

        assert near.get("a") == value


def command_of(request: Request) -> Command:
    assert isinstance(request, Ask)
    return request.command


class Tagged:
    """A source whose values carry a tag; the same version each time, as when another row has changed."""

    def __init__(self) -> None:
        self.value = 1

    def load(self, key: str) -> Loaded[int]:
        return Loaded(self.value, 1, ("carrier:UA",))

    def write(self, key: str, value: int | None) -> int:
        raise NotImplementedError


@pytest.fixture
def tagged() -> Tagged:
    return Tagged()


@pytest.fixture
def near_tagged(redis_url: str, name: str, tagged: Tagged) -> Iterator[EntityCache[int]]:
    near = NearPolicy(ttl="10m", ping="50ms")
    with EntityCache[int](name, redis_url, mode="cache", source=tagged, near=near) as cache:
        yield cache


def test_r22_a_tag_that_this_process_invalidates_is_not_served_from_near(
    near_tagged: EntityCache[int], tagged: Tagged
) -> None:
    """At once, not when Redis tells of it (R22)."""
    keep(near_tagged, "a")
    for value in range(2, 30):
        tagged.value = value
        near_tagged.invalidate_tags("carrier:UA")

        assert near_tagged.get("a") == value


def test_r22_a_tag_that_another_process_invalidates_is_heard(
    near_tagged: EntityCache[int], tagged: Tagged, redis_url: str, name: str
) -> None:
    """Long before the ttl (R22, R24, I13)."""
    keep(near_tagged, "a")
    tagged.value = 2
    with EntityCache[int](name, redis_url, mode="cache") as other:
        other.invalidate_tags("carrier:UA")

    eventually(lambda: near_tagged.get("a") == 2)


def test_r22_a_read_that_a_tag_overtook_is_not_kept(
    near_tagged: EntityCache[int], tagged: Tagged, port: RespPort
) -> None:
    """The reader has found its tags to hold and sleeps; then one is invalidated (R22, R24)."""
    keep(near_tagged, "warm-up")
    assert near_tagged.get("a") == 1
    assert near_tagged._near is not None
    near_tagged._near.evict("a")
    reader = near_tagged._read("a", None, None)
    entry = port.ask(command_of(next(reader)))
    tags = port.ask(command_of(reader.send(entry)))
    near_tagged.invalidate_tags("carrier:UA")

    with pytest.raises(StopIteration) as end:
        reader.send(tags)

    assert end.value.value.value == 1
    assert near_tagged._near.get("a") is None


class Held(Table):
    """A table whose load of ``k`` waits, with the row in its hand, to be let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded, self.go_on = threading.Event(), threading.Event()
        for key in ("warm-up", "k"):
            self.write(key, 1)

    def load(self, key: str) -> Loaded[int] | None:
        found = super().load(key)
        if key == "k" and not self.loaded.is_set():
            self.loaded.set()
            assert self.go_on.wait(10)
        return found


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def near_held(redis_url: str, name: str, held: Held) -> Iterator[EntityCache[int]]:
    near, policy = NearPolicy(ttl="10m", ping="50ms"), CachePolicy(wait="30s", lease_ttl="30s")
    with EntityCache(name, redis_url, mode="cache", source=held, near=near, policy=policy) as cache:
        keep(cache, "warm-up")
        yield cache


def test_r24_a_load_whose_lease_was_lost_is_not_kept(
    near_held: EntityCache[int], held: Held, redis_url: str, name: str
) -> None:
    """Redis tells of no invalidation of a key that it does not hold (R24)."""
    with ThreadPoolExecutor(1) as pool, EntityCache[int](name, redis_url, mode="cache") as other:
        reading = pool.submit(near_held.get, "k")
        assert held.loaded.wait(10)
        held.rows["k"] = (2, 3)
        other.invalidate("k")
        held.go_on.set()

        assert reading.result(10) == 1
        assert near_held.get("k") == 2


def test_r24_a_load_that_began_before_the_change_is_not_kept_for_who_joined_it_after(
    near_held: EntityCache[int], held: Held, redis_url: str, name: str, port: RespPort
) -> None:
    """The change has dropped the reservation of who loads, not of who came later and waits for the same load (R24)."""
    near = near_held._near
    assert near is not None
    with ThreadPoolExecutor(1) as pool, EntityCache(name, redis_url, mode="cache", source=held) as other:
        first = pool.submit(near_held.get, "k")
        assert held.loaded.wait(10)
        other.put("k", 2)
        eventually(lambda: "k" not in near._reserved)
        second = Driven(port, near_held._read("k", None, None))
        second.up_to(lambda request: isinstance(request, Join))
        held.go_on.set()

        assert (first.result(10), second.finish().value) == (1, 1)
        assert near.get("k") is None
        assert near_held.get("k") == 2


def test_a_value_is_kept_no_longer_than_its_ttl(near: EntityCache[int], clock: ManualClock) -> None:
    """Whatever the channel says."""
    near.put("a", 1)
    keep(near, "a")
    clock.advance(10.1)
    assert near._near is not None

    assert near._near.get("a") is None


def test_a_lost_channel_drops_everything(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Killed by the server: what was kept is dropped, and nothing is kept until the channel is back."""
    server = RedisServer(tmp_path_factory.mktemp("near"))
    try:
        with EntityCache[int](name, server.url, log=MemoryLog(), near=NearPolicy(ping="50ms")) as cache:
            cache.put("a", 1)
            keep(cache, "a")
            assert cache._near is not None
            server.kill()
            eventually(lambda: cache._near is not None and cache._near.get("a") is None)
            server.start()
            cache.put("a", 2)
            keep(cache, "a")
            assert cache.get("a") == 2
    finally:
        server.kill()


def test_a_silent_channel_is_noticed_after_a_ping(redis_server: RedisServer, name: str) -> None:
    """A network that swallows everything: the age of a kept value stays within ping and timeout (I13)."""
    with Proxy(redis_server.port) as proxy:
        settings = RedisSettings(f"redis://{proxy.address}/0", timeout=0.3)
        with EntityCache[int](name, settings, log=MemoryLog(), near=NearPolicy(ping="50ms")) as cache:
            cache.put("a", 1)
            keep(cache, "a")
            assert cache._near is not None
            began = time.monotonic()
            proxy.hole = True

            eventually(lambda: cache._near is not None and cache._near.get("a") is None)

            assert time.monotonic() - began < 1.0


def test_it_holds_no_more_than_it_may(redis_url: str, name: str, log: MemoryLog) -> None:
    """What is read often stays (W-TinyLFU), and the rest makes room."""
    with EntityCache[int](name, redis_url, log=log, near=NearPolicy(entries=50)) as cache:
        for number in range(200):
            cache.put(str(number), number)
        keep(cache, "0")
        for _ in range(600):
            cache.get("0")
        for number in range(200):
            cache.get(str(number))

        assert cache._near is not None
        assert len(cache._near._entries) <= 50
        assert cache._near.get("0") is not None


@pytest.mark.parametrize("wrong", [{"entries": 0}, {"ttl": 0}, {"ping": 0}])
def test_a_near_cache_has_bounds(wrong: dict[str, int]) -> None:
    """In entries and in time."""
    with pytest.raises(UsageError):
        NearPolicy(**wrong)
