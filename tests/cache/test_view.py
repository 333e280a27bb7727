"""View mode against a real Redis: the log is the truth, Redis holds every key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis

from cache.redis_server import RedisServer
from headwater_cache import (
    CachePolicy,
    Change,
    ContinuityLost,
    EntityCache,
    InvalidKey,
    MsgpackValues,
    NotVisibleYet,
    Position,
    RefillNeeded,
    Rewind,
    TopicPartition,
    ViewNotReady,
    log_version,
)
from headwater_cache.testing import MemoryLog
from headwater_schemas.clock import ManualClock
from headwater_schemas.errors import BrokerUnavailable, InvalidValue, RecordTooLarge, UsageError

PATIENCE = CachePolicy(wait="60ms")
VALUES = MsgpackValues[dict[str, int]]()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def view(redis_url: str, name: str, log: MemoryLog) -> Iterator[EntityCache[dict[str, int]]]:
    with EntityCache[dict[str, int]](name, redis_url, log=log, policy=PATIENCE) as cache:
        yield cache


def test_a_put_is_read_back_at_once(view: EntityCache[dict[str, int]]) -> None:
    """The writer holds the lease of the absent key, so its own value becomes visible without the event."""
    token = view.put("UA1", {"delay": 4})

    assert view.get("UA1") == {"delay": 4}
    assert view.get("UA1", min_version=token) == {"delay": 4}
    assert view.read("UA1").version == log_version(1, 0)


async def test_asyncio_and_threads_share_one_cache(view: EntityCache[dict[str, int]]) -> None:
    """What a coroutine writes a thread reads, through the same object."""
    await view.aput("UA1", {"delay": 4})

    assert await asyncio.to_thread(view.get, "UA1") == {"delay": 4}
    assert await view.aget("UA1") == {"delay": 4}
    assert await view.aget_many(["UA1"]) == {"UA1": {"delay": 4}}
    await view.aclose()


def test_a_delete_is_not_found_and_says_its_version(view: EntityCache[dict[str, int]]) -> None:
    """A tombstone is an answer: not found, as of that version."""
    view.put("UA1", {"delay": 4})
    token = view.delete("UA1")

    assert view.get("UA1", min_version=token) is None
    assert view.read("UA1").version == token.version


def test_r5_replay_from_any_offset_changes_nothing(view: EntityCache[dict[str, int]], log: MemoryLog) -> None:
    """The log ends with the newest version of each key, whatever is replayed (R5)."""
    for delay in range(5):
        view.put("UA1", {"delay": delay})
    view.put("UA2", {"delay": 9})
    view.delete("UA2")

    for start in range(len(log.changes)):
        view.apply_many(log.changes[start:])

        assert view.get("UA1") == {"delay": 4}
        assert view.get("UA2") is None


def test_an_empty_redis_is_filled_from_the_log(view: EntityCache[dict[str, int]], log: MemoryLog) -> None:
    """The in-order event path may create values, because the log holds every key's newest version."""
    change = Change("UA1", log_version(1, 0), view._writes._values.encode({"delay": 1})[1])

    assert [result.outcome for result in view.apply_many([change])] == ["applied"]
    assert view.get("UA1") == {"delay": 1}


def test_only_the_newest_change_of_a_key_is_applied(view: EntityCache[dict[str, int]], log: MemoryLog) -> None:
    """Deletes and writes of one batch stand in one order; the rest is superseded."""
    for delay in (1, 2):
        log.append("f", "UA1", view._writes._values.encode({"delay": delay})[1], 0)
    log.append("f", "UA1", None, 0)

    outcomes = [result.outcome for result in view.apply_many(log.changes)]

    assert outcomes == ["superseded", "superseded", "applied"]
    assert view.get("UA1") is None


def test_a_write_through_without_a_lease_leaves_a_fence_that_the_event_fills(
    view: EntityCache[dict[str, int]], log: MemoryLog, raw: redis.Redis
) -> None:
    """While another holds the lease, the write is not served; its own event makes it so."""
    view.check()
    raw.set(view._space.key("UA1") + ":l", "another", px=60_000)
    token = view.put("UA1", {"delay": 4})

    with pytest.raises(NotVisibleYet, match="newer version exists"):
        view.get("UA1")
    view.apply_many(log.changes)

    assert view.get("UA1", min_version=token) == {"delay": 4}


