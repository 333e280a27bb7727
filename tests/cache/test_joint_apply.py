"""Batches of several partitions that come at once: one apply for all, and what concerns one hits nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cache.redis_server import RedisServer
from headwater_cache import (
    ApplyResult,
    Change,
    ContinuityLost,
    EntityCache,
    MsgpackValues,
    Position,
    Rewind,
    TopicPartition,
)
from headwater_cache.errors import InvalidKey
from headwater_cache.versions import log_version
from headwater_schemas.errors import CacheUnavailable, HeadwaterError
from headwater_streams.joint_apply import JointApply

A, B, C = (TopicPartition("plane.changes", number) for number in range(3))


class Store:
    """Stands in for a cache. ``fails`` is what each call raises in turn; ``open`` lets calls end, ``stop`` those that
    were cancelled."""

    def __init__(self, *fails: HeadwaterError | None, poison: str = "", slow_to_stop: bool = False) -> None:
        self.calls: list[tuple[list[str], dict[TopicPartition, int]]] = []
        self.applied: list[str] = []
        self.open, self.ended, self._called = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.open.set()
        self.stop = asyncio.Event()
        if not slow_to_stop:
            self.stop.set()
        self._fails = list(fails)
        self._poison = poison

    async def apply(self, changes: Sequence[Change], *, positions: Mapping[TopicPartition, int]) -> list[ApplyResult]:
        keys = [change.key for change in changes]
        self.calls.append((keys, dict(positions)))
        self._called.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            await self.stop.wait()
            raise
        finally:
            self.ended.set()
        if self._fails and (error := self._fails.pop(0)) is not None:
            raise error
        if self._poison in keys:
            raise InvalidKey(f"{self._poison} is no key")
        self.applied += keys
        return []

    async def called(self, times: int) -> None:
        """Wait until it has been."""
        while len(self.calls) < times:
            self._called.clear()
            await self._called.wait()


def changes(*keys: str) -> list[Change]:
    return [Change(key, log_version(0, number), b"1") for number, key in enumerate(keys)]


def placed(at: TopicPartition, offset: int) -> list[Change]:
    """A change that stood there; its key and value say so."""
    value = MsgpackValues[int]().encode(offset)[1]
    return [Change(f"{at.partition}-{offset}", log_version(0, offset), value, position=Position(*at, offset))]


def lost(*positions: tuple[TopicPartition, int]) -> ContinuityLost:
    return ContinuityLost("forgotten", Rewind("failover", dict(positions), 12.0))


async def outcomes(*calls: object) -> list[object]:
    return await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[call-overload,no-any-return]


async def test_what_comes_in_one_step_is_one_apply() -> None:
    store = Store()
    joint = JointApply(store.apply, 500)

    await asyncio.gather(joint(changes("a", "b"), {A: 7}), joint(changes("c"), {B: 9}), joint(changes("d"), {}))
    await joint(changes("e"), {A: 8})

    assert store.calls == [(["a", "b", "c", "d"], {A: 7, B: 9}), (["e"], {A: 8})]


async def test_large_batches_stay_apart_and_overlap_in_time() -> None:
    store = Store()
    joint = JointApply(store.apply, 3)
    store.open.clear()

    waiting = asyncio.gather(
        joint(changes("a", "b", "c", "d"), {A: 4}), joint(changes("e", "f"), {B: 2}), joint(changes("g"), {C: 1})
    )
    await store.called(2)
    store.open.set()
    await waiting

    assert [keys for keys, _ in store.calls] == [["a", "b", "c", "d"], ["e", "f", "g"]]


async def test_an_error_of_one_hits_no_other() -> None:
    """A batch handler gives up on its records when they fail: nobody may be told of another's failure."""
    store = Store(poison="bad")
    joint = JointApply(store.apply, 500)

    told = await outcomes(joint(changes("a"), {A: 1}), joint(changes("bad"), {B: 1}), joint(changes("c"), {C: 1}))

    assert [type(each) for each in told] == [type(None), InvalidKey, type(None)]
    assert store.applied == ["a", "c"]


async def test_a_redis_that_is_away_is_asked_once_for_all() -> None:
    store = Store(CacheUnavailable("away"))
    joint = JointApply(store.apply, 500)

    told = await outcomes(joint(changes("a"), {A: 1}), joint(changes("b"), {B: 1}))

    assert [type(each) for each in told] == [CacheUnavailable, CacheUnavailable]
    assert len(store.calls) == 1


