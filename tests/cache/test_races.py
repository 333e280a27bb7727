"""The races of a look-aside cache, each laid out command by command on a real Redis (k key, v1 < v2).

Each test is named after the race it closes; the schedules (test_schedules.py) mix them at random.
"""

from __future__ import annotations

from typing import TypeVar

import pytest

from cache.driving import Driven
from cache.resp import RespPort
from cache.table import VALUES, Table
from headwater_cache import CachePolicy, Change, EntityCache, Loaded, Reading, VersionToken, version
from headwater_cache.entry import Entry, unpack
from headwater_cache.steps import Ask, Call, Request, Step
from headwater_cache.tags import invalidate_tags
from headwater_schemas.clock import ManualClock

T = TypeVar("T")
POLICY = CachePolicy(jitter=0, early=0)


class Process:
    """One process with a cache of its own on the common Redis, driven by hand."""

    def __init__(self, port: RespPort, cache: EntityCache[int], clock: ManualClock) -> None:
        self.port = port
        self.cache = cache
        self.clock = clock
        self.finish(cache._space.look())

    def read(self, key: str = "k") -> Driven[Reading[int]]:
        return Driven(self.port, self.cache._reads.read(key, None, None))

    def put(self, value: int, key: str = "k") -> Driven[VersionToken]:
        return Driven(self.port, self.cache._writes.put(key, value))

    def delete(self, key: str = "k") -> Driven[VersionToken]:
        return Driven(self.port, self.cache._writes.delete(key))

    def events(self, *changes: Change) -> list[str]:
        return [result.outcome for result in self.finish(self.cache._applier.apply(changes, {}))]

    def finish(self, step: Step[T]) -> T:
        return Driven(self.port, step).finish()

    @property
    def entry(self) -> Entry | None:
        data = self.port.ask(("GET", self.cache._space.key("k")))
        return unpack(data) if data is not None else None

    @property
    def state(self) -> str | None:
        return self.entry.state if self.entry is not None else None

    def evict(self) -> None:
        self.port.ask(("DEL", self.cache._space.key("k")))

    def expire_lease(self) -> None:
        self.port.ask(("DEL", self.cache._space.key("k") + ":l"))


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def one(port: RespPort, table: Table, redis_url: str, name: str, clock: ManualClock) -> Process:
    return _process(port, table, redis_url, name, clock)


@pytest.fixture
def two(port: RespPort, table: Table, redis_url: str, name: str, clock: ManualClock) -> Process:
    return _process(port, table, redis_url, name, clock)


def _process(port: RespPort, table: Table, url: str, name: str, clock: ManualClock) -> Process:
    return Process(port, EntityCache(name, url, mode="cache", source=table, policy=POLICY, clock=clock), clock)


def is_apply(request: Request) -> bool:
    """The write-through or fill, which comes right after the source."""
    return isinstance(request, Ask) and len(request.command) > 8


def test_r1_a_fill_that_an_event_overtook_is_refused(one: Process, two: Process, table: Table) -> None:
    """The reader has v1 and sleeps; v2 is committed and its event applied; the reader's fill is too late."""
    table.write("k", 1)
    reader = one.read().through(Call)
    table.write("k", 2)
    two.events(table.events[-1])

    assert reader.finish().value == 1
    assert two.state == "F"
    assert two.read().finish().value == 2


def test_r1_a_fill_that_a_write_through_overtook_is_refused(one: Process, two: Process, table: Table) -> None:
    """The same with the writer's own write-through in place of the event."""
    table.write("k", 1)
    reader = one.read().through(Call)
    two.put(2).finish()
    reader.finish()

    assert two.read().finish().value == 2


def test_r2_writes_that_land_in_the_other_order_end_at_the_newest(one: Process, two: Process) -> None:
    """The version decides, not the arrival, not a clock."""
    one.put(0).finish()
    first = one.put(1).up_to(is_apply)
    two.put(2).finish()
    first.finish()

    assert one.read().finish() == Reading(2, version(3))


