"""What handlers are promised, on the memory log."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from headwater_schemas.errors import CacheUnavailable, NotDecodable, SchemaMismatch, UsageError
from headwater_streams import EventContext, Retry
from headwater_streams.testing import StreamKit
from streams.orders import OUT, TOPIC, memory_app, order, text


class Order(msgspec.Struct):
    key: str
    number: int


async def test_every_record_reaches_its_handler_once_and_is_committed() -> None:
    app, seen = memory_app(), []

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        seen.append((value["key"], value["number"]))

    async with StreamKit(app) as kit:
        for number in range(100):
            kit.send(TOPIC, order(f"k{number % 7}", number), key=f"k{number % 7}")
        await kit.settle()
        await kit.commit()
        committed = kit.committed

    assert sorted(number for _, number in seen) == list(range(100))
    assert [offset for tp, offset in committed.items() if tp.topic == TOPIC] == [100]


async def test_an_annotated_struct_arrives_as_that_struct() -> None:
    app, seen = memory_app(), []

    @app.handler(TOPIC)
    async def bill(value: Order, event: EventContext) -> None:
        seen.append((value, event.key, event.offset, event.attempt))

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 1), key="a")
        await kit.settle()

    assert seen == [(Order("a", 1), "a", 0, 0)]


async def test_a_synchronous_handler_runs_off_the_loop() -> None:
    import threading

    app, threads = memory_app(), set()

    @app.handler(TOPIC)
    def bill(value: dict[str, Any]) -> None:
        threads.add(threading.current_thread() is threading.main_thread())

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 1), key="a")
        for _ in range(100):
            await kit.settle()
            if threads:
                break
            await asyncio.sleep(0.01)

    assert threads == {False}


async def test_records_of_one_key_never_overlap_and_other_keys_do() -> None:
    app = memory_app()
    running: dict[str, int] = {}
    most_of_a_key, most = 0, 0

    @app.handler(TOPIC, concurrency=20)
    async def bill(value: dict[str, Any]) -> None:
        nonlocal most_of_a_key, most
        running[value["key"]] = running.get(value["key"], 0) + 1
        most_of_a_key = max(most_of_a_key, running[value["key"]])
        most = max(most, sum(running.values()))
        for _ in range(3):
            await asyncio.sleep(0)
        running[value["key"]] -= 1

    async with StreamKit(app) as kit:
        for number in range(200):
            kit.send(TOPIC, order(f"k{number % 10}", number), key=f"k{number % 10}")
        await kit.settle()

    assert most_of_a_key == 1
    assert most == 10


async def test_no_more_than_the_concurrency_run_at_a_time() -> None:
    app, running, most = memory_app(), 0, 0

    @app.handler(TOPIC, concurrency=4)
    async def bill(value: dict[str, Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with StreamKit(app) as kit:
        for number in range(50):
            kit.send(TOPIC, order(f"k{number}", number), key=f"k{number}")
        await kit.settle()

    assert most == 4


async def test_a_tombstone_reaches_the_handler_as_none_and_a_missing_or_odd_key_is_no_obstacle() -> None:
    app, seen = memory_app(), []

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any] | None, event: EventContext) -> None:
        seen.append((value, event.key))

    async with StreamKit(app) as kit:
        kit.send_raw(TOPIC, None, key=b"a")
        kit.send_raw(TOPIC, None, key=b"\xff\xfe")
        kit.send_raw(TOPIC, None, key=None)
        await kit.settle()

    assert seen == [(None, "a"), (None, "\udcff\udcfe"), (None, None)]


async def test_an_outage_pauses_and_dead_letters_nothing() -> None:
    app, calls = memory_app(), 0

    @app.handler(TOPIC, retry=Retry())
    async def bill(value: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise CacheUnavailable("Redis is away")

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        await kit.advance("1s")
        await kit.advance("1s")
        dead = kit.dead_letters(TOPIC)

    assert calls == 3
    assert dead == []


@pytest.mark.parametrize("unreadable", [SchemaMismatch("an entry of an older schema"), NotDecodable("no Avro")])
async def test_what_the_handler_cannot_read_elsewhere_is_tried_again_as_any_failure(unreadable: Exception) -> None:
    app, errors, billed = memory_app(), [unreadable], []

    @app.handler(TOPIC, retry=Retry("1s"))
    async def bill(value: dict[str, Any]) -> None:
        if errors:
            raise errors.pop()  # as a cache does whose entry has another schema
        billed.append(value["number"])

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        kit.send_raw(TOPIC, b"no record at all", key=b"b")
        await kit.settle()
        dead = kit.dead_letters(TOPIC)
        await kit.advance("1s")

    assert [(letter.key(), text(letter.headers(), "hw-reason")) for letter in dead] == [(b"b", "decode")]
    assert billed == [0]


async def test_a_handler_that_overruns_is_stopped_and_counts_as_timed_out() -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry(), timeout="20ms")
    async def bill(value: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        while not kit.dead_letters(TOPIC):
            await kit._fetch()
            await asyncio.sleep(0.005)
        (dead,) = kit.dead_letters(TOPIC)

    assert text(dead.headers(), "hw-reason") == "timeout"


def test_two_handlers_may_not_share_a_name_and_a_signature_is_checked() -> None:
    app = memory_app()

    @app.handler(TOPIC, name="bill")
    async def one(value: dict[str, Any]) -> None: ...

    with pytest.raises(UsageError, match="two handlers are called bill"):

        @app.handler(OUT, name="bill")
        async def two(value: dict[str, Any]) -> None: ...

    with pytest.raises(UsageError, match=r"must take \(value\) or \(value, event\)"):

        @app.handler(OUT)
        async def three(a: Any, b: Any, c: Any) -> None: ...

    with pytest.raises(UsageError, match="names no topic"):

        @app.handler()
        async def four(value: Any) -> None: ...


async def test_two_handlers_of_one_topic_each_get_every_record_and_retry_apart() -> None:
    app, effects = memory_app(), []
    failed = False

    @app.handler(TOPIC, retry=Retry("1s"))
    async def charge(value: dict[str, Any]) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise ValueError
        effects.append(("charge", value["number"]))

    @app.handler(TOPIC, retry=Retry("1s"))
    async def notify(value: dict[str, Any]) -> None:
        effects.append(("notify", value["number"]))

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 1), key="a")
        await kit.advance("1s")
        await kit.commit()
        committed = kit.committed

    assert effects == [("notify", 1), ("charge", 1)]
    assert {offset for tp, offset in committed.items() if "parked" not in tp.topic} == {1}
