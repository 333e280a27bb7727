"""What handlers are promised, on the memory log."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from faust.types import TP

from headwater_schemas.errors import CacheUnavailable, NotPermitted, RecordTooLarge, UsageError
from headwater_streams import DeadLetter, EventContext, RecordBatch, Retry, RetryLater, StreamApp
from headwater_streams.handlers.batch import BatchRunner
from headwater_streams.handlers.failure import header
from headwater_streams.handlers.runner import Runner
from headwater_streams.testing import StreamKit
from headwater_streams.transport.errors import GroupClosed
from streams.orders import OUT, TOPIC, first_seen, memory_app, order


class Order(msgspec.Struct):
    key: str
    number: int


def text(headers: Any, name: str) -> str | None:
    found = header(headers, name)
    return None if found is None else found.decode()


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


async def test_the_offset_of_a_running_record_holds_the_commit_back() -> None:
    app, gate = memory_app(), asyncio.Event()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        if value["number"] == 3:
            await gate.wait()

    kit = StreamKit(app)
    await kit.start()
    for number in range(10):
        kit.send(TOPIC, order(f"k{number}", number), key=f"k{number}")
    for _ in range(20):
        await kit._fetch()
        await asyncio.sleep(0)
    await kit.commit()
    held = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
    gate.set()
    await kit.settle()
    await kit.commit()
    let_go = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
    await kit.crash()

    assert (held, let_go) == ([3], [10])


async def with_one_done() -> StreamKit:
    """A kit in which one record is done, and nothing is committed."""
    app = memory_app()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        """Nothing."""

    kit = StreamKit(app)
    await kit.start()
    kit.send(TOPIC, order("a", 1), key="a")
    await kit.settle()
    return kit


async def test_a_commit_that_is_not_sent_or_finds_its_partition_gone_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = await with_one_done()
    with monkeypatch.context() as leaving:
        leaving.setattr(kit.broker, "commit_soon", lambda offsets, told: False)
        await kit.commit()
    refused = dict(kit.committed)
    await kit.commit()
    accepted = dict(kit.committed)
    assert kit._pool is not None
    handed_over, _ = await kit._pool.revoked([TP(TOPIC, 0)], 1.0)
    await kit.crash()

    assert refused.get(TP(TOPIC, 0), 0) == 0
    assert accepted[TP(TOPIC, 0)] == handed_over[TP(TOPIC, 0)] == 1


async def test_what_the_brokers_refused_to_commit_is_part_of_the_next_commit_with_all_that_was_told_of_it() -> None:
    kit = await with_one_done()
    await kit.commit()
    committed, told = dict(kit.broker.offsets), dict(kit.broker.told)
    kit.broker.offsets.clear()
    kit.broker.told.clear()
    await kit.commit()
    nothing_new = dict(kit.broker.offsets)
    assert kit._pool is not None
    kit._pool.uncommitted(committed.keys())
    await kit.commit()
    again, told_again = dict(kit.broker.offsets), dict(kit.broker.told)
    await kit.crash()

    assert nothing_new == {}
    assert again[TP(TOPIC, 0)] == committed[TP(TOPIC, 0)] == 1
    assert {tp: told[tp] for tp in again} == told_again


async def test_a_worker_that_leaves_while_it_takes_partitions_over_does_not_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = memory_app()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any]) -> None:
        """Nothing."""

    async def left(*_: Any) -> None:
        raise GroupClosed("this worker has left the group billing")

    kit = StreamKit(app)
    monkeypatch.setattr(kit.broker, "commit_told", left)
    await kit.start()
    for _ in range(10):
        await asyncio.sleep(0)
    assert kit._pool is not None
    ready, crashes = kit._pool.ready, kit.crashes
    await kit.crash()

    assert not ready
    assert crashes == []


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
        while calls < 3:
            await kit._fetch()
            await asyncio.sleep(0.01)
        await kit.settle()
        dead = kit.dead_letters(TOPIC)

    assert dead == []


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


async def test_a_record_is_settled_only_when_what_it_emitted_is_acknowledged() -> None:
    app = memory_app()

    @app.handler(TOPIC)
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        event.emit(OUT, order(value["key"], value["number"] * 10), key=value["key"])

    async with StreamKit(app) as kit:
        kit.broker.hold(OUT)
        kit.send(TOPIC, order("a", 1), key="a")
        for _ in range(20):
            await kit._fetch()
            await asyncio.sleep(0)
        await kit.commit()
        before = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]
        kit.broker.acknowledge(OUT)
        await kit.commit()
        after = [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC]

    assert kit.values(OUT) == [order("a", 10)]
    assert (before, after) == ([0], [1])


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


async def test_a_batch_handler_gets_the_partition_in_order_and_settles_it_together() -> None:
    app = memory_app()
    sizes: list[int] = []
    numbers: list[int] = []

    @app.batch_handler(TOPIC, max_records=40)
    async def bill(batch: RecordBatch) -> None:
        sizes.append(len(batch))
        numbers.extend(value["number"] for value in batch.values)

    async with StreamKit(app) as kit:
        for number in range(100):
            kit.send(TOPIC, order("a", number), key="a")
        kit.send_raw(TOPIC, b"garbage", key=b"a")
        await kit.settle()
        await kit.commit()
        dead = kit.dead_letters(TOPIC)

    assert sizes == [40, 40, 20]
    assert numbers == list(range(100))
    assert len(dead) == 1
    assert [offset for tp, offset in kit.committed.items() if tp.topic == TOPIC] == [101]


async def test_of_a_batch_that_keeps_failing_only_the_bad_records_die() -> None:
    app = memory_app()
    done: list[int] = []

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        for value in batch.values:
            if value["number"] == 3:
                raise ValueError("bad record")
        done.extend(value["number"] for value in batch.values)

    async with StreamKit(app) as kit:
        for number in range(6):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        (dead,) = kit.dead_letters(TOPIC)

    assert done == [0, 1, 2, 4, 5]
    assert text(dead.headers(), "hw-original-offset") == "3"


async def test_a_redriven_record_is_a_batch_of_its_own_with_its_old_place_and_is_committed_where_it_stood() -> None:
    app = memory_app()
    seen: list[tuple[Any, ...]] = []
    bad = True

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        if bad and any(value["number"] == 1 for value in batch.values):
            raise ValueError
        seen.append((batch.redriven, batch.tp, batch.offsets, [value["number"] for value in batch.values]))

    parked = f"{TOPIC}.billing.retry.parked"
    async with StreamKit(app) as kit:
        for number in range(2):
            kit.send(TOPIC, order("a", number), key="a")
        await kit.settle()
        (letter,) = kit.dead_letters(TOPIC)
        bad = False
        kept = [(name, value) for name, value in letter.headers() or [] if name != "hw-fence"]
        kit.send_raw(parked, letter.value(), key=b"a", headers=kept)
        stale = [(name, value) for name, value in letter.headers() or [] if name != "hw-fence"]
        kit.send_raw(parked, letter.value(), key=b"a", headers=[*stale, ("hw-fence", b"zombie")])
        await kit.settle()
        await kit.commit()
        committed = kit.committed

    assert seen == [(False, TP(TOPIC, 0), [0], [0]), (True, TP(TOPIC, 0), [1], [1])]
    assert committed[TP(parked, 0)] == 2


async def test_a_redriven_record_that_fails_in_a_batch_handler_again_dies_again_as_the_same_record() -> None:
    app = memory_app()

    @app.batch_handler(TOPIC, retry=Retry())
    async def bill(batch: RecordBatch) -> None:
        raise ValueError

    async with StreamKit(app) as kit:
        kit.send(TOPIC, order("a", 0), key="a")
        kit.send(TOPIC, order("a", 1), key="a")
        await kit.settle()
        letter = kit.dead_letters(TOPIC)[1]
        kept = [(name, value) for name, value in letter.headers() or [] if name != "hw-fence"]
        kit.send_raw(f"{TOPIC}.billing.retry.parked", letter.value(), key=b"a", headers=kept)
        await kit.settle()
        again = kit.dead_letters(TOPIC)[2]

    assert text(again.headers(), "hw-original-topic") == TOPIC
    assert text(again.headers(), "hw-original-offset") == "1"
    assert text(again.headers(), "hw-handler") == "bill"


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
        for _ in range(20):
            await kit._fetch()
            await asyncio.sleep(0)
        await kit.commit()
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


class Held:
    """A handler that holds a key whose record dies; orders in ``bad`` do."""

    def __init__(self) -> None:
        self.bad = {0}
        self.effects: list[tuple[str, int]] = []
        self.kit = StreamKit(self._app())

    def _app(self) -> StreamApp:
        app = memory_app()

        @app.handler(TOPIC, retry=Retry("1s"), on_dead="hold")
        async def bill(value: dict[str, Any]) -> None:
            if value["number"] in self.bad:
                raise ValueError("no price")
            self.effects.append((value["key"], value["number"]))

        return app

    async def dies(self) -> None:
        """The first order of a dies; two more of a come, and one of b."""
        await self.kit.start()
        self.kit.send(TOPIC, order("a", 0), key="a")
        self.kit.send(TOPIC, order("a", 1), key="a")
        await self.kit.advance("1s")
        self.kit.send(TOPIC, order("a", 2), key="a")
        self.kit.send(TOPIC, order("b", 3), key="b")
        await self.kit.advance("1s")
        await self.kit.commit()

    def send_back(self, *headers: tuple[str, bytes]) -> None:
        """As an operator does: to the shortest tier, unmarked, due at once."""
        letter = self.kit.dead_letters(TOPIC)[-1]
        gone = ("hw-fence", "hw-hold", "hw-attempt", "hw-due-at")
        kept = [(name, value) for name, value in letter.headers() or [] if name not in gone]
        own = [*kept, ("hw-attempt", b"0"), ("hw-due-at", b"0"), *headers]
        self.kit.send_raw(f"{TOPIC}.billing.retry.1s", letter.value(), key=letter.key(), headers=own)

    async def restart(self) -> None:
        await self.kit.crash()
        await self.kit.start()
        await self.kit.settle()

    @property
    def held(self) -> list[int]:
        assert self.kit._pool is not None
        return [runner.held_keys for runner in self.kit._pool.runners if isinstance(runner, Runner)]


@pytest.mark.parametrize("restarts", [0, 1, 2])
async def test_a_key_whose_record_died_is_held_until_that_record_is_redriven_with_success(restarts: int) -> None:
    world = Held()
    await world.dies()
    for _ in range(restarts):
        await world.restart()
    before, held = first_seen(world.effects), world.held
    world.bad.clear()
    world.send_back()
    await world.kit.advance("1s")
    await world.kit.commit()
    unsettled = {tp: len(world.kit.records(tp.topic)) - at for tp, at in world.kit.committed.items()}
    await world.restart()
    world.kit.send(TOPIC, order("a", 4), key="a")
    await world.kit.settle()
    letters = world.kit.dead_letters(TOPIC)
    await world.kit.crash()

    assert before == {"b": [3]}
    assert held == [1]
    assert first_seen(world.effects) == {"b": [3], "a": [0, 1, 2, 4]}
    assert len(letters) == 1
    assert text(letters[0].headers(), "hw-hold") == "holds"
    assert set(unsettled.values()) == {0}
    assert world.kit.crashes == []


async def test_a_redrive_that_dies_again_holds_the_key_on() -> None:
    world = Held()
    await world.dies()
    world.send_back()
    await world.kit.advance("1s")
    await world.kit.advance("1s")
    died, held = len(world.kit.dead_letters(TOPIC)), world.held
    before = first_seen(world.effects)
    world.bad.clear()
    world.send_back()
    await world.kit.advance("1s")
    after = world.held
    await world.kit.crash()

    assert (died, held, before) == (2, [1], {"b": [3]})
    assert after == [0]
    assert first_seen(world.effects) == {"b": [3], "a": [0, 1, 2]}


async def test_a_released_key_goes_on_without_the_record_that_died_also_after_a_restart() -> None:
    world = Held()
    await world.dies()
    world.send_back(("hw-hold", b"releases"))
    await world.kit.advance("1s")
    await world.restart()
    held = world.held
    await world.kit.crash()

    assert held == [0]
    assert first_seen(world.effects) == {"b": [3], "a": [1, 2]}


async def test_the_next_record_of_a_released_key_may_hold_it_again() -> None:
    world = Held()
    world.bad = {0, 1}
    await world.dies()
    world.bad.discard(0)
    world.send_back()
    for _ in range(3):
        await world.kit.advance("1s")
    between, held = first_seen(world.effects), world.held
    await world.restart()
    world.bad.clear()
    world.send_back()
    await world.kit.advance("1s")
    await world.kit.crash()

    assert (between, held) == ({"b": [3], "a": [0]}, [1])
    assert first_seen(world.effects) == {"b": [3], "a": [0, 1, 2]}


async def test_what_was_parked_behind_a_held_key_and_is_done_is_not_handled_again_after_a_restart() -> None:
    world = Held()
    await world.dies()
    world.bad.add(5)
    world.kit.send(TOPIC, order("b", 5), key="b")
    world.kit.send(TOPIC, order("b", 6), key="b")
    await world.kit.settle()
    world.bad.discard(5)
    await world.kit.advance("1s")
    await world.kit.commit()
    await world.restart()
    held = world.held
    await world.kit.crash()

    assert held == [1]
    assert world.effects == [("b", 3), ("b", 5), ("b", 6)]


async def test_what_a_batch_emitted_is_acknowledged_before_any_of_its_records_is_committed() -> None:
    app = memory_app()

    @app.batch_handler(TOPIC)
    async def bill(batch: RecordBatch) -> None:
        batch.emit(OUT, order("sum", sum(value["number"] for value in batch.values)), key="sum")

    async with StreamKit(app) as kit:
        kit.broker.hold(OUT)
        for number in range(3):
            kit.send(TOPIC, order("a", number), key="a")
        for _ in range(20):
            await kit._fetch()
            await asyncio.sleep(0)
        await kit.commit()
        before = kit.committed.get(TP(TOPIC, 0), 0)
        kit.broker.acknowledge(OUT)
        await kit.settle()
        await kit.commit()
        after = kit.committed[TP(TOPIC, 0)]

    assert (before, after) == (0, 3)


@pytest.mark.parametrize("options", [{"ordered": False}, {"retry": Retry()}, {"on_dead": "stop"}])
def test_holding_needs_an_order_and_a_tier(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="on_dead="):
        memory_app().handler(TOPIC, **{"on_dead": "hold", **options})(_nothing)


async def _nothing(value: dict[str, Any]) -> None: ...


async def test_a_batch_that_arrives_just_as_the_last_one_is_done_is_not_forgotten() -> None:
    app = memory_app()
    seen: list[int] = []

    @app.batch_handler(TOPIC)
    async def bill(batch: RecordBatch) -> None:
        seen.extend(value["number"] for value in batch.values)

    async with StreamKit(app) as kit:
        await kit.settle()
        for number in range(2):
            kit.send(TOPIC, order("a", number), key="a")
        (first, second) = kit.records(TOPIC)
        assert kit._pool is not None
        runner = kit._pool.runners[0]
        assert isinstance(runner, BatchRunner)

        async def feed_when_done() -> None:
            """Stands behind the working task in the loop's queue, so it runs before that task's end is taken down."""
            while not runner._tasks._tasks[TP(TOPIC, 0)].done():  # noqa: ASYNC110 - the loop's steps are what is tested
                await asyncio.sleep(0)
            runner.feed(TP(TOPIC, 0), [second])

        runner.feed(TP(TOPIC, 0), [first])
        await asyncio.create_task(feed_when_done())
        while runner.busy:  # noqa: ASYNC110
            await asyncio.sleep(0)

    assert seen == [0, 1]