def test_r3_a_crash_between_commit_and_cache_is_healed_by_the_event(one: Process, two: Process, table: Table) -> None:
    """Until the event the old value is served: staleness is at most the consumer's lag."""
    one.put(1).finish()
    one.put(2).up_to(is_apply).kill()
    assert two.read().finish().value == 1

    assert two.events(*table.events) == ["superseded", "applied"]
    assert two.read().finish().value == 2


def test_r4_a_rolled_back_transaction_leaves_no_trace(one: Process) -> None:
    """Writes are buffered in the transaction and applied after its commit; savepoints nest."""
    one.put(1).finish()
    buffer = one.cache.buffer()
    buffer.put("k", 2, 2)
    inner = buffer.savepoint()
    buffer.put("k", 3, 3)
    buffer.rollback(inner)
    assert one.read().finish().value == 1

    one.finish(buffer.flush())
    assert one.read().finish() == Reading(2, version(2))

    buffer.delete("k", 4)
    buffer.rollback()
    one.finish(buffer.flush())
    assert one.read().finish() == Reading(2, version(2))


def test_r5_replayed_events_change_nothing(one: Process, two: Process, table: Table) -> None:
    """A zombie of before the rebalance and a rewound consumer apply the same events again."""
    for value in (1, 2, 3):
        one.put(value).finish()

    assert two.events(table.events[0]) == ["stale"]
    assert two.events(*table.events) == ["superseded", "superseded", "equal"]
    assert one.read().finish().value == 3


def test_r6_a_late_update_does_not_revive_a_deleted_key(one: Process, table: Table) -> None:
    """The tombstone keeps the version of the delete."""
    one.put(1).finish()
    one.delete().finish()

    assert one.events(table.events[0]) == ["stale"]
    assert one.state == "T"
    assert one.read().finish() == Reading(None, version(2))


def test_r7_a_reinserted_key_is_served_again(one: Process, table: Table) -> None:
    """One sequence for all rows: the new row is newer than the delete of the old one."""
    one.put(1).finish()
    one.delete().finish()
    one.put(2).finish()

    assert one.events(*table.events) == ["superseded", "superseded", "equal"]
    assert one.read().finish().value == 2


@pytest.mark.parametrize("late", ["event", "write-through"])
def test_r8_what_arrives_late_at_an_evicted_key_is_only_a_fence(
    one: Process, two: Process, table: Table, late: str
) -> None:
    """The version went with the entry, so nothing tells old from new; the next read decides at the source."""
    one.put(0).finish()
    slow = one.put(1).up_to(is_apply)
    two.put(2).finish()
    two.evict()
    if late == "event":
        assert two.events(table.events[1]) == ["fenced"]
    else:
        slow.finish()

    assert two.state == "F"
    assert two.read().finish().value == 2


def test_r9_a_late_delete_at_an_evicted_key_is_only_a_fence(one: Process, table: Table) -> None:
    """A tombstone there would hide the row that was inserted since."""
    one.put(1).finish()
    one.delete().finish()
    one.put(2).finish()
    one.evict()

    assert one.events(table.events[1]) == ["fenced"]
    assert one.read().finish().value == 2


def test_r10_a_lease_that_expired_under_its_holder_lets_nothing_in(one: Process, two: Process, table: Table) -> None:
    """The holder sleeps past its lease; its value goes to its caller and not into the cache."""
    table.write("k", 1)
    sleeper = one.read().through(Call)
    one.expire_lease()
    table.write("k", 2)
    assert two.read().finish().value == 2
    two.evict()

    assert sleeper.finish().value == 1
    assert two.state is None
    assert two.read().finish().value == 2


def test_r11_an_insert_replaces_a_negative_entry_at_once(one: Process, two: Process) -> None:
    """The inserter reads its own insert: its write-through takes the lease of the negative key."""
    assert one.read().finish().value is None
    assert one.state == "N"

    two.put(1).finish()

    assert one.read().finish().value == 1


def test_r11_a_late_event_of_a_missing_row_does_not_revive_it(one: Process, table: Table) -> None:
    """A missing row has no version, so any event looks newer; it only makes the next read ask the source."""
    table.write("k", 1)
    table.write("k", None)
    assert one.read().finish().value is None

    assert one.events(table.events[0]) == ["fenced"]
    assert one.read().finish().value is None
    assert table.loads == 2


