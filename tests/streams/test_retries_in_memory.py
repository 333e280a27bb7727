"""Retries, delays and dead letters, on the memory log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater_schemas.errors import NotPermitted, RecordTooLarge
from headwater_streams import DeadLetter, EventContext, Retry, RetryLater
from headwater_streams.testing import StreamKit
from streams.orders import OUT, TOPIC, first_seen, memory_app, order, run_and_commit, text


async def test_a_failed_record_waits_in_its_tier_and_its_key_waits_behind_it_while_others_flow() -> None:
    app, seen, failures = memory_app(), [], 1

    @app.handler(TOPIC, retry=Retry("10s"))
    async def bill(value: dict[str, Any]) -> None:
        nonlocal failures
        if value["key"] == "a" and failures:
            failures -= 1
            raise ValueError("not now")
        seen.append((value["key"], value["number"]))

    async with StreamKit(app) as kit:
        for number in range(3):
            kit.send(TOPIC, order("a", number), key="a")
            kit.send(TOPIC, order("b", number), key="b")
        await kit.settle()
        before = list(seen)
        await kit.advance("9s")
        early = list(seen)
        await kit.advance("1s")
        await kit.commit()
        committed = kit.committed

    assert before == early == [("b", 0), ("b", 1), ("b", 2)]
    assert seen == [*before, ("a", 0), ("a", 1), ("a", 2)]
    assert {tp.topic.removeprefix(TOPIC): offset for tp, offset in committed.items()} == {
        "": 6,
        ".billing.retry.10s": 1,
        ".billing.retry.parked": 2,
    }


async def test_a_record_dies_when_its_delays_are_used_up_and_its_key_flows_on() -> None:
    app, seen = memory_app(), []

    @app.handler(TOPIC, retry=Retry("1s", "5s"))
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        seen.append((value["number"], event.attempt))
        if value["number"] == 0:
            raise KeyError("never")

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        kit.send(TOPIC, order("a", 1), key="a")
        await kit.advance("1s")
        await kit.advance("5s")
        (dead,) = kit.dead_letters(TOPIC)

    assert seen == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert dead.key() == b"a"
    assert dead.value() == kit.records(TOPIC)[0].value()
    assert text(dead.headers(), "hw-reason") == "handler"
    assert text(dead.headers(), "hw-exception-class") == "KeyError"
    assert text(dead.headers(), "hw-original-topic") == TOPIC
    assert text(dead.headers(), "hw-original-offset") == "0"
    assert text(dead.headers(), "hw-handler") == "bill"
    assert text(dead.headers(), "hw-group") == "billing"
    assert text(dead.headers(), "hw-attempt") == "3"
    assert "KeyError: 'never'" in (text(dead.headers(), "hw-exception-stack") or "")


async def test_the_headers_of_the_record_stay_as_they_were() -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry("1s"))
    async def bill(value: dict[str, Any]) -> None:
        raise ValueError

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a", headers=[("tenant", b"t-1")])
        await kit.advance("1s")
        (dead,) = kit.dead_letters(TOPIC)
        (sent,) = kit.records(TOPIC)

    kept = [pair for pair in dead.headers() or [] if not pair[0].startswith("hw-")]
    assert kept == sent.headers()


async def test_records_parked_behind_a_dying_one_keep_their_order_when_more_of_them_fail() -> None:
    app, effects = memory_app(), []
    budget = {2: 1, 4: 2, 5: 1}

    @app.handler(TOPIC, retry=Retry("1s", "3s"))
    async def bill(value: dict[str, Any]) -> None:
        number = value["number"]
        if budget.get(number, 0):
            budget[number] -= 1
            raise ValueError(number)
        effects.append((value["key"], number))

    async with StreamKit(app) as kit:
        for number in range(8):
            kit.send(TOPIC, order("a", number), key="a")
        for _ in range(10):
            await kit.advance("1s")

    assert effects == [("a", number) for number in range(8)]


async def test_a_delay_longer_than_the_tiers_is_made_of_hops() -> None:
    app, seen, asked = memory_app(), [], False

    @app.handler(TOPIC, retry=Retry("1s", "10s"))
    async def bill(value: dict[str, Any]) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise RetryLater("25s")
        seen.append(app_kit.clock.time() - started)

    async with StreamKit(app) as app_kit:
        started = app_kit.clock.time()
        app_kit.send(TOPIC, order("a", 0), key="a")
        for _ in range(60):
            await app_kit.advance("500ms")
        hops = [len(app_kit.records(f"{TOPIC}.billing.retry.{tier}")) for tier in ("1s", "10s")]

    assert seen == [25.0]
    assert hops == [4, 2]  # 10 + 10 + 1 + 1 + 1 + (1 + the last second, waited for where it is)


async def test_immediate_tries_happen_in_place() -> None:
    app, calls = memory_app(), 0

    @app.handler(TOPIC, retry=Retry(immediate=3))
    async def bill(value: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ValueError

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        await kit.settle()
        dead = kit.dead_letters(TOPIC)

    assert (calls, dead) == (3, [])


@pytest.mark.parametrize("error", [DeadLetter("poison"), ValueError("named in never")])
async def test_what_is_declared_hopeless_dies_at_once(error: Exception) -> None:
    app, calls = memory_app(), 0

    @app.handler(TOPIC, retry=Retry("1s", never=(ValueError,)))
    async def bill(value: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        raise error

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        await kit.settle()
        assert len(kit.dead_letters(TOPIC)) == 1
    assert calls == 1


@pytest.mark.parametrize("poison", [b"", b"\x00", b"\x01garbage", b"\x00\x00\x00\x00\x63rest", b"\x00\x00\x00\x00\x01"])
async def test_bytes_that_cannot_be_read_die_untouched_and_block_nobody(poison: bytes) -> None:
    app, seen = memory_app(), []

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        seen.append(value["number"])

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        kit.send_raw(TOPIC, poison, key=b"a")
        kit.send(TOPIC, order("a", 2), key="a")
        await kit.settle()
        (dead,) = kit.dead_letters(TOPIC)

    assert seen == [0, 2]
    assert dead.value() == poison
    assert text(dead.headers(), "hw-reason") == "decode"


async def test_a_record_whose_emit_the_brokers_refuse_in_a_retry_dies_as_the_record_of_the_topic_that_it_is() -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry("1s"))
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        if event.attempt == 0 and value["number"] > 0:
            raise ValueError("not yet")
        event.emit(OUT, value, key=value["key"])

    async with StreamKit(app) as kit:
        for number, key in enumerate("abc"):
            kit.send(TOPIC, order(key, number), key=key)
        await kit.advance("0.5s")
        kit.broker.refuse(OUT, RecordTooLarge("1 MB"))
        await kit.advance("1s")
        letters = kit.dead_letters(TOPIC)

    told = [{name: value.decode() for name, value in letter.headers() or []} for letter in letters]
    assert [(each["hw-original-topic"], each["hw-original-offset"]) for each in told] == [(TOPIC, "1"), (TOPIC, "2")]
    assert [each["hw-reason"] for each in told] == ["too-large", "too-large"]


async def test_a_dead_letter_topic_that_refuses_stops_the_partition_and_nothing_is_skipped() -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry())
    async def bill(value: dict[str, Any]) -> None:
        if value["number"] == 1:
            raise ValueError

    async with StreamKit(app) as kit:
        dead = f"{TOPIC}.billing.dlt"
        await kit.settle()
        kit.broker.refuse(dead, NotPermitted("no"))
        for number in range(3):
            kit.send(TOPIC, order(f"k{number}", number), key=f"k{number}")
        while not kit.broker.paused:
            await kit._fetch()
            await asyncio.sleep(0)
        await kit.commit()
        stuck = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
        kit.broker.refuse(dead, None)
        await asyncio.sleep(0.15)  # the pause before the record is offered again
        await kit.settle()
        await kit.commit()

    assert stuck == [1]
    assert [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC] == [3]


async def test_a_waiting_record_whose_handler_was_renamed_becomes_a_dead_letter_and_is_committed_after_it() -> None:
    before, after = memory_app(), memory_app()
    seen: list[int] = []

    @before.handler(TOPIC, name="bill", retry=Retry("10s"))
    async def bill(value: dict[str, Any]) -> None:
        raise ValueError("not now")

    @after.handler(TOPIC, name="charge", retry=Retry("10s"))
    async def charge(value: dict[str, Any]) -> None:
        seen.append(value["number"])

    old = StreamKit(before)
    await old.start()
    for number in range(3):  # the first in the tier, two parked behind it
        old.send(TOPIC, order("a", number), key="a")
    await old.settle()
    await old.commit()
    await old.crash()
    dead = f"{TOPIC}.billing.dlt"
    async with StreamKit(after, broker=old.broker, clock=old.clock) as kit:
        kit.broker.hold(dead)
        kit.send(TOPIC, order("a", 3), key="a")
        await run_and_commit(kit)
        unacknowledged = {tp.topic: at for tp, at in kit.committed.items() if "retry" in tp.topic}
        kit.broker.acknowledge(dead)
        await kit.settle()
        await kit.commit()
        letters = kit.dead_letters(TOPIC)

    assert seen == [3]
    assert unacknowledged == {f"{TOPIC}.billing.retry.10s": 0, f"{TOPIC}.billing.retry.parked": 0}
    assert {at for tp, at in kit.committed.items() if "retry" in tp.topic} == {1, 2}
    assert sorted(text(letter.headers(), "hw-original-offset") or "" for letter in letters) == ["0", "1", "2"]
    for letter in letters:
        assert text(letter.headers(), "hw-handler") == "bill"
        assert text(letter.headers(), "hw-reason") == "handler"
        assert text(letter.headers(), "hw-exception-message") == f"no handler bill is registered on {TOPIC}"


async def test_a_stray_record_in_a_retry_topic_becomes_a_dead_letter() -> None:
    app = memory_app()

    @app.handler(TOPIC, retry=Retry("1s"))
    async def bill(value: dict[str, Any]) -> None: ...

    async with StreamKit(app) as kit:
        kit.send_raw(f"{TOPIC}.billing.retry.1s", b"stray", key=b"a")
        await kit.settle()
        (letter,) = kit.dead_letters(TOPIC)

    assert letter.value() == b"stray"
    assert text(letter.headers(), "hw-handler") == "(unregistered)"


async def test_after_a_crash_the_keys_that_wait_on_the_log_still_wait() -> None:
    app, effects = memory_app(), []
    failures = 1

    @app.handler(TOPIC, retry=Retry("10s"))
    async def bill(value: dict[str, Any]) -> None:
        nonlocal failures
        if value["number"] == 0 and failures:
            failures -= 1
            raise ValueError
        effects.append((value["key"], value["number"]))

    kit = StreamKit(app)
    await kit.start()
    kit.send(TOPIC, order("a", 0), key="a")
    kit.send(TOPIC, order("a", 1), key="a")
    await kit.settle()
    await kit.commit()
    await kit.crash()
    kit.send(TOPIC, order("a", 2), key="a")
    await kit.start()
    await kit.settle()
    before = list(effects)
    await kit.advance("10s")
    await kit.crash()

    assert before == []
    assert first_seen(effects) == {"a": [0, 1, 2]}
