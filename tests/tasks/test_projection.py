"""View, index and histories against the log: on a real Redis, from a log that is a list."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from headwater_cache import RedisSettings
from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue
from headwater_schemas.clock import ManualClock
from headwater_schemas.codec import Codec
from headwater_schemas.events import Task, TaskState, TaskSubmitted
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment
from headwater_streams import StreamApp
from headwater_streams.testing import StreamKit
from headwater_tasks.changes import CHANGES, TASKS, TaskChanges, instant
from headwater_tasks.history import TaskHistory
from headwater_tasks.index import TaskIndex, place_id
from headwater_tasks.projection import Projection, project
from headwater_tasks.purge import Purge
from headwater_tasks.state import (
    Cancelled,
    Event,
    Failed,
    Progressed,
    Retrying,
    Started,
    Succeeded,
    advance,
    pending,
    purge_version,
    version,
)

KIND = "report.build"


class Log:
    """Submissions and states on an in-memory log, a projection that follows it, and what it has made of them."""

    def __init__(self, redis_url: str) -> None:
        self.redis = redis.Redis.from_url(redis_url)
        self.redis.flushdb()
        self.settings = RedisSettings(redis_url)
        catalogue = Catalogue.load(PACKAGE_FOLDER)
        self.codec = Codec(catalogue, LocalRegistry())
        self.changes = TaskChanges(self.codec, "worker")
        self.clock = ManualClock()
        env = Environment({"HEADWATER_REDIS_URL": redis_url})
        app = StreamApp("projection", catalogue=catalogue, codec=self.codec, clock=self.clock, env=env)
        self.parts = project(app)
        self.kit = StreamKit(app, clock=self.clock)
        self.index = TaskIndex(self.settings)
        self.history = TaskHistory(self.settings)

    async def projection(self) -> Projection:
        return await self.parts.projection()

    def submit(self, id_: str, *, run: int = 1) -> Task:
        """Put a submission on the log."""
        submitted = TaskSubmitted(id=id_, type=KIND, run=run, payload=b"1", submitted_at=instant(self.clock.time()))
        offset = len(self.kit.records(TASKS))
        self.kit.send(TASKS, {name: getattr(submitted, name) for name in submitted.__struct_fields__}, key=id_)
        return pending(submitted, 0, offset)

    def say(self, task: Task) -> Task:
        """Put a state on the log."""
        self.kit.send(CHANGES, self.changes.event(task, instant(self.clock.time())), key=task.id)
        return task

    def step(self, task: Task, *events: Event) -> Task:
        """Put the states on the log that these events lead to."""
        for event in events:
            task = self.say(advance(task, event))
        return task

    async def settle(self) -> None:
        """Let the projection follow to the end."""
        self.clock.advance(1)
        await self.kit.settle()

    async def seen(self, id_: str) -> Task | None:
        """What a reader gets."""
        readings = await (await self.projection()).view.aget_many([id_])
        return readings.get(id_)

    async def listed(self, state: TaskState) -> set[str]:
        """The tasks that the index has in a state."""
        return {place_id(place) for place in await self.index.apage(None, [state], None, 500)}

    def compacted(self) -> dict[str, Any]:
        """The change event that compaction would leave of each task."""
        last: dict[str, Any] = {}
        for message, value in zip(self.kit.records(CHANGES), self.kit.values(CHANGES), strict=True):
            last[(message.key() or b"").decode()] = value
        return last


@pytest.fixture
async def log(redis_url: str) -> AsyncIterator[Log]:
    made = Log(redis_url.rpartition("/")[0] + "/5")
    async with made.kit:
        await (await made.projection()).view.amark_ready([0], total=1)
        yield made
    await made.parts.close()
    await made.index.aclose()
    await made.history.aclose()
    made.redis.close()


def life(log: Log, id_: str, chance: random.Random) -> list[Task]:
    """A task's states, in the order in which they came about."""
    at = instant(log.clock.time())
    task = log.submit(id_)
    states = [task]
    for attempt in (1, 2, 3):
        task = advance(task, Started(at, attempt, "w"))
        states.append(task)
        for _ in range(chance.randrange(3)):
            task = advance(task, Progressed(at, chance.random(), None))
            states.append(task)
        if chance.random() < 0.5:
            break
        task = advance(task, Retrying(at, at, "boom"))
        states.append(task)
        if chance.random() < 0.2:
            task = advance(task, Cancelled(at, None))
            return [*states, task]
    if task.state is TaskState.RUNNING:
        states.append(advance(task, Succeeded(at, b"1") if chance.random() < 0.5 else Failed(at, "no")))
    return states