def test_r13_a_lagging_source_can_not_pass_a_fence(one: Process, table: Table) -> None:
    """A load from a replica that is behind the fence is returned flagged, and not kept."""
    table.write("k", 1)
    table.write("k", 2)
    one.events(table.events[1])
    table.rows["k"] = (1, 1)  # what a replica still has

    assert one.read().finish() == Reading(1, version(1), stale=True)
    assert one.state == "F"


def test_r13_a_not_found_of_a_lagging_source_can_not_pass_the_fence_of_an_insert(
    one: Process, two: Process, table: Table
) -> None:
    """A replica that has not heard of the insert: flagged, not kept, and nothing older is let in by it."""
    table.write("k", 1)
    one.events(table.events[0])
    table.rows.clear()  # what a replica still has

    assert one.read().finish() == Reading(None, stale=True)
    assert one.state == "F"
    table.rows["k"] = (1, 1)
    assert two.read().finish() == Reading(1, version(1))


def test_r13_a_deleted_row_is_not_loaded_at_each_read_for_as_long_as_a_fence_lives(one: Process, table: Table) -> None:
    """Its delete's event never comes. A source that lags is given `negative_ttl`; then it is believed.

    What the fence knew stays: a replica that is behind can not bring the old row back.
    """
    table.write("k", 1)
    table.write("k", 2)
    one.events(table.events[1])
    table.rows.clear()
    name = one.cache._space.key("k")
    one.port.ask(("PEXPIRE", name, POLICY.milliseconds("fence_ttl") - POLICY.milliseconds("negative_ttl") - 1))
    left = one.port.ask(("PTTL", name))

    assert one.read().finish() == Reading(None)
    assert one.read().finish() == Reading(None)
    assert table.loads == 1
    assert one.state == "N"
    assert one.port.ask(("PTTL", name)) > left - 10_000

    one.clock.advance(POLICY.seconds_of("negative_ttl"))
    table.rows["k"] = (1, 1)
    assert one.read().finish() == Reading(1, version(1), stale=True)
    assert one.state == "N"


def test_r9_a_not_found_is_believed_over_the_fence_of_a_delete(one: Process, table: Table) -> None:
    """They agree: one load, not one for each read."""
    table.write("k", 1)
    table.write("k", None)
    one.events(table.events[1])
    assert one.state == "F"

    assert [one.read().finish(), one.read().finish()] == [Reading(None), Reading(None)]
    assert table.loads == 1


def test_a_not_found_is_believed_after_an_invalidation(one: Process, table: Table) -> None:
    """Its fence knows nothing of the row, only that what was cached does not hold."""
    one.put(1).finish()
    table.rows.clear()
    one.finish(one.cache._invalidate("k"))

    assert [one.read().finish(), one.read().finish()] == [Reading(None), Reading(None)]
    assert table.loads == 1


def test_r18_another_version_domain_is_never_compared_and_never_served(one: Process, table: Table) -> None:
    """Its entry counts as a fence; the next read loads with our versions."""
    one.put(1).finish()
    foreign = EntityCache[int](one.cache.name, "redis://127.0.0.1:1", mode="cache", domain="lsn", policy=POLICY)
    foreign._space._use(1)
    data, life = foreign._space.entry("V", version("FF/0"), VALUES.encode(9)[1])
    one.port.ask(("SET", one.cache._space.key("k"), data, "PX", life))

    assert one.read().finish().value == 1
    one.port.ask(("SET", one.cache._space.key("k"), data, "PX", life))
    assert one.events(table.events[0]) == ["conflict"]
    assert one.state == "F"


def test_r20_an_emptied_redis_does_not_pose_as_complete(one: Process, table: Table) -> None:
    """Replayed events leave fences only; values come through leases, from the source."""
    for value in (1, 2):
        one.put(value).finish()
    one.evict()

    assert one.events(table.events[0]) == ["fenced"]
    assert one.read().finish().value == 2
    assert table.loads == 1