def test_a_token_from_the_future_is_waited_for_and_then_an_error(
    view: EntityCache[dict[str, int]], log: MemoryLog
) -> None:
    """Nothing older than the token is ever returned (I9)."""
    token = view.put("UA1", {"delay": 1})
    newer = type(token)(token.domain, log_version(1, 99))

    with pytest.raises(NotVisibleYet, match="token"):
        view.get("UA1", min_version=newer)


def test_r20_a_miss_says_nothing_before_the_view_is_ready(view: EntityCache[dict[str, int]]) -> None:
    """A half-filled view must not pose as complete (R20)."""
    with pytest.raises(ViewNotReady):
        view.get("UA1")
    view.mark_ready([0], total=2)
    with pytest.raises(ViewNotReady):
        view.get("UA1")

    view.mark_ready([1], total=2)

    assert view.get("UA1") is None


def test_an_emptied_redis_is_not_ready_again(view: EntityCache[dict[str, int]], raw: redis.Redis) -> None:
    """The mark of readiness lives in Redis and goes with it."""
    view.mark_ready([0], total=1)
    raw.delete(view._space.readiness)

    with pytest.raises(ViewNotReady):
        view.get("UA1")


def test_max_staleness_is_bounded_by_when_the_end_of_the_log_was_seen(view: EntityCache[dict[str, int]]) -> None:
    """A value may be old and right; what counts is how far the view is behind."""
    view.put("UA1", {"delay": 4})
    with pytest.raises(NotVisibleYet):
        view.get("UA1", max_staleness="5s")

    view.mark_ready([0], total=1)

    assert view.get("UA1", max_staleness="5s") == {"delay": 4}


def test_bad_input_is_refused_before_anything_is_committed(view: EntityCache[dict[str, int]], log: MemoryLog) -> None:
    """The log has nothing of what was refused."""
    with pytest.raises(InvalidKey):
        view.put("", {"delay": 1})
    with pytest.raises(InvalidKey, match="512"):
        view.put("x" * 513, {"delay": 1})
    with pytest.raises(UsageError, match="delete"):
        view.put("UA1", None)  # type: ignore[arg-type]  # what an untyped caller may do
    with pytest.raises(InvalidValue):
        view.put("UA1", {"delay": object()})  # type: ignore[dict-item]  # what an untyped caller may do
    with pytest.raises(RecordTooLarge):
        view.put("UA1", {"x" * 1_000_001: 1})

    assert log.changes == []


def test_a_failed_append_gives_its_lease_back(view: EntityCache[dict[str, int]], log: MemoryLog) -> None:
    """The next writer of the absent key gets the lease at once."""
    log.error = BrokerUnavailable("no broker")
    with pytest.raises(BrokerUnavailable):
        view.put("UA1", {"delay": 1})

    log.error = None
    view.put("UA1", {"delay": 2})

    assert view.get("UA1") == {"delay": 2}


def test_r16_a_topic_that_grew_begins_a_new_epoch_of_versions(view: EntityCache[dict[str, int]]) -> None:
    """The key moved to another partition, whose offsets are smaller; what is left of the old one is stale."""
    old = Change("UA1", log_version(1, 5000), VALUES.encode({"delay": 1})[1], 0, Position("flights.changes", 0, 5000))
    new = Change("UA1", log_version(2, 3), VALUES.encode({"delay": 2})[1], 0, Position("flights.changes", 4, 3))
    left = Change("UA1", log_version(1, 5001), VALUES.encode({"delay": 9})[1], 0, Position("flights.changes", 0, 5001))

    assert [result.outcome for result in view.apply_many([old], positions={})] == ["applied"]
    assert [result.outcome for result in view.apply_many([new], positions={})] == ["applied"]
    assert [result.outcome for result in view.apply_many([left], positions={})] == ["stale"]
    assert view.get("UA1") == {"delay": 2}