async def test_those_go_back_who_must_and_the_others_are_applied() -> None:
    """Redis may tell of the loss before it has applied anything of the batch."""
    store = Store(lost((A, 3), (C, 5)), None)
    joint = JointApply(store.apply, 500)

    told = await outcomes(joint(changes("a"), {A: 7}), joint(changes("b"), {B: 8}), joint(changes("c"), {C: 9}))

    assert told[1] is None
    assert store.applied == ["b"]
    rewinds = [each.rewind for each in told if isinstance(each, ContinuityLost)]
    assert rewinds == [Rewind("failover", {A: 3}, 12.0), Rewind("failover", {C: 5}, 12.0)]


async def test_who_gives_up_takes_its_changes_along() -> None:
    """Its partition may be another worker's by now, who moves the same mark."""
    store = Store()
    joint = JointApply(store.apply, 500)
    store.open.clear()
    impatient = asyncio.ensure_future(joint(changes("a"), {A: 1}))
    other = asyncio.ensure_future(joint(changes("b"), {B: 1}))
    await store.called(1)

    impatient.cancel()
    await store.called(2)
    store.open.set()
    await other

    assert store.calls == [(["a", "b"], {A: 1, B: 1}), (["b"], {B: 1})]
    assert store.applied == ["b"]


async def test_a_partition_waits_for_the_end_of_what_its_caller_gave_up() -> None:
    """Two batches of one partition must not be under way at once: each moves the partition's mark."""
    store = Store(slow_to_stop=True)
    joint = JointApply(store.apply, 500)
    store.open.clear()
    impatient = asyncio.ensure_future(joint(changes("a"), {A: 1}))
    await store.called(1)
    impatient.cancel()

    again = asyncio.ensure_future(joint(changes("a"), {A: 1}))
    elsewhere = asyncio.ensure_future(joint(changes("c"), {C: 1}))
    await store.called(2)
    assert [keys for keys, _ in store.calls] == [["a"], ["c"]]
    store.stop.set()
    await store.called(3)
    store.open.set()
    await asyncio.gather(again, elsewhere)

    assert [keys for keys, _ in store.calls] == [["a"], ["c"], ["a"]]


async def test_a_loss_that_names_nobody_is_told_to_all() -> None:
    store = Store(lost())
    joint = JointApply(store.apply, 500)

    told = await outcomes(joint(changes("a"), {A: 1}), joint(changes("b"), {B: 1}))

    assert [type(each) for each in told] == [ContinuityLost, ContinuityLost]


async def test_of_two_partitions_the_one_that_redis_forgot_goes_back(own: RedisServer) -> None:
    """With the real cache: the other's events are applied, and its mark moves on."""
    async with EntityCache[int]("plane", own.url, cold="miss") as cache:
        joint = JointApply(cache.aapply_many, 500)
        await asyncio.gather(joint(placed(A, 0), {A: 1}), joint(placed(B, 0), {B: 1}))
        with own.client() as client:
            client.hdel("{plane:1}:watermark", "plane.changes:0")

        told = await outcomes(joint(placed(A, 1), {A: 2}), joint(placed(B, 1), {B: 2}))

        assert isinstance(told[0], ContinuityLost)
        assert told[0].rewind.positions == {A: 0}
        assert told[1] is None
        assert await cache.aget(f"{B.partition}-1") == 1
        with own.client() as client:
            assert client.hget("{plane:1}:watermark", "plane.changes:1") == b"%020d" % 2


async def test_what_nobody_waits_for_any_more_ends() -> None:
    store = Store()
    joint = JointApply(store.apply, 500)
    store.open.clear()
    callers = [asyncio.ensure_future(joint(changes(key), {at: 1})) for key, at in (("a", A), ("b", B))]
    await store.called(1)

    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await store.ended.wait()
    assert store.applied == []


async def test_who_gives_up_before_the_apply_is_left_out() -> None:
    store = Store()
    joint = JointApply(store.apply, 500)
    early = asyncio.ensure_future(joint(changes("a"), {A: 1}))
    other = asyncio.ensure_future(joint(changes("b"), {B: 1}))
    await asyncio.sleep(0)
    early.cancel()
    await other

    assert [keys for keys, _ in store.calls] == [["b"]]
