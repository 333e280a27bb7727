"""Static members of a group on a real broker: a killed one is followed at once, a living one is not shared."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP

from headwater_schemas.errors import HeadwaterError
from headwater_schemas.settings import KafkaSettings
from headwater_streams.transport.group import GroupConsumer, Marks
from headwater_streams.transport.group_settings import GroupSettings

Protocol = Literal["consumer", "classic"]

PARTITIONS = 2
FORMER_LIFE = """
import sys
from confluent_kafka import Consumer
bootstrap, group, member, topic, protocol = sys.argv[1:]
consumer = Consumer({
    "bootstrap.servers": bootstrap, "group.id": group, "group.instance.id": member, "group.protocol": protocol,
    **({"group.remote.assignor": "range"} if protocol == "consumer" else {"partition.assignment.strategy": "range"}),
})
consumer.subscribe([topic], on_assign=lambda _, partitions: print(len(partitions), flush=True))
while True:
    consumer.poll(0.1)
"""


class Listener:
    """Notes how often partitions were lost."""

    def __init__(self) -> None:
        self.losses = 0

    def on_assigned(self, partitions: frozenset[TP]) -> None: ...

    async def on_revoked(self, partitions: frozenset[TP]) -> Marks:
        return {}, {}

    def on_lost(self, partitions: frozenset[TP]) -> None:
        self.losses += 1

    def on_uncommitted(self, partitions: frozenset[TP]) -> None:
        """Nothing to commit again."""


@pytest.fixture
def topic(bootstrap: str) -> str:
    name = f"members.{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result()
    return name


def kill_a_former_life(bootstrap: str, group: str, topic: str, protocol: Protocol = "consumer") -> None:
    """Returns when the group has, and will have for a while, a member that no longer lives."""
    command = [sys.executable, "-c", FORMER_LIFE, bootstrap, group, "w-1", topic, protocol]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as former:
        assert former.stdout is not None
        told = former.stdout.readline()
        former.kill()
    assert told == f"{PARTITIONS}\n"


@asynccontextmanager
async def joining(
    bootstrap: str, group: str, topics: Collection[str], protocol: Protocol = "consumer"
) -> AsyncIterator[GroupConsumer]:
    # As a worker with an id has it.
    settings = GroupSettings(group, member="w-1", protocol=protocol, session_timeout=45.0)
    consumer = GroupConsumer(KafkaSettings(bootstrap=bootstrap), settings, Listener())
    consumer.start()
    try:
        await consumer.subscribe(topics)
        yield consumer
    finally:
        await consumer.close()


async def consume_until(consumer: GroupConsumer, condition: Callable[[], bool], polls: int = 600) -> None:
    for _ in range(polls):
        if condition():
            return
        await consumer.consume(100, 0.05)
    pytest.fail("not within half a minute")


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
async def test_a_killed_static_member_is_followed_before_its_session_ends(
    bootstrap: str, topic: str, protocol: Protocol
) -> None:
    group = f"members-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(kill_a_former_life, bootstrap, group, topic, protocol)
    async with joining(bootstrap, group, [topic], protocol) as consumer:
        # Sixty polls end before the session does, of which waiting for its end would need all.
        await consume_until(consumer, lambda: len(consumer.assignment) == PARTITIONS, polls=60)
        assert consumer.protocol == protocol


async def test_who_follows_a_killed_member_answers_all_the_while(bootstrap: str, topic: str) -> None:
    group = f"members-{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(kill_a_former_life, bootstrap, group, topic)

    async def keep_asking(consumer: GroupConsumer) -> None:
        while not consumer.assignment:  # what each commit of a transactional worker asks
            await consumer.group_metadata()
            await asyncio.sleep(0)

    async with joining(bootstrap, group, [topic]) as consumer:
        asking = asyncio.create_task(keep_asking(consumer))
        await consume_until(consumer, lambda: len(consumer.assignment) == PARTITIONS or asking.done())
        await asking


async def test_the_older_of_two_living_workers_of_one_id_ends_with_an_error(bootstrap: str, topic: str) -> None:
    group = f"members-{uuid.uuid4().hex[:8]}"
    async with joining(bootstrap, group, [topic]) as older:
        await consume_until(older, lambda: len(older.assignment) == PARTITIONS)
        async with joining(bootstrap, group, [topic]) as newer:
            await consume_until(newer, lambda: len(newer.assignment) == PARTITIONS)
            # The second one when the older asks in the moment in which the newer is the whole group.
            with pytest.raises(HeadwaterError, match=r"HEADWATER_WORKER_ID of its own|group id does not exist"):
                await consume_until(older, lambda: False)
            await newer.consume(100, 0.5)
            assert len(newer.assignment) == PARTITIONS