def test_r21_a_poison_change_fences_its_key(view: EntityCache[dict[str, int]]) -> None:
    """What is known to be newer is never hidden behind the old value (R21)."""
    view.put("UA1", {"delay": 1})
    assert view.fence("UA1", log_version(1, 7)).outcome == "applied"

    with pytest.raises(NotVisibleYet):
        view.get("UA1")


def test_touch_tells_whether_there_is_a_value(view: EntityCache[dict[str, int]]) -> None:
    """A view has no expiry to extend, but the answer holds."""
    view.put("UA1", {"delay": 1})

    assert view.touch("UA1")
    assert not view.touch("UA2")
    assert view.get("UA1") == {"delay": 1}


def test_r20_a_view_that_was_emptied_in_silence_is_not_marked_ready_again(
    view: EntityCache[dict[str, int]], raw: redis.Redis
) -> None:
    """No event came by; the mark itself notices, and the next batch still does (R20)."""
    view.apply_many([at(0), at(1)])
    view.mark_ready([0], total=1)
    raw.delete(view._space.watermarks, view._space.readiness)

    with pytest.raises(ContinuityLost, match="emptied"):
        view.mark_ready([0], total=1)
    with pytest.raises(ViewNotReady):
        view.get("UA2")
    with pytest.raises(ContinuityLost):
        view.apply_many([at(2)])


def test_a_new_consumer_marks_nothing_that_redis_lacks(view: EntityCache[dict[str, int]]) -> None:
    """It has applied nothing itself yet, so it says how far the partition was applied."""
    with pytest.raises(ContinuityLost, match="emptied"):
        view.mark_ready(positions={P0: 2}, total=1)
    view.apply_many([at(0)])
    view.apply_many([at(1)])

    view.mark_ready(positions={P0: 2}, total=1)

    assert view.get("UA2") is None


# Continuity

P0 = TopicPartition("flights.changes", 0)


def at(offset: int, key: str = "UA1", value: bytes = b"\x80") -> Change:
    return Change(key, log_version(1, offset), value, 0, Position(*P0, offset))


def test_a_first_start_needs_no_rewind(view: EntityCache[dict[str, int]]) -> None:
    """Nothing applied, nothing lost."""
    assert view.check_continuity({P0: 0}) is None


def test_watermarks_follow_the_batches(view: EntityCache[dict[str, int]]) -> None:
    """A consumer that goes on where the last one committed is told to read on."""
    view.apply_many([at(0), at(1)])
    view.apply_many([at(5)])  # compaction leaves holes

    assert view.check_continuity({P0: 6}) is None


def test_an_emptied_redis_is_rewound_to_the_start(
    view: EntityCache[dict[str, int]], raw: redis.Redis, redis_url: str
) -> None:
    """Both the consumer that was there and one that starts later are told."""
    view.apply_many([at(0), at(1)])
    raw.delete(view._space.watermarks)

    with pytest.raises(ContinuityLost, match="emptied") as lost:
        view.apply_many([at(2)])
    with EntityCache[dict[str, int]](view.name, redis_url) as later:
        rewind = later.check_continuity({P0: 3})

    assert lost.value.rewind == rewind == Rewind("emptied", {P0: 0})
    view.apply_many([at(0), at(1), at(2)])
    assert view.check_continuity({P0: 3}) is None


