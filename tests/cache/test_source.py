"""Cache mode against a real Redis: a source is the truth, a miss loads it once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import redis

from cache.driving import Driven
from cache.redis_server import RedisServer
from cache.resp import RespPort
from cache.table import Table
from headwater_cache import (
    CachePolicy,
    ContinuityLost,
    EntityCache,
    Loaded,
    NotVisibleYet,
    RedisSettings,
    Rewind,
    SourceBusy,
    SourceFailed,
    TopicPartition,
    UnsafeRedis,
    VersionToken,
    cached,
    version,
)
from headwater_cache.scripts import ACQUIRE
from headwater_cache.steps import Ask, Pause
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import CacheUnavailable, UsageError

CALM = CachePolicy(jitter=0, early=0, wait="60ms")


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


Make = Callable[..., EntityCache[int]]


@pytest.fixture
def make(redis_url: str, name: str, table: Table) -> Iterator[Make]:
    """Makes caches of one namespace, as several processes would."""
    with ExitStack() as stack:

        def one(policy: CachePolicy = CALM, **options: object) -> EntityCache[int]:
            arguments = {"mode": "cache", "source": table, "policy": policy, **options}
            cache: EntityCache[int] = EntityCache(name, redis_url, **arguments)  # type: ignore[arg-type]  # options of a test
            return stack.enter_context(cache)

        yield one


def test_a_miss_loads_once_and_a_hit_not_at_all(make: Make, table: Table) -> None:
    """Read-through."""
    table.write("a", 1)
    cache = make()

    assert [cache.get("a"), cache.get("a")] == [1, 1]
    assert table.loads == 1


def test_a_write_is_written_through(make: Make, table: Table) -> None:
    """The source has it first, the cache right after, under the lease of the absent key."""
    cache = make()
    token = cache.put("a", 1)

    assert table.rows["a"] == (1, 1)
    assert cache.get("a", min_version=token) == 1
    assert table.loads == 0


def test_what_the_source_has_not_is_remembered_for_a_short_time(make: Make, table: Table, clock: ManualClock) -> None:
    """A negative entry with its own TTL keeps lookups of nothing away from the source."""
    cache = make(clock=clock)
    assert [cache.get("a"), cache.get("a")] == [None, None]
    assert table.loads == 1

    clock.advance(31)

    assert cache.get("a") is None
    assert table.loads == 2


def test_a_soft_expired_value_is_served_and_refreshed_behind(make: Make, table: Table, clock: ManualClock) -> None:
    """Nobody waits for the refresh."""
    cache = make(clock=clock)
    cache.put("a", 1)
    table.rows["a"] = (2, 2)  # changed without an event
    clock.advance(301)

    assert cache.get("a") == 1
    cache.close()  # finishes what runs in the background

    assert cache.get("a") == 2
    assert table.loads == 1


def test_r27_refreshes_are_rationed(make: Make, table: Table, clock: ManualClock) -> None:
    """A mass expiry reaches the source as a trickle (R27)."""
    cache = make(CachePolicy(jitter=0, early=0, refreshes=3), clock=clock)
    for key in map(str, range(20)):
        cache.put(key, 1)
    clock.advance(301)

    assert len(cache.get_many([str(number) for number in range(20)])) == 20
    cache.close()

    assert table.loads == 3


def test_r27_expiries_are_spread(make: Make, raw: redis.Redis, name: str) -> None:
    """What is written together does not expire together (R27)."""
    cache = make(CachePolicy())
    for key in map(str, range(30)):
        cache.put(key, 1)

    lives = {raw.pttl(f"{{{name}:1:{key}}}") for key in map(str, range(30))}

    assert max(lives) - min(lives) > 60_000  # ±10 % of an hour  # type: ignore[operator,type-var]  # redis-py: sync or async


def test_xfetch_refreshes_early_the_slower_the_load(make: Make, table: Table, clock: ManualClock) -> None:
    """Shortly before the expiry some reader refreshes; long before it, none does."""
    table.write("a", 1)
    cache = make(CachePolicy(jitter=0, early=1.0), clock=clock)
    table.after_load = lambda: clock.advance(2)  # the load takes 2 s
    cache.get("a")
    for _ in range(100):
        cache.get("a")
    cache.close()
    assert table.loads == 1

    clock.advance(299)
    for _ in range(100):
        cache.get("a")
    cache.close()

    assert table.loads == 2


def test_a_failing_source_is_covered_by_a_stale_value_that_says_so(
    make: Make, table: Table, clock: ManualClock
) -> None:
    """Stale-if-error, for as long as the policy allows."""
    cache = make(clock=clock)
    cache.put("a", 1)
    table.error = RuntimeError("no database")
    clock.advance(3601)

    assert cache.read("a") == (1, version(1), True)

    clock.advance(301)
    with pytest.raises(SourceFailed, match="no database"):
        cache.get("a")


def test_a_failed_load_gives_its_lease_back(make: Make, table: Table) -> None:
    """The next reader loads at once."""
    cache = make()
    table.error = RuntimeError("no database")
    with pytest.raises(SourceFailed):
        cache.get("a")
    table.error = None
    table.write("a", 1)

    assert make().get("a") == 1


def test_touch_extends_what_lives_and_revives_nothing(make: Make, table: Table, clock: ManualClock) -> None:
    """Past its hard expiry a value is only there to refuse older ones."""
    cache = make(CachePolicy(soft_ttl="50s", hard_ttl="60s", jitter=0, early=0), clock=clock)
    cache.put("k", 1)
    clock.advance(40)
    assert cache.touch("k")
    clock.advance(40)
    assert cache.read("k").stale is False
    clock.advance(30)
    assert not cache.touch("k")
    table.rows["k"] = (2, 2)
    assert cache.get("k") == 2


def test_max_staleness_loads_what_may_be_older(make: Make, table: Table, clock: ManualClock) -> None:
    """The refreshed entry starts a new life at the same version."""
    table.write("a", 1)
    cache = make(clock=clock)
    cache.get("a")
    clock.advance(20)

    assert cache.get("a", max_staleness="30s") == 1
    assert table.loads == 1
    assert cache.get("a", max_staleness="10s") == 1
    assert cache.get("a", max_staleness="10s") == 1
    assert table.loads == 2


def test_r26_a_newer_token_reads_the_source(make: Make, table: Table) -> None:
    """Another service wrote; its token is honoured though the cache has an older value (R26, I9)."""
    cache = make()
    cache.put("a", 1)
    token = VersionToken.parse(f"log:0:{table.write('a', 2)}")

    assert cache.get("a") == 1
    assert cache.get("a", min_version=token) == 2
    with pytest.raises(NotVisibleYet):
        cache.get("a", min_version=VersionToken.parse("log:0:99"))


def test_redis_away_means_bypass_and_the_bulkhead_holds(table: Table) -> None:
    """Reads go to the source, so many at once and no more (I11)."""
    table.write("a", 1)
    away = RedisSettings("redis://127.0.0.1:1", timeout=0.1)
    cache = EntityCache[int]("flights", away, mode="cache", policy=CachePolicy(loads=2, wait="20ms"))
    gate = threading.Event()

    def slow(key: str) -> Loaded[int] | None:
        gate.wait(5)
        return table.load(key)

    def read(key: str) -> object:
        try:
            return cache.load(key, slow, "a").value
        except SourceBusy as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        readings = [pool.submit(read, str(number)) for number in range(8)]
        while sum(reading.done() for reading in readings) < 6:
            time.sleep(0.001)
        gate.set()
        results = [reading.result() for reading in readings]

    assert results.count(1) == 2
    assert table.loads == 2


def test_a_write_succeeds_while_redis_is_away(table: Table) -> None:
    """The truth has it; the event repairs the cache."""
    settings = RedisSettings("redis://127.0.0.1:1", timeout=0.1)
    with EntityCache("flights", settings, mode="cache", source=table, policy=CALM) as cache:
        assert cache.put("a", 1) == VersionToken("log", version(1))
        assert table.rows["a"] == (1, 1)


def test_r29_a_dead_redis_costs_a_few_timeouts_and_then_nothing(table: Table) -> None:
    """The breaker opens; a slow server is a bad one too (R29)."""
    import socket

    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        table.write("a", 1)
        settings = RedisSettings(f"redis://127.0.0.1:{hole.getsockname()[1]}", timeout=0.1)
        with EntityCache("flights", settings, mode="cache", source=table, policy=CALM) as cache:
            took = []
            for _ in range(40):
                began = time.monotonic()
                assert cache.get("a") == 1
                took.append(time.monotonic() - began)
    assert max(took) < 2 * settings.timeout + 0.1
    assert min(took[30:]) < 0.05, "every read still waits for Redis"


async def test_r28_coroutines_of_one_process_share_one_flight(make: Make, table: Table) -> None:
    """A hot key that is cold: one load, however many ask (R28)."""
    cache = make(policy=CachePolicy(wait="5s"))
    loads = 0

    async def slow() -> Loaded[int]:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.05)
        return Loaded(7, 1)

    readings = await asyncio.gather(*(cache.aload("a", slow) for _ in range(50)))

    assert {reading.value for reading in readings} == {7}
    assert loads == 1
    await cache.aclose()


async def test_one_flight_is_shared_while_redis_is_away(table: Table) -> None:
    """The source is asked once per process and key then too (I11)."""
    away = RedisSettings("redis://127.0.0.1:1", timeout=0.1)
    loads = 0

    async def slow() -> Loaded[int]:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.3)
        return Loaded(7, 1)

    async with EntityCache[int]("flights", away, mode="cache", policy=CachePolicy(wait="5s")) as cache:
        readings = await asyncio.gather(*(cache.aload("a", slow) for _ in range(50)))

    assert {reading.value for reading in readings} == {7}
    assert loads == 1


async def test_a_load_that_fails_after_its_waiters_left_is_told_to_its_pilot_alone(make: Make) -> None:
    """The event loop does not hear of a failure that nobody has seen."""
    cache, heard = make(policy=CachePolicy(wait="10ms", passers=0)), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["message"]))
    entered, left = asyncio.Event(), asyncio.Event()

    async def failing() -> Loaded[int]:
        entered.set()
        await left.wait()
        raise OSError("away")

    pilot = asyncio.create_task(cache.aload("a", failing))
    await entered.wait()
    with pytest.raises(SourceBusy):
        await cache.aload("a", failing)
    left.set()
    with pytest.raises(SourceFailed):
        await pilot
    del pilot
    await cache.aclose()
    gc.collect()

    assert heard == []


async def test_a_cancelled_load_lets_another_fly(make: Make, table: Table) -> None:
    """The pilot's own timeout is not everybody's, and its lease is given back."""
    cache = make(policy=CachePolicy(wait="5s"))
    entered = asyncio.Event()

    async def forever() -> Loaded[int]:
        entered.set()
        await asyncio.sleep(60)
        raise AssertionError

    async def quick() -> Loaded[int]:
        return Loaded(7, 1)

    pilot = asyncio.create_task(cache.aload("a", forever))
    await entered.wait()
    waiting = asyncio.create_task(cache.aload("a", quick))
    await asyncio.sleep(0.01)
    pilot.cancel()

    assert (await waiting).value == 7
    await cache.aclose()


def test_r28_waiters_of_other_processes_wait_and_then_a_few_pass(
    make: Make, table: Table, raw: redis.Redis, name: str
) -> None:
    """The lease holder hangs: B readers go to the source without storing, the rest get a typed error (R28, I6)."""
    table.write("a", 1)
    policy = CachePolicy(jitter=0, early=0, wait="30ms", passers=2)
    first = make(policy)
    first.check()
    raw.set(f"{{{name}:1:a}}:l", "somebody who hangs", px=60_000)

    assert [make(policy).get("a") for _ in range(2)] == [1, 1]
    with pytest.raises(SourceBusy, match="passers"):
        make(policy).get("a")
    assert table.loads == 2


def test_an_expired_value_is_served_while_another_loads(
    make: Make, table: Table, clock: ManualClock, raw: redis.Redis, name: str
) -> None:
    """Waiters get the stale value, flagged, instead of waiting."""
    cache = make(clock=clock)
    cache.put("a", 1)
    clock.advance(3601)
    raw.set(f"{{{name}:1:a}}:l", "somebody who loads", px=60_000)

    assert cache.read("a") == (1, version(1), True)


def test_get_many_loads_only_what_is_missing(make: Make, table: Table) -> None:
    """One round trip for the hits."""
    for key in "abc":
        table.write(key, ord(key))
    cache = make()
    cache.get("a")

    assert cache.get_many(["a", "b", "c", "d"]) == {"a": 97, "b": 98, "c": 99}
    assert table.loads == 4


async def test_get_many_does_not_overrun_its_own_bulkhead(make: Make, table: Table) -> None:
    """Missing keys are loaded so many at a time as may be, however many they are."""
    for number in range(20):
        table.write(str(number), number)

    class Slow:
        async def load(self, key: str) -> Loaded[int] | None:
            await asyncio.sleep(0.01)
            return table.load(key)

        async def write(self, key: str, value: int | None) -> int:
            return table.write(key, value)

    cache = make(CachePolicy(loads=2, wait="5ms"), source=Slow())

    assert len(await cache.aget_many([str(number) for number in range(20)])) == 20
    await cache.aclose()


def test_invalidate_voids_a_load_in_flight(make: Make, table: Table) -> None:
    """What was loaded before is returned to its caller, and not kept."""
    table.write("a", 1)
    cache = make()

    def change() -> None:
        table.write("a", 2)
        cache.invalidate("a")

    table.after_load = change

    assert cache.get("a") == 1
    assert cache.get("a") == 2
    assert cache.invalidate("a")
    assert table.loads == 2


def test_a_view_option_in_cache_mode_is_refused(redis_url: str, table: Table) -> None:
    """Each mode says what it takes."""
    with pytest.raises(UsageError, match="source"):
        EntityCache("x", redis_url, source=table)
    with pytest.raises(UsageError, match="view"):
        EntityCache[int]("x", redis_url).load("a", lambda: 1)


def test_evicting_is_allowed_in_cache_mode(make: Make, redis_server: RedisServer) -> None:
    """Only a view needs every key."""
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            make().check()
            with pytest.raises(UnsafeRedis), EntityCache[int]("x", redis_server.url) as view:
                view.check()
        finally:
            client.config_set("maxmemory-policy", "noeviction")


# Tags


def test_a_tag_drops_everything_that_carries_it(make: Make) -> None:
    """One command, however many entries; others stay (and so do those loaded afterwards)."""
    cache = make(source=None)
    loads: list[str] = []

    def load(key: str) -> Loaded[str]:
        loads.append(key)
        return Loaded(key, 1, ("carrier:UA", "day:1") if key.startswith("ua") else ("carrier:DL",))

    def read() -> list[object]:
        return [cache.load(key, load, key).value for key in ("ua1", "ua2", "dl1")]

    assert read() == read() == ["ua1", "ua2", "dl1"]
    assert loads == ["ua1", "ua2", "dl1"]
    cache.invalidate_tags("carrier:UA", "never used")
    assert read() == read() == ["ua1", "ua2", "dl1"]
    assert loads == ["ua1", "ua2", "dl1", "ua1", "ua2"]


def test_a_lost_clock_holds_nothing(make: Make, raw: redis.Redis) -> None:
    """Evicted with all the invalidations it knew: what was loaded under it is loaded again."""
    cache = make(source=None)
    loads = []

    def load() -> Loaded[int]:
        loads.append(1)
        return Loaded(1, 1, ("t",))

    cache.invalidate_tags("t")
    cache.load("a", load)
    raw.delete(cache._space.tags)
    cache.load("a", load)

    assert len(loads) == 2


def test_tags_are_several_texts(make: Make) -> None:
    """One text would be taken apart into its letters."""
    with pytest.raises(UsageError, match="several"):
        make().invalidate_tags("")
    with pytest.raises(UsageError, match="several"):
        make(source=None).load("a", lambda: Loaded(1, 1, "tag"))


def test_a_lease_whose_grant_was_lost_on_the_way_is_granted_again(make: Make, table: Table, port: RespPort) -> None:
    """A retry of the connection does not wait for itself."""
    cache = make()
    cache.check()
    table.write("k", 1)
    reading = Driven(port, cache._read("k", None, None))
    reading.up_to(lambda request: isinstance(request, Ask) and request.command[1] == ACQUIRE.sha)
    assert isinstance(reading.request, Ask)
    assert port.ask(reading.request.command) == [b"g"]
    reading.answer()

    assert not isinstance(reading.request, Pause)
    assert reading.finish().value == 1
    assert cache.explain("k").state == "V"


# The decorator


def test_a_cached_function_runs_once(make: Make) -> None:
    """Until it is invalidated."""
    calls = []

    @cached(make(source=None), key="square:{of}")
    def square(of: int) -> int:
        """The square."""
        calls.append(of)
        return of * of

    assert [square(3), square(of=3), square(4)] == [9, 9, 16]
    assert calls == [3, 4]
    assert square.invalidate(3)
    assert square(3) == 9
    assert calls == [3, 4, 3]
    assert square.__doc__ == "The square."


async def test_a_cached_coroutine_function_is_awaited(make: Make) -> None:
    """The same decorator, the same core."""
    cache = make(source=None)
    calls = []

    @cached(cache, key="square:{of}")
    async def square(of: int) -> int | None:
        calls.append(of)
        return of * of if of > 0 else None

    assert [await square(3), await square(3), await square(-1), await square(-1)] == [9, 9, None, None]
    assert calls == [3, -1]
    await cache.aclose()


def test_a_key_that_names_no_parameter_is_refused_at_once(make: Make) -> None:
    """At decoration, not at the first call."""
    with pytest.raises(UsageError, match=r"square.*braces"):

        @cached(make(), key="{other}")
        def square(of: int) -> int:
            return of


def test_an_async_source_is_named_when_a_thread_calls_it(make: Make) -> None:
    """The message says what to call instead."""

    class Later:
        async def load(self, key: str) -> Loaded[int] | None:
            return None

        async def write(self, key: str, value: int | None) -> int:
            return 1

    with pytest.raises(UsageError, match="aget"):
        make(source=Later()).get("a")


def test_unavailable_is_what_a_view_says(table: Table) -> None:
    """A view has nowhere else to ask."""
    with EntityCache[int]("flights", RedisSettings("redis://127.0.0.1:1", timeout=0.1)) as view:
        with pytest.raises(CacheUnavailable):
            view.get("a")


P0 = TopicPartition("table.changes", 0)


def test_an_emptied_redis_is_told_once_and_only_what_is_recent_is_read_again(
    make: Make, table: Table, raw: redis.Redis, clock: ManualClock
) -> None:
    """What it forgot is loaded when it is asked for, so no topic is read from its beginning (R20)."""
    cache = make(clock=clock)
    for number in range(5):
        table.write("a", number)
    cache.apply_many(table.events)
    cache.mark_ready(positions={P0: 5}, total=1)
    raw.delete(cache._space.watermarks, cache._space.readiness)

    with pytest.raises(ContinuityLost) as lost:
        cache.mark_ready(positions={P0: 5}, total=1)
    assert lost.value.rewind == Rewind("emptied", {P0: 0}, clock.time() - 30)
    cache.mark_ready(positions={P0: 4}, total=1)  # where the last thirty seconds began
    cache.apply_many(table.events[4:])
    table.write("a", 9)
    cache.apply_many(table.events[5:])

    assert cache.explain("a").watermarks == {"table.changes:0": 6}
    assert make().check_continuity({P0: 6}) is None