async def test_in_whatever_order_states_arrive_the_newest_is_seen_and_listed(log: Log) -> None:
    """Zombies, repetitions, replays: written at random, each at least once."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    lives = {f"t-{number}": life(log, f"t-{number}", chance) for number in range(30)}
    writes = [state for states in lives.values() for state in states[1:]]
    writes += chance.choices(writes, k=len(writes) // 2)
    chance.shuffle(writes)
    for start in range(0, len(writes), 40):
        for state in writes[start : start + 40]:
            log.say(state)
        await log.settle()

    newest = {id_: max(states, key=version) for id_, states in lives.items()}
    for id_, wanted in newest.items():
        found = await log.seen(id_)
        assert found is not None
        assert version(found) == version(wanted)
    for name in TaskState:
        assert await log.listed(name) == {id_ for id_, task in newest.items() if task.state is name}
    # A reader that starts from the compacted log sees the same.
    left = log.compacted()
    assert {id_: left[id_]["version"] for id_ in newest if id_ in left} == {
        id_: version(task) for id_, task in newest.items() if id_ in left
    }


async def test_a_state_that_is_written_late_does_not_stay_last_on_the_log(log: Log) -> None:
    """A worker that was frozen, lost its partition and then went on."""
    at = instant(log.clock.time())
    task = log.submit("t-1")
    running = log.step(task, Started(at, 1, "frozen"))
    log.step(running, Succeeded(at, b'"by the other"'))
    await log.settle()
    log.step(running, Progressed(at, 0.9, "still here"), Failed(at, "by the frozen one"))
    await log.settle()

    found = await log.seen("t-1")
    assert found is not None
    assert (found.state, found.result) == ("SUCCEEDED", b'"by the other"')
    left = log.compacted()["t-1"]
    assert log.changes.decode(left["schema_id"], left["value"]) == found
    said = len(log.kit.records(CHANGES))
    await log.settle()
    assert len(log.kit.records(CHANGES)) == said == 5  # it is said once, not for ever


async def test_a_redis_that_was_emptied_is_filled_from_the_log_again(log: Log) -> None:
    at = instant(log.clock.time())
    waiting = log.submit("waiting")
    log.step(log.submit("done"), Started(at, 1, "w"), Succeeded(at, b"1"))
    await log.settle()
    await log.kit.commit()

    log.redis.flushdb()
    log.step(log.submit("new"), Started(at, 1, "w"))
    await log.settle()
    await log.settle()

    assert await log.seen("waiting") == waiting
    states = {id_: getattr(await log.seen(id_), "state", None) for id_ in ("waiting", "done", "new")}
    assert states == {"waiting": "PENDING", "done": "SUCCEEDED", "new": "RUNNING"}
    assert await log.listed(TaskState.PENDING) == {"waiting"}
    assert await log.listed(TaskState.SUCCEEDED) == {"done"}


async def test_a_submission_that_was_overtaken_is_not_written(log: Log) -> None:
    at = instant(log.clock.time())
    tasks = [log.submit(f"t-{number}") for number in range(10)]
    for task in tasks:
        log.step(task, Started(at, 1, "w"), Succeeded(at, b"1"))
    await log.settle()
    assert await log.listed(TaskState.PENDING) == set()
    assert len(await log.listed(TaskState.SUCCEEDED)) == 10


async def test_ended_tasks_are_forgotten_after_their_time_and_others_stay(log: Log) -> None:
    at = instant(log.clock.time())
    log.step(log.submit("old"), Started(at, 1, "w"), Failed(at, "no"))
    log.submit("waiting")
    again = log.step(log.submit("again"), Started(at, 1, "w"), Failed(at, "no"))
    await log.settle()
    log.clock.advance(3600)
    late = instant(log.clock.time())
    log.step(log.submit("young"), Started(late, 1, "w"), Succeeded(late, b"1"))
    log.submit("again", run=2)
    await log.settle()

    projection = await log.projection()
    producer: Any = _IntoLog(log)
    purge = Purge(projection.view, log.index, log.changes, producer, 3000, log.clock)
    assert await purge.once() == 1
    # Somebody else had decided to delete this one before it was run again.
    log.kit.send(CHANGES, log.changes.deletion(again, late), key="again")
    await log.settle()
    assert await purge.once() == 0

    assert [await log.seen(id_) is not None for id_ in ("old", "waiting", "again", "young")] == [
        False,
        True,
        True,
        True,
    ]
    assert await log.listed(TaskState.FAILED) == set()
    assert await log.listed(TaskState.PENDING) == {"waiting", "again"}
    assert log.compacted()["old"] is None
    kept = log.redis.keys("{task:history}:*")
    assert b"{task:history}:old" not in kept
    assert version(again) < purge_version(again) < version(await log.seen("again") or again)


class _IntoLog:
    """Stands in the producer's place: the purge writes to the in-memory log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def emit(self, topic: str, value: Any, *, key: str) -> asyncio.Future[None]:
        self._log.kit.send(topic, value, key=key)
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        acknowledged.set_result(None)
        return acknowledged
