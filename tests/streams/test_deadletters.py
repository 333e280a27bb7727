"""Dead letters on the real brokers: what an operator sees, and that a redrive does what it says and nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from headwater_ops.stack import Endpoints
from headwater_schemas import wire
from headwater_schemas.errors import InvalidValue, UnknownTopic, UsageError
from headwater_schemas.events import OperatorAction
from headwater_streams import Retry
from headwater_streams.deadletters import (
    AUDIT_TOPIC,
    DeadLetter,
    LetterId,
    PurgeReport,
    RedriveReport,
    Selection,
    TakenOver,
)
from headwater_streams.transport.log import Log
from streams.running import until
from streams.shop import Shop

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def shop(endpoints: Endpoints, topic_name: str) -> Iterator[Shop]:
    shop = Shop(topic_name, endpoints)
    yield shop
    shop.registry.close()


async def redrive(shop: Shop, selection: Selection | None = None, **options: Any) -> RedriveReport:
    """As an operator calls it; by default all of the shop's letters."""

    def call() -> RedriveReport:
        with shop.letters() as dead:
            return dead.redrive(selection or Selection(topic=shop.dead), **options)

    return await asyncio.to_thread(call)


def standing(shop: Shop) -> list[tuple[DeadLetter, bool]]:
    with shop.letters() as dead:
        return list(dead.letters(Selection(topic=shop.dead)))


def audited(shop: Shop) -> list[OperatorAction]:
    """The audit's entries of this shop's dead letters, by a reader of its own."""
    log = Log(shop.kafka)
    partitions = log.partitions(AUDIT_TOPIC)
    decode = shop.codec.decoder(None, OperatorAction)
    ends = log.ends(partitions)
    entries = [decode(message.value()) for message in log.read({tp: (0, end) for tp, end in ends.items()})]
    return [entry for entry in entries if entry is not None and entry.topic == shop.dead]


async def test_a_fixed_handler_gets_its_letters_back_once_and_nobody_else_sees_them(shop: Shop) -> None:
    shop.bad = {2, 3}
    async with shop.open(two_handlers=True) as seen_by_handler, shop.open(group=f"{shop.topic}-other") as seen_by_group:
        shop.send(1, 2, 3, 4)
        await shop.dies(2)
        shop.bad.clear()

        report = await redrive(shop)
        await until(lambda: len(shop.charged) == 4)
        again = await redrive(shop)

    assert len(report.redriven) == report.selected == 2
    assert report.stopped is None
    assert sorted(shop.charged) == [1, 2, 3, 4]
    assert seen_by_handler == seen_by_group == [1, 2, 3, 4]
    assert (again.redriven, again.handled) == ([], 2)


async def test_letters_of_one_key_go_back_in_the_order_of_their_deaths(shop: Shop) -> None:
    shop.bad = {1, 2, 3, 4, 5}
    async with shop.open():
        shop.send(1, 2, 3, 4, 5)
        await shop.dies(5)
        shop.bad.clear()
        await redrive(shop)
        await until(lambda: len(shop.charged) == 5)

    assert shop.charged == [1, 2, 3, 4, 5]


