"""Plain Faust apps on the ``headwater://`` transport: agents, ``take``, tables and their recovery, replies, timers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import faust
import pytest

from headwater_ops.stack import Endpoints
from streams import running as apps
from streams.running import running

Number: Any = int  # Faust takes any codec's type; its annotations name only some

pytestmark = pytest.mark.timeout(60)

until = partial(apps.until, seconds=30.0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust makes its data folder where it stands."""
    monkeypatch.chdir(tmp_path)


def plain_app(name: str, endpoints: Endpoints, **settings: Any) -> faust.App:
    """As any Faust user writes it; only the broker's scheme is ours."""
    return faust.App(
        name,
        broker=f"headwater://{endpoints.bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_partitions=2,
        topic_replication_factor=1,
        topic_disable_leader=True,
        broker_commit_interval=0.2,
        **settings,
    )


async def test_an_agent_receives_what_is_sent_with_headers_and_keys(
    endpoints: Endpoints, unique: Callable[[str], str]
) -> None:
    app = plain_app(unique("greetings"), endpoints)
    seen = []

    @app.agent(app.topic(unique("greetings.topic"), key_type=str, value_type=str))
    async def greet(stream: Any) -> None:
        async for event in stream.events():
            seen.append((event.key, event.value, dict(event.headers)))  # noqa: PERF401 - an agent is a loop

    async with running(app):
        for number in range(50):
            await greet.send(key=f"k{number % 5}", value=f"hello {number}", headers={"n": str(number).encode()})
        await until(lambda: len(seen) == 50)

    assert sorted(seen) == sorted((f"k{n % 5}", f"hello {n}", {"n": str(n).encode()}) for n in range(50))
    for key in range(5):
        numbers = [int(value.split()[1]) for k, value, _ in seen if k == f"k{key}"]
        assert numbers == sorted(numbers)


async def test_take_gives_batches_and_a_restart_goes_on_where_it_committed(
    endpoints: Endpoints, unique: Callable[[str], str]
) -> None:
    name, topic = unique("taking"), unique("taking.topic")
    batches: list[list[int]] = []

    def build() -> tuple[faust.App, Any]:
        app = plain_app(name, endpoints)

        @app.agent(app.topic(topic, value_type=Number), name="take_some")
        async def take_some(stream: Any) -> None:
            async for batch in stream.take(10, within=0.2):
                batches.append(list(batch))  # noqa: PERF401

        return app, take_some

    app, agent = build()
    async with running(app):
        for number in range(25):
            await agent.send(value=number)
        await until(lambda: sum(map(len, batches)) >= 25)
    assert max(map(len, batches)) == 10

    app, agent = build()
    async with running(app):
        await agent.send(value=99)
        await until(lambda: any(99 in batch for batch in batches))
    assert sorted(number for batch in batches for number in batch) == [*range(25), 99]


async def test_a_table_counts_and_is_restored_from_its_changelog(
    endpoints: Endpoints, unique: Callable[[str], str]
) -> None:
    name, topic = unique("counting"), unique("counting.topic")

    def build() -> tuple[faust.App, Any, Any]:
        app = plain_app(name, endpoints)
        counts = app.Table("counts", default=int, partitions=2)

        @app.agent(app.topic(topic, key_type=str, value_type=Number), name="count")
        async def count(stream: Any) -> None:
            async for key, value in stream.items():
                counts[key] += value

        return app, count, counts

    app, agent, counts = build()
    async with running(app):
        for number in range(30):
            await agent.send(key=f"k{number % 3}", value=1)
        await until(lambda: sum(counts.values()) == 30)

    app, agent, counts = build()
    async with running(app):
        await until(lambda: sum(counts.values()) == 30)
        await agent.send(key="k0", value=5)
        await until(lambda: counts["k0"] == 15)
    assert (counts["k1"], counts["k2"]) == (10, 10)


async def test_ask_gets_its_reply_and_timers_turn(endpoints: Endpoints, unique: Callable[[str], str]) -> None:
    # Faust acknowledges a reply when the next one arrives, so waiting for empty streams would wait for ever.
    app = plain_app(unique("asking"), endpoints, reply_create_topic=True, stream_wait_empty=False)
    ticks = 0

    @app.agent(app.topic(unique("asking.topic"), value_type=Number))
    async def double(stream: Any) -> AsyncIterator[int]:
        async for number in stream:
            yield number * 2

    @app.timer(0.1)  # type: ignore[untyped-decorator]  # Faust's
    async def tick() -> None:
        nonlocal ticks
        ticks += 1

    async with running(app):
        answer = await asyncio.wait_for(double.ask(21, reply_to=app.conf.reply_to), 30)
        await until(lambda: ticks >= 2)

    assert answer == 42


async def test_two_workers_share_the_partitions_and_one_takes_over(
    endpoints: Endpoints, unique: Callable[[str], str]
) -> None:
    name, topic = unique("sharing"), unique("sharing.topic")
    seen: dict[str, list[int]] = {"one": [], "two": []}

    def build(worker: str) -> tuple[faust.App, Any]:
        app = plain_app(name, endpoints)

        @app.agent(app.topic(topic, key_type=str, value_type=Number), name="share")
        async def share(stream: Any) -> None:
            async for number in stream:
                seen[worker].append(number)

        return app, share

    one, agent = build("one")
    two, _ = build("two")
    async with running(one):
        async with running(two):
            await until(lambda: bool(one.consumer.assignment()) and bool(two.consumer.assignment()))
            for number in range(40):
                await agent.send(key=f"k{number}", value=number)
            await until(lambda: len(seen["one"]) + len(seen["two"]) >= 40)
            assert seen["one"]
            assert seen["two"]
        await until(lambda: len(one.consumer.assignment()) == 2)
        for number in range(40, 60):
            await agent.send(key=f"k{number}", value=number)
        await until(lambda: set(range(40, 60)) <= set(seen["one"]))

    assert set(seen["one"]) | set(seen["two"]) == set(range(60))