def test_r22_a_tag_invalidated_during_a_load_drops_what_it_brings(one: Process, two: Process) -> None:
    """The load read the clock before the source, so its entry is older than the invalidation."""
    values = iter([1, 2])
    load = Driven(one.port, one.cache._sourced().through("k", lambda: Loaded(next(values), 1, ("carrier:UA",)), ()))
    load.through(Call)
    two.finish(invalidate_tags(two.cache._space, ["carrier:UA"]))
    assert load.finish().value == 1
    assert one.state == "V"

    again = Driven(two.port, two.cache._sourced().through("k", lambda: Loaded(next(values), 1, ("carrier:UA",)), ()))
    assert again.finish() == Reading(2, version(1))


def test_r23_a_value_of_two_tables_follows_both(one: Process, two: Process) -> None:
    """A join has the version of one of its rows. What it depends on are tags; an event of either table drops it.

    The load had read the plane before that changed, and the event came before the fill: it does not survive either.
    """
    flights, planes = {"k": ("N1", 1)}, {"N1": 200}

    def join() -> Loaded[int]:
        tail, number = flights["k"]
        return Loaded(planes[tail], number, ("flight:k", f"plane:{tail}"))

    def read(process: Process) -> Driven[Reading[int]]:
        return Driven(process.port, process.cache._sourced().through("k", join, ()))

    slow = read(one).through(Call)
    planes["N1"] = 201
    two.finish(invalidate_tags(two.cache._space, ["plane:N1"]))  # the event of the plane
    assert slow.finish().value == 200
    assert read(two).finish() == Reading(201, version(1))
    assert read(one).finish() == Reading(201, version(1))

    flights["k"], planes["N2"] = ("N2", 2), 300
    two.finish(invalidate_tags(two.cache._space, ["flight:k"]))  # the event of the flight
    assert read(one).finish() == Reading(300, version(2))
    two.finish(invalidate_tags(two.cache._space, ["plane:N1"]))  # of a plane that is no longer its
    assert read(one).through(Ask).finish() == Reading(300, version(2))


def test_r17_transactions_that_interleave_are_compared_per_key_only(one: Process, table: Table) -> None:
    """The log is in commit order, positions are not: a position that went back for one key is news for another."""
    late = Change("a", version("0/50"), VALUES.encode(5)[1])  # began early, committed late
    early = Change("b", version("0/90"), VALUES.encode(9)[1])
    for key in ("a", "b"):
        one.put(1, key).finish()

    assert one.events(early) == ["applied"]
    assert one.events(late) == ["applied"]
    assert (one.read("a").finish().value, one.read("b").finish().value) == (5, 9)


def test_r17_a_tombstone_beats_a_value_of_the_same_version(one: Process, table: Table) -> None:
    """A change of primary key gives its delete and its insert one LSN; both orders end alike."""
    one.put(1).finish()
    delete = Change("k", version(1), None)

    assert one.events(delete) == ["applied"]
    assert one.events(table.events[0]) == ["equal"]
    assert one.state == "T"


def test_r3_a_crash_anywhere_in_a_write_or_a_read_is_healed(port: RespPort, redis_url: str, name: str) -> None:
    """Kill -9 at every request of a put, a delete and a read: after the events the cache agrees with the table (I2)."""
    for action in ("put", "delete", "read"):
        for at in range(5):
            table, key = Table(), f"{action}{at}"
            process = _process(port, table, redis_url, name, ManualClock())
            process.put(1, key).finish()
            victim = {"put": lambda p=process, k=key: p.put(2, k), "delete": lambda p=process, k=key: p.delete(k)}.get(
                action, lambda p=process, k=key: p.read(k)
            )()
            for _ in range(at):
                if victim.request is not None:
                    victim.answer()
            victim.kill()
            process.port.ask(("DEL", process.cache._space.key(key) + ":l"))  # the lease of the dead expires
            process.events(*table.events)

            row = table.rows.get(key)
            assert process.read(key).finish().value == (row[0] if row else None)