async def test_a_handler_without_delays_gets_its_letters_through_the_parking_log(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open(retry=Retry()):
        shop.send(1, 2)
        await shop.dies(1)
        shop.bad.clear()
        report = await redrive(shop, canary=1, canary_timeout=30)
        await until(lambda: 1 in shop.charged)

    assert report.verdict is not None
    assert report.verdict.ok
    assert shop.charged == [2, 1]


async def test_a_batch_handler_gets_its_letters_back(shop: Shop) -> None:
    shop.bad = {2, 3}
    async with shop.open(retry=Retry(), batches=True):
        shop.send(1, 2, 3, 4)
        await shop.dies(2)
        shop.bad.clear()
        report = await redrive(shop, canary=1, canary_timeout=30)
        await until(lambda: {2, 3} <= set(shop.charged))

    assert report.refused == []
    assert report.verdict is not None
    assert report.verdict.ok
    assert len(report.redriven) == 2
    assert first_of_each(shop.charged) == [1, 4, 2, 3]  # a failed batch is tried one by one: 1 and 4 came first


async def test_letters_of_a_renamed_handler_go_to_the_one_that_is_named(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open(retry=Retry("1h")):
        shop.send(1, 2)
        await waits(shop, f"{shop.topic}.{shop.group}.retry.parked")
    shop.bad.clear()
    async with shop.open(retry=Retry("1h"), name="bill"):
        await shop.dies(2)
        kinds = standing(shop)
        report = await redrive(shop, handler="bill")
        await until(lambda: sorted(shop.charged) == [1, 2])

    assert [letter.exception_message for letter, _ in kinds] == [f"no handler charge is registered on {shop.topic}"] * 2
    assert [letter.handler for letter, _ in kinds] == ["charge", "charge"]
    assert len(report.redriven) == 2


async def test_a_held_key_waits_through_a_restart_until_its_letter_is_redriven(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open(hold=True):
        shop.send(1, 2)
        shop.send(10, key="other")
        await shop.dies(1)
        await until(lambda: shop.charged == [10])
        shop.send(3)
    async with shop.open(hold=True):
        shop.send(4)
        shop.send(11, key="other")
        await until(lambda: shop.charged == [10, 11])
        letters = [letter for letter, _ in standing(shop)]
        shop.bad.clear()
        await redrive(shop)
        await until(lambda: len(shop.charged) == 6)

    assert [letter.holds_key for letter in letters] == [True]
    assert shop.charged == [10, 11, 1, 2, 3, 4]


async def test_a_released_letter_lets_its_key_go_on_without_it_and_is_audited(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open(hold=True):
        shop.send(1, 2)
        await shop.dies(1)
        letter = LetterId(shop.dead, 0, 0)

        def release() -> None:
            with shop.letters() as dead:
                dead.release(letter, note="the customer is gone")
                with pytest.raises(UsageError, match="before"):
                    dead.release(letter)

        await asyncio.to_thread(release)
        await until(lambda: shop.charged == [2])
    async with shop.open(hold=True):
        shop.send(3)
        await until(lambda: 3 in shop.charged)

    assert first_of_each(shop.charged) == [2, 3]
    assert [is_open for _, is_open in standing(shop)] == [False]
    entry = audited(shop)[-1]
    assert (entry.action, entry.note) == ("dead-letters.release", "the customer is gone")


async def test_a_letter_that_holds_nothing_cannot_be_released(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open():
        shop.send(1)
        await shop.dies(1)
    with shop.letters() as dead, pytest.raises(UsageError, match="holds no key"):
        dead.release(LetterId(shop.dead, 0, 0))


async def waits(shop: Shop, topic: str) -> None:
    """Until a record stands in a topic."""
    log = Log(shop.kafka)
    async with asyncio.timeout(60):
        while not sum((await asyncio.to_thread(log.ends, log.partitions(topic))).values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def first_of_each(numbers: list[int]) -> list[int]:
    """Without the repetitions."""
    return list(dict.fromkeys(numbers))


async def test_letters_that_were_redriven_while_no_worker_ran_are_handled_by_the_next_one(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open():
        shop.send(1, 2)
        await shop.dies(1)
    shop.bad.clear()
    await redrive(shop)
    async with shop.open():
        await until(lambda: 1 in shop.charged)

    assert sorted(shop.charged) == [1, 2]


async def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open():
        shop.send(1)
        await shop.dies(1)
    log = Log(shop.kafka)
    partitions = [tp for name in log.topics() if name.startswith(shop.topic) for tp in log.partitions(name)]
    before = log.ends(partitions)

    report = await redrive(shop, dry_run=True, canary=1)

    assert report.dry_run
    assert report.redriven == [LetterId(shop.dead, 0, 0)]
    assert log.ends(partitions) == before
    assert AUDIT_TOPIC not in log.topics() or audited(shop) == []
    assert [is_open for _, is_open in standing(shop)] == [True]


async def test_a_letter_that_dies_at_every_redrive_is_left_alone_after_the_limit(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open():
        shop.send(1)
        for deaths in (1, 2, 3):
            await shop.dies(deaths)
            report = await redrive(shop, max_redrives=2)
            assert len(report.redriven) == (1 if deaths < 3 else 0)

    assert (report.guarded, report.handled) == (1, 2)
    assert [letter.redrives for letter, _ in standing(shop)] == [0, 1, 2]


async def test_canaries_that_die_again_stop_the_rest(shop: Shop) -> None:
    shop.bad = {1, 2, 3, 4}
    async with shop.open():
        shop.send(1, 2, 3, 4)
        await shop.dies(4)
        report = await redrive(shop, canary=1, canary_timeout=60)

    assert report.verdict is not None
    assert report.verdict.failed == report.redriven == [LetterId(shop.dead, 0, 0)]
    assert report.stopped is not None
    assert "died again" in report.stopped
    assert sum(is_open for _, is_open in standing(shop)) == 4  # three that stayed, and the new death


async def test_canaries_that_are_handled_let_the_rest_follow(shop: Shop) -> None:
    shop.bad = {1, 2, 3, 4}
    async with shop.open():
        shop.send(1, 2, 3, 4)
        await shop.dies(4)
        shop.bad.clear()
        report = await redrive(shop, canary=2, canary_timeout=60)
        await until(lambda: len(shop.charged) == 4)

    assert report.verdict is not None
    assert report.verdict.done == [LetterId(shop.dead, 0, 0), LetterId(shop.dead, 0, 1)]
    assert len(report.redriven) == 4
    assert shop.charged == [1, 2, 3, 4]


async def test_a_canary_that_only_succeeds_at_its_second_attempt_counts_as_handled(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open(retry=Retry("2s")):
        shop.send(1)
        await shop.dies(1)
        task = asyncio.create_task(redrive(shop, canary=1, canary_timeout=60))
        await asyncio.to_thread(_wait_for_retry, shop)
        shop.bad.clear()
        report = await task

    assert report.verdict is not None
    assert report.verdict.ok
    assert shop.charged == [1]


def _wait_for_retry(shop: Shop) -> None:
    """Until the redriven record has failed and stands in its tier again.

    Four offsets before the next: the first failure, the redrive, the marker of its transaction, the second failure.
    """
    log = Log(shop.kafka)
    (tier,) = log.partitions(f"{shop.topic}.{shop.group}.retry.2s")
    deadline = time.monotonic() + 60
    while log.ends([tier])[tier] < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_canaries_without_a_worker_are_unknown_and_stop_the_rest(shop: Shop) -> None:
    shop.bad = {1, 2}
    async with shop.open():
        shop.send(1, 2)
        await shop.dies(2)

    report = await redrive(shop, canary=1, canary_timeout=1)

    assert report.verdict is not None
    assert len(report.verdict.unknown) == 1
    assert report.stopped is not None
    assert "worker" in report.stopped
    assert len(report.redriven) == 1


async def test_poison_bytes_are_kept_shown_as_hex_and_die_again_when_nothing_was_repaired(shop: Shop) -> None:
    async with shop.open():
        shop.send_bytes(b"\xff\x00poison")
        await shop.dies(1)
        report = await redrive(shop, canary=1, canary_timeout=60)
        await shop.dies(2)
        with shop.letters() as dead:
            kinds = dead.kinds(Selection(topic=shop.dead))
            letter, is_open = dead.get(LetterId(shop.dead, 0, 1))
            value = dead.value(letter)

    assert report.stopped is not None
    assert letter.value == b"\xff\x00poison"
    assert value["undecodable"]["hex"] == b"\xff\x00poison".hex()
    assert (letter.redrives, letter.reason, is_open) == (1, "decode", True)
    assert letter.origin is not None
    assert (letter.origin.topic, letter.origin.offset) == (shop.topic, 0)
    assert len(kinds) == 1
    assert (kinds[0].count, kinds[0].open, kinds[0].reason) == (2, 1, "decode")


async def test_letters_are_told_together_by_kind_with_counts_and_a_sample(shop: Shop) -> None:
    shop.bad = {1, 2}
    async with shop.open(retry=Retry()):
        shop.send(1, 2)
        shop.send_bytes(b"\x01")
        await shop.dies(3)
    with shop.letters() as dead:
        kinds = dead.kinds(Selection(topic=shop.dead))
        some = dead.kinds(Selection(topic=shop.dead, reason="decode"))

    assert [(kind.reason, kind.count) for kind in kinds] == [("handler", 2), ("decode", 1)]
    assert kinds[0].exception_class == "ValueError"
    assert kinds[0].handler == "charge"
    assert kinds[0].sample == LetterId(shop.dead, 0, 1)
    assert kinds[0].first_seen <= kinds[0].last_seen
    assert [kind.fingerprint for kind in some] == [kinds[1].fingerprint]


@pytest.mark.parametrize("by", ["fingerprint", "key", "letter", "time"])
async def test_only_the_selected_letters_go_back(shop: Shop, by: str) -> None:
    shop.bad = {1, 2}
    async with shop.open(retry=Retry()):
        shop.send(1, key="a")
        await shop.dies(1)
        shop.send_bytes(b"\x01", key="b")
        await shop.dies(2)
        letters = [letter for letter, _ in standing(shop)]
        wanted = letters[1]
        selection = {
            "fingerprint": Selection(topic=shop.dead, fingerprint=wanted.fingerprint),
            "key": Selection(topic=shop.dead, key="b"),
            "letter": Selection(letter=wanted.id),
            "time": Selection(topic=shop.dead, since=wanted.died_at),
        }[by]
        report = await redrive(shop, selection)

    assert wanted.died_at > letters[0].died_at
    assert report.redriven == [wanted.id]


async def test_an_edited_letter_reaches_the_handler_with_its_new_value_and_is_audited(shop: Shop) -> None:
    async with shop.open():
        shop.send_bytes(b"\xff\x00poison", key="k7")
        await shop.dies(1)
        letter = LetterId(shop.dead, 0, 0)
        with shop.letters() as dead:
            report = await asyncio.to_thread(dead.edit, letter, {"key": "k7", "number": 7}, note="bytes of a bad build")
            with pytest.raises(UsageError, match="before"):
                await asyncio.to_thread(dead.edit, letter, {"key": "k7", "number": 8})
        await until(lambda: shop.charged == [7])

    entry = audited(shop)[-1]
    assert entry.action == "dead-letters.edit"
    assert (entry.actor, entry.note, entry.run) == ("ops@test", "bytes of a bad build", report.run)
    assert sorted(entry.changed) == ["key", "number"]
    assert [(r.partition, r.offset) for r in entry.records] == [(0, 0)]


async def test_an_edit_that_does_not_fit_the_schema_names_the_field_and_writes_nothing(shop: Shop) -> None:
    async with shop.open():
        shop.send_bytes(b"\xff")
        await shop.dies(1)
    with shop.letters() as dead:
        with pytest.raises(InvalidValue) as caught:
            dead.edit(LetterId(shop.dead, 0, 0), {"key": "k", "number": "seven"})
        assert caught.value.field == "number"
        assert [is_open for _, is_open in dead.letters(Selection(topic=shop.dead))] == [True]


async def test_a_redrive_is_audited_with_who_what_and_where_to(shop: Shop) -> None:
    shop.bad = {1, 2}
    async with shop.open():
        shop.send(1, 2)
        await shop.dies(2)
    report = await redrive(shop, note="price list was empty")

    (entry,) = audited(shop)
    assert (entry.action, entry.actor, entry.run) == ("dead-letters.redrive", "ops@test", report.run)
    assert entry.note == "price list was empty"
    assert entry.selection == f"topic={shop.dead}"
    assert entry.target == f"{shop.topic}.{shop.group}.retry.200ms"
    assert [(record.partition, record.offset) for record in entry.records] == [(0, 0), (0, 1)]
    moved = Log(shop.kafka)
    tier = moved.partitions(entry.target)
    records = {
        message.offset(): message for message in moved.read({tp: (0, end) for tp, end in moved.ends(tier).items()})
    }
    for record, (letter, _) in zip(entry.records, standing(shop), strict=True):
        assert record.target_offset is not None
        copy = records[record.target_offset]
        headers = dict(copy.headers() or [])
        assert (copy.key(), copy.value()) == (letter.key, letter.value)
        assert headers["shop"] == b"1"
        assert headers[wire.HW_REDRIVE_COUNT] == b"1"
        assert headers[wire.HW_ATTEMPT] == b"0"
        assert wire.HW_EXCEPTION_STACK not in headers
        assert "hw-fence" not in headers


async def test_an_interrupted_redrive_goes_on_where_it_ended(shop: Shop) -> None:
    shop.bad = set(range(1, 7))
    async with shop.open(retry=Retry()):
        shop.send(*range(1, 7))
        await shop.dies(6)
        shop.bad.clear()

        def interrupt(moved: int) -> None:
            if moved == 4:
                raise KeyboardInterrupt

        with shop.letters(sleep=lambda _: None) as dead:
            with pytest.raises(KeyboardInterrupt):
                dead.redrive(Selection(topic=shop.dead), rate=2, progress=interrupt)
        rest = await redrive(shop)
        await until(lambda: len(shop.charged) == 6)

    assert (len(rest.redriven), rest.handled) == (2, 4)
    assert shop.charged == [1, 2, 3, 4, 5, 6]


async def test_a_second_redrive_of_a_topic_ends_the_first_and_nothing_goes_back_twice(shop: Shop) -> None:
    shop.bad = {1, 2, 3, 4}
    async with shop.open(retry=Retry()):
        shop.send(1, 2, 3, 4)
        await shop.dies(4)
        shop.bad.clear()
        taken = []

        def overtake(moved: int) -> None:
            if moved == 1:
                with shop.letters() as other:
                    taken.append(other.redrive(Selection(topic=shop.dead)))

        with shop.letters(sleep=lambda _: None) as dead, pytest.raises(TakenOver):
            await asyncio.to_thread(dead.redrive, Selection(topic=shop.dead), rate=1, progress=overtake)
        await until(lambda: len(shop.charged) == 4)

    assert len(taken[0].redriven) == 3
    assert sorted(shop.charged) == [1, 2, 3, 4]


async def test_redriving_again_on_request_repeats_the_record(shop: Shop) -> None:
    shop.bad = {1}
    async with shop.open():
        shop.send(1)
        await shop.dies(1)
        shop.bad.clear()
        await redrive(shop)
        report = await redrive(shop, again=True)
        await until(lambda: shop.charged == [1, 1])

    assert len(report.redriven) == 1


async def test_a_rate_spreads_the_letters_over_time(shop: Shop) -> None:
    shop.bad = set(range(1, 7))
    async with shop.open(retry=Retry()):
        shop.send(*range(1, 7))
        await shop.dies(6)
    waits: list[float] = []
    with shop.letters(sleep=waits.append) as dead:
        report = dead.redrive(Selection(topic=shop.dead), rate=2)

    assert len(report.redriven) == 6
    assert [round(wait) for wait in waits] == [0, 1, 2]


async def test_records_that_no_handler_wrote_are_shown_and_refused(shop: Shop) -> None:
    async with shop.open():
        shop.send_bytes(b"\xff")
        await shop.dies(1)
    producer = Producer({"bootstrap.servers": shop.kafka.bootstrap})
    producer.produce(shop.dead, b"stray")
    assert producer.flush(30) == 0

    report = await redrive(shop)

    assert report.redriven == [LetterId(shop.dead, 0, 0)]
    assert [str(letter) for letter, _ in report.refused] == [f"{shop.dead}/0/1"]
    assert "was not written by a handler" in report.refused[0][1]


async def test_a_purge_deletes_what_was_handled_and_keeps_what_is_open(shop: Shop) -> None:
    shop.bad = {1, 2, 3}
    async with shop.open(retry=Retry()):
        shop.send(1, 2, 3)
        await shop.dies(3)
        shop.bad.clear()
        await redrive(shop, Selection(letter=LetterId(shop.dead, 0, 0)))
        await redrive(shop, Selection(letter=LetterId(shop.dead, 0, 2)))
    with shop.letters() as dead:
        planned = dead.purge(shop.dead, dry_run=True)
        assert len(standing(shop)) == 3
        report = dead.purge(shop.dead, note="done with it")

    assert report == PurgeReport(shop.dead, False, {0: 1}, count=1, open=0)
    assert planned == dataclasses.replace(report, dry_run=True)
    assert [letter.id.offset for letter, _ in standing(shop)] == [1, 2]
    assert [(entry.action, entry.note) for entry in audited(shop)][-1] == ("dead-letters.purge", "done with it")


async def test_purging_all_says_how_many_were_open(shop: Shop) -> None:
    shop.bad = {1, 2}
    async with shop.open(retry=Retry()):
        shop.send(1, 2)
        await shop.dies(2)
    with shop.letters() as dead:
        report = dead.purge(shop.dead, "all")

    assert (report.count, report.open) == (2, 2)
    assert standing(shop) == []


def test_only_dead_letter_topics_are_touched(shop: Shop, unique: Callable[[str], str]) -> None:
    with shop.letters() as dead:
        with pytest.raises(UnknownTopic):
            dead.purge(shop.topic, "all")
        with pytest.raises(UnknownTopic):
            dead.redrive(Selection(topic=unique("nobody.dlt")))
        with pytest.raises(UnknownTopic):
            dead.get(LetterId(unique("nobody.dlt"), 0, 0))
