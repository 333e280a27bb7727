"""Filling a view anew beside the live one, on a real Redis."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import pytest
import redis

from headwater_cache import EntityCache, TopicPartition, ViewNotReady, WrongEpoch
from headwater_cache.testing import MemoryLog
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import UsageError

P0 = TopicPartition("test.changes", 0)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def live(redis_url: str, name: str, log: MemoryLog, clock: ManualClock) -> Iterator[EntityCache[int]]:
    with EntityCache[int](name, redis_url, log=log, clock=clock) as cache:
        yield cache


def test_r15_a_new_epoch_takes_over_at_once_when_it_is_ready(
    live: EntityCache[int], redis_url: str, name: str, log: MemoryLog, clock: ManualClock
) -> None:
    """A key whose tombstone was compacted away stays deleted: the new epoch never had it (R15)."""
    for key in ("a", "b"):
        live.put(key, 1)
    live.check_continuity({P0: 0})
    live.apply_many(log.changes)
    live.mark_ready([0], total=1)
    compacted = [log.changes[0]]  # b was deleted, and compaction has removed its tombstone

    with EntityCache[int](name, redis_url, epoch=live.live_epoch() + 1) as fresh:
        fresh.check_continuity({P0: 0})
        fresh.apply_many(compacted, positions={P0: 3})
        assert live.get("b") == 1
        fresh.mark_ready([0], total=1)
        fresh.go_live()
    clock.advance(5)

    assert live.get("b") is None
    assert live.get("a") == 1
    assert live.drop_epoch(1) > 0


@pytest.mark.parametrize("ask", [lambda cache: cache.get("a"), lambda cache: cache.get_many(["b", "a"]).get("a")])
def test_a_reader_of_an_epoch_that_was_dropped_under_it_finds_the_live_one(
    live: EntityCache[int], redis_url: str, name: str, log: MemoryLog, ask: Callable[[EntityCache[int]], int | None]
) -> None:
    """It has just looked which epoch is live, and would not look again for seconds: a miss makes it look."""
    live.put("a", 1)
    live.apply_many(log.changes)
    live.mark_ready([0], total=1)
    assert ask(live) == 1
    with EntityCache[int](name, redis_url, epoch=2) as fresh:
        fresh.apply_many(log.changes)
        fresh.mark_ready([0], total=1)
        fresh.go_live()
        fresh.drop_epoch(1)

    assert ask(live) == 1
    assert live.get("b") is None


def test_a_consumer_that_is_ahead_of_the_new_epoch_goes_back(
    live: EntityCache[int], redis_url: str, name: str, log: MemoryLog, clock: ManualClock
) -> None:
    """It follows the live epoch, and its watermark there says where to read on."""
    live.put("a", 1)
    live.check_continuity({P0: 0})
    live.apply_many(log.changes)
    with EntityCache[int](name, redis_url, epoch=2) as fresh:
        fresh.check_continuity({P0: 0})
        fresh.apply_many(log.changes)
        fresh.mark_ready([0], total=1)
        live.put("a", 2)
        live.apply_many(log.changes[1:])
        fresh.go_live()
    clock.advance(5)

    rewind = live.check_continuity({P0: 2})

    assert rewind is not None
    assert rewind.positions == {P0: 1}
    live.apply_many(log.changes[1:])
    assert live.get("a") == 2


def test_an_epoch_that_is_not_ready_does_not_go_live(redis_url: str, name: str) -> None:
    """Half of the keys would be hidden."""
    with EntityCache[int](name, redis_url, epoch=2) as fresh:
        fresh.mark_ready([0], total=2)
        with pytest.raises(ViewNotReady, match="1 of 2"):
            fresh.go_live()


def test_a_later_epoch_is_not_replaced(redis_url: str, name: str, raw: redis.Redis) -> None:
    """Two fillings at once: the later wins, the other is told."""
    with EntityCache[int](name, redis_url, epoch=2) as fresh:
        fresh.mark_ready([0], total=1)
        raw.set(f"{name}:epoch", 3)
        with pytest.raises(WrongEpoch, match="later"):
            fresh.go_live()


def test_the_live_epoch_is_not_dropped(live: EntityCache[int]) -> None:
    """Only what is retired."""
    live.check()
    with pytest.raises(UsageError, match="not retired"):
        live.drop_epoch(1)


async def test_an_epoch_is_changed_from_coroutines_too(
    live: EntityCache[int], redis_url: str, name: str, clock: ManualClock
) -> None:
    """And what was remembered of its snapshot ends with it."""
    live.put("a", 1)
    await live.aremember_snapshot(b"half")
    async with EntityCache[int](name, redis_url, epoch=await live.alive_epoch() + 1) as fresh:
        with pytest.raises(ViewNotReady):
            await fresh.ago_live()
        await fresh.amark_ready([0], total=1)
        await fresh.ago_live()
    clock.advance(5)

    assert await live.arecall_snapshot() is None
    assert await live.alive_epoch() == 2
    assert await live.adrop_epoch(1) > 0
    await live.aclose()


def test_every_operation_exists_for_threads_and_for_asyncio() -> None:
    """But for what asks nobody: it makes an object, or tells a name."""
    public = {name for name, _ in inspect.getmembers(EntityCache, callable) if not name.startswith("_")}
    makes = {"from_env", "buffer", "lock", "auditor"}

    assert {name for name in public - makes if f"a{name}" not in public and name[1:] not in public} == set()