def test_a_failover_is_rewound_to_what_the_replica_had(
    view: EntityCache[dict[str, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """SIGKILL of the primary with applies the replica never got: its own watermark says where to read on (R19, I12)."""
    replica = RedisServer(tmp_path_factory.mktemp("replica"), "--repl-diskless-sync-delay", "0")
    primary = RedisServer(tmp_path_factory.mktemp("primary"), "--repl-diskless-sync-delay", "0")
    try:
        with EntityCache[dict[str, int]](view.name, primary.url, cold="miss") as cache, replica.client() as there:
            there.replicaof("127.0.0.1", primary.port)
            cache.apply_many([at(0, "A"), at(1, "B")])
            with primary.client() as here:
                here.set("last", 1)
                assert here.wait(1, 4000) == 1
            there.replicaof("NO", "ONE")
            cache.apply_many([at(2, "C"), at(3, "A", b"\x81\xa1x\x01")])
            primary.kill()
        with EntityCache[dict[str, int]](view.name, replica.url, cold="miss") as cache:
            rewind = cache.check_continuity({P0: 4})
            assert rewind == Rewind("failover", {P0: 2})

            cache.apply_many([at(2, "C"), at(3, "A", b"\x81\xa1x\x01")])

            assert cache.get_many(["A", "B", "C"]) == {"A": {"x": 1}, "B": {}, "C": {}}
            assert cache.check_continuity({P0: 4}) is None
    finally:
        replica.kill()
        primary.kill()


# A log that is not what it was


def test_r16_a_view_whose_topic_grew_is_refused(view: EntityCache[dict[str, int]], redis_url: str) -> None:
    """Keys have moved to partitions whose offsets are smaller; for all, until a new epoch."""
    view.apply_many([at(0)])
    view.mark_ready(positions={P0: 1}, total=1)
    assert view.get("UA2") is None
    with EntityCache[dict[str, int]](view.name, redis_url) as later:
        for cache in (later, view):
            with pytest.raises(RefillNeeded, match=r"1 partitions and has 2.*headwater cache warm.*epoch="):
                cache.mark_ready(positions={P0: 1}, total=2)
        with pytest.raises(RefillNeeded, match="1 partitions and has 2"):
            view.mark_ready(positions={P0: 1}, total=1)  # a worker whose count is old
        with pytest.raises(ViewNotReady):
            later.get("UA2")
    with EntityCache[dict[str, int]](view.name, redis_url, epoch=2) as fresh:
        fresh.apply_many([at(0)])
        fresh.mark_ready(positions={P0: 1}, total=2)


def test_r16_a_view_whose_topic_was_made_anew_is_refused(view: EntityCache[dict[str, int]], redis_url: str) -> None:
    """The log ends before what was applied of it, so what comes would pass for older; seen twice, it is no old end."""
    view.apply_many([at(number) for number in range(5)])
    view.mark_ready(positions={P0: 5}, total=1, ends={P0: 6})
    with EntityCache[dict[str, int]](view.name, redis_url) as sync:
        sync.apply_many([at(0)])
        sync.mark_ready(positions={P0: 1}, total=1, ends={P0: 1})
        sync.mark_ready(positions={P0: 5}, total=1, ends={P0: 5})
        sync.mark_ready(positions={P0: 1}, total=1, ends={P0: 1})
        with pytest.raises(RefillNeeded, match=r"beyond the end of flights\.changes\[0\]"):
            sync.mark_ready(positions={P0: 1}, total=1, ends={P0: 1})
        with pytest.raises(ViewNotReady):
            sync.get("UA2")


def test_r15_a_view_that_was_away_for_longer_than_tombstones_live_is_refused(redis_url: str, name: str) -> None:
    """A deletion may have come and gone meanwhile; nothing in the log tells of it (R15)."""
    clock = ManualClock()
    with EntityCache[dict[str, int]](name, redis_url, clock=clock) as view:
        view.apply_many([at(0)])
        for away in (0, 3000):
            clock.advance(away)
            view.mark_ready(positions={P0: 1}, total=1, tombstones=3600)
        clock.advance(4000)
        for _ in range(2):
            with pytest.raises(RefillNeeded, match=r"1\.1 h.*delete\.retention\.ms"):
                view.mark_ready(positions={P0: 1}, total=1, tombstones=3600)
        with pytest.raises(ViewNotReady):
            view.get("UA2")


def test_a_view_whose_versions_are_no_offsets_may_be_away(redis_url: str, name: str) -> None:
    """A replication slot forgets nothing."""
    clock = ManualClock()
    with EntityCache[dict[str, int]](name, redis_url, domain="lsn", clock=clock) as view:
        view.mark_ready([0], total=1, tombstones=3600)
        clock.advance(4000)
        view.mark_ready([0], total=1, tombstones=3600)
