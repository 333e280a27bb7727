"""A group member on the real broker: nothing waits behind its poll, and what is resumed is read at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP

from headwater_ops.stack import Endpoints
from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams.transport.errors import GroupClosed
from headwater_streams.transport.group import GroupConsumer, Marks
from headwater_streams.transport.group_settings import GroupSettings

pytestmark = pytest.mark.timeout(90)


class Listener:
    """Takes what it is given."""

    def __init__(self) -> None:
        self.assigned = asyncio.Event()

    def on_assigned(self, partitions: frozenset[TP]) -> None:
        self.assigned.set()

    async def on_revoked(self, partitions: frozenset[TP]) -> Marks:
        return {}, {}

    def on_lost(self, partitions: frozenset[TP]) -> None:
        """Nothing to forget."""

    def on_uncommitted(self, partitions: frozenset[TP]) -> None:
        """Nothing to commit again."""


@pytest.fixture
async def member(endpoints: Endpoints, unique: Callable[[str], str]) -> AsyncIterator[tuple[GroupConsumer, TP]]:
    """A member that has the one partition of a topic, paused."""
    tp = TP(unique("orders.placed"), 0)
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    admin.create_topics([NewTopic(tp.topic, 1, 1)])[tp.topic].result()
    kafka = KafkaSettings.from_env(Environment(endpoints.settings()))
    listener = Listener()
    group = GroupConsumer(kafka, GroupSettings(unique("billing")), listener)
    group.start()
    await group.subscribe([tp.topic])
    async with asyncio.timeout(60):
        while not listener.assigned.is_set():
            await group.consume(10, 0.05)
    yield group, tp
    await group.close()


async def test_a_question_does_not_wait_for_the_poll_that_finds_nothing(member: tuple[GroupConsumer, TP]) -> None:
    group, tp = member
    polling = asyncio.ensure_future(group.consume(10, timeout=20.0))
    await asyncio.sleep(0.05)
    started = monotonic()
    assert await group.ask.committed([tp]) == {tp: None}
    assert monotonic() - started < 10
    assert await polling == []


async def test_a_resumed_partition_is_read_at_once(member: tuple[GroupConsumer, TP], endpoints: Endpoints) -> None:
    group, tp = member
    producer = Producer({"bootstrap.servers": endpoints.bootstrap})
    waited = []
    for _ in range(5):
        producer.produce(tp.topic, b"x")
        producer.flush()
        await group.consume(10, 0.25)  # the broker's thread falls asleep beside the paused partition
        group.resume([tp])
        started = monotonic()
        while not await group.consume(10, 1.0):
            pass
        waited.append(monotonic() - started)
        group.pause([tp])

    assert min(waited) < 0.3, "librdkafka looks by itself only each second"


async def test_a_commit_that_is_waited_for_is_there_with_its_metadata(member: tuple[GroupConsumer, TP]) -> None:
    group, tp = member
    committing = asyncio.ensure_future(group.commit_told({tp: 0}, {tp: "told"}))
    while not committing.done():
        await group.consume(10, 0.05)
    assert await group.ask.committed_told([tp]) == ({tp: 0}, {tp: "told"})


async def test_what_is_not_ours_is_not_committed(member: tuple[GroupConsumer, TP]) -> None:
    group, tp = member
    with pytest.raises(BrokerUnavailable, match="taken away"):
        await group.commit_told({tp: 0, TP(tp.topic, 1): 0}, {})
    assert await group.ask.committed([tp]) == {tp: None}


async def test_what_a_member_holds_beyond_what_the_group_gave_it_is_overdue(member: tuple[GroupConsumer, TP]) -> None:
    group, tp = member
    while not group.member_id:
        await group.consume(10, 0.05)
    done = asyncio.Event()

    async def poll() -> None:
        while not done.is_set():
            await group.consume(10, 0.2)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(poll())
        as_given = await group.overdue()
        group._assigned.add(kept := TP(tp.topic, 7))
        overdue = await group.overdue()
        group._assigned.discard(kept)
        done.set()

    assert as_given == frozenset()
    assert overdue == {kept}


async def test_a_member_may_join_again_and_is_given_its_partition(
    member: tuple[GroupConsumer, TP], endpoints: Endpoints
) -> None:
    group, tp = member
    before = group.member_id
    await group.rejoin()
    assert group.assignment == frozenset()
    async with asyncio.timeout(60):
        while not (group.assignment and group.member_id):
            await group.consume(10, 0.05)
    producer = Producer({"bootstrap.servers": endpoints.bootstrap})
    producer.produce(tp.topic, b"x")
    producer.flush()
    group.resume([tp])
    async with asyncio.timeout(60):
        while not (records := await group.consume(10, 0.5)):
            pass

    assert group.assignment == {tp}
    assert group.member_id != before
    assert [record.value() for record in records] == [b"x"]


async def test_a_member_that_has_left_says_so(member: tuple[GroupConsumer, TP]) -> None:
    group, tp = member
    await group.close()
    with pytest.raises(GroupClosed, match="has left the group"):
        await group.ask.committed([tp])
