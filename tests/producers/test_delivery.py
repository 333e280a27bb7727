"""A delivery is one promise for threads and coroutines."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from headwater_producers import Delivery, DeliveryPending, EventProducer, ProducerClosed
from headwater_schemas.errors import BrokerUnavailable
from producers.orders import NOWHERE, MakeProducer, order, read_all


def test_a_delivery_is_pending_until_the_broker_answers(topic: str, producer: EventProducer) -> None:
    delivery = producer.emit(topic, order(1), key="a")
    assert (delivery.state, delivery.done(), delivery.offset) == ("pending", False, None)

    assert delivery.result(20) is delivery
    assert (delivery.state, delivery.done(), delivery.topic, delivery.offset) == ("acked", True, topic, 0)
    assert delivery.result(0) is delivery


async def test_a_delivery_can_be_awaited(topic: str, producer: EventProducer) -> None:
    delivery = await producer.emit(topic, order(1), key="a")

    assert delivery.state == "acked"
    assert await delivery is delivery


async def test_many_deliveries_can_be_awaited_together(topic: str, producer: EventProducer) -> None:
    deliveries = [producer.emit(topic, order(number), key=str(number)) for number in range(3000)]
    await asyncio.gather(*deliveries)

    assert {delivery.state for delivery in deliveries} == {"acked"}
    assert len(producer) == 0


async def test_a_delivery_can_be_awaited_by_several_tasks_at_once(topic: str, producer: EventProducer) -> None:
    delivery = producer.emit(topic, order(1), key="a")

    async def wait() -> int | None:
        return (await delivery).offset

    assert list(await asyncio.gather(wait(), wait(), wait())) == [0, 0, 0]


async def test_cancelling_the_wait_leaves_the_event_on_its_way(topic: str, producer: EventProducer) -> None:
    async def wait() -> None:
        await delivery

    delivery = producer.emit(topic, order(1), key="a")
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert delivery.state == "pending"
    assert (await delivery).state == "acked"


def test_a_delivery_can_be_awaited_in_another_loop_than_it_was_emitted_in(topic: str, producer: EventProducer) -> None:
    async def emit() -> Delivery:
        return producer.emit(topic, order(1), key="a")

    async def wait(delivery: Delivery) -> Delivery:
        return await delivery

    delivery = asyncio.run(emit())
    assert asyncio.run(wait(delivery)) is delivery


def test_a_thread_and_a_coroutine_can_wait_for_the_same_delivery(topic: str, producer: EventProducer) -> None:
    delivery = producer.emit(topic, order(1), key="a")
    offsets: list[int | None] = []
    thread = threading.Thread(target=lambda: offsets.append(delivery.result(20).offset))
    thread.start()

    async def wait() -> int | None:
        return (await delivery).offset

    offsets.append(asyncio.run(wait()))
    thread.join()
    assert offsets == [0, 0]


def test_a_wait_that_runs_out_says_that_the_record_may_still_arrive(topic_name: str, nowhere: EventProducer) -> None:
    delivery = nowhere.emit(topic_name, order(1), key="a")
    with pytest.raises(DeliveryPending, match=r"not acknowledged after 0\.01 s") as caught:
        delivery.result(0.01)

    assert isinstance(caught.value, TimeoutError)
    assert delivery.state == "pending"


def test_threads_share_a_producer(bootstrap: str, topic: str, producer: EventProducer) -> None:
    def emit(worker: int) -> None:
        for number in range(1000):
            producer.emit(topic, order(number), key=f"w-{worker}")

    workers = [threading.Thread(target=emit, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    producer.flush(30)

    records = read_all(bootstrap, topic)
    ids = {dict(record.headers)["ce_id"] for record in records}
    assert (len(records), len(ids)) == (4000, 4000)


def test_a_flush_that_runs_out_says_how_many_are_left(topic_name: str, nowhere: EventProducer) -> None:
    nowhere.emit(topic_name, order(1))
    nowhere.emit(topic_name, order(2))
    with pytest.raises(DeliveryPending, match="2 events"):
        nowhere.flush(0.01)


def test_closing_gives_up_what_is_not_acknowledged_and_says_so(topic_name: str, nowhere: EventProducer) -> None:
    delivery = nowhere.emit(topic_name, order(1))
    with pytest.raises(BrokerUnavailable, match=f"1 to {topic_name}"):
        nowhere.close(0.01)

    assert delivery.state == "failed"
    with pytest.raises(BrokerUnavailable, match="before the producer closed"):
        delivery.result(0)


def test_a_closed_producer_says_so(topic: str, producer: EventProducer) -> None:
    producer.emit(topic, order(1))
    producer.close()
    producer.close()

    with pytest.raises(ProducerClosed):
        producer.emit(topic, order(2))
    with pytest.raises(ProducerClosed):
        producer.emit_raw(topic, b"")
    assert len(producer) == 0


async def test_leaving_an_async_with_block_waits_for_the_broker(
    topic: str, make_producer: MakeProducer, bootstrap: str
) -> None:
    async with make_producer(bootstrap) as producer:
        delivery = producer.emit(topic, order(1))

    assert delivery.state == "acked"


def test_leaving_a_with_block_by_an_error_keeps_that_error(topic_name: str, make_producer: MakeProducer) -> None:
    def work() -> None:
        with make_producer(NOWHERE, delivery_timeout=0.3) as producer:
            producer.emit(topic_name, order(1))
            raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        work()


def test_an_idle_producer_costs_next_to_nothing(topic: str, producer: EventProducer) -> None:
    producer.emit(topic, order(1)).result(20)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.1


def test_a_report_handler_that_raises_does_not_hit_whoever_polls(
    topic: str, producer: EventProducer, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_error: object, _message: object) -> None:
        raise ValueError("broken handler")

    producer.emit_raw(topic, b"x", on_delivery=broken)
    producer.flush(20)

    assert producer.emit(topic, order(1)).result(20).state == "acked"
    assert any("broken handler" in str(record.exc_info) for record in caplog.records)
