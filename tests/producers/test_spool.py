"""With a spool the producer loses nothing it accepted: broker away, process killed, disk full."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from headwater_producers import Block, Delivery, EventProducer, ProducerSettings, Spool, SpoolUnavailable
from headwater_producers.spool.slot import Slot
from headwater_schemas.errors import InvalidValue, Overloaded, SettingError
from headwater_schemas.settings import Environment
from producers.broker import Broker
from producers.orders import NOWHERE, MakeProducer, alter_topic, create_topic, order, read_all


@pytest.fixture
def spooling(make_producer: MakeProducer, tmp_path: Path) -> Callable[..., EventProducer]:
    """Makes producers that spool under ``tmp_path``; by default after a fifth of a second."""

    def make(
        bootstrap: str, *, after: float = 0.2, max_bytes: int = 1024 * 1024 * 1024, **more: object
    ) -> EventProducer:
        policy = Spool(tmp_path / "spool", max_bytes=max_bytes, after=after)
        return make_producer(bootstrap, back_pressure=policy, **more)

    return make


def amounts(bootstrap: str, topic: str) -> dict[bytes, list[int]]:
    """What stands on the log for each key: the number in the id header of each record, in order."""
    seen: dict[bytes, list[int]] = {}
    for record in read_all(bootstrap, topic):
        seen.setdefault(record.key, []).append(int(dict(record.headers)["ce_id"]))
    return seen


def degraded(producer: EventProducer) -> bool:
    return producer.degraded


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def test_while_the_broker_answers_nothing_goes_to_disk(
    bootstrap: str, topic: str, spooling: Callable[..., EventProducer], tmp_path: Path
) -> None:
    producer = spooling(bootstrap, after=20)
    deliveries = [producer.emit(topic, order(number), key="a") for number in range(2000)]
    producer.flush(20)

    assert {delivery.state for delivery in deliveries} == {"acked"}
    assert [delivery.offset for delivery in deliveries] == list(range(2000))
    assert not producer.degraded
    assert list(tmp_path.rglob("*.log")) == []


def test_while_the_broker_is_away_a_delivery_resolves_as_spooled(
    topic_name: str, spooling: Callable[..., EventProducer], tmp_path: Path
) -> None:
    producer = spooling(NOWHERE)
    first = producer.emit(topic_name, order(1), key="a")
    assert first.state == "pending"
    assert first.result(20).state == "spooled"
    assert producer.degraded

    second = producer.emit(topic_name, order(2), key="a").result(20)
    assert (second.state, second.offset) == ("spooled", None)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.log")) > 100


async def test_a_spooled_delivery_can_be_awaited(topic_name: str, spooling: Callable[..., EventProducer]) -> None:
    producer = spooling(NOWHERE)
    assert (await producer.emit(topic_name, order(1))).state == "spooled"
    assert (await producer.emit(topic_name, order(2))).state == "spooled"


def test_the_spool_drains_in_key_order_when_the_broker_is_back(
    bootstrap: str, broker: Broker, topic: str, spooling: Callable[..., EventProducer], tmp_path: Path
) -> None:
    """Before, during and after: one order, nothing lost, and as nothing was killed, nothing twice."""
    numbers = iter(range(10**6))

    def emit(count: int) -> None:
        for number in (next(numbers) for _ in range(count)):
            producer.emit(topic, order(number), key=f"k-{number % 5}", id=str(number))

    producer = spooling(broker.bootstrap, after=2)
    emit(500)
    producer.flush(20)
    assert not degraded(producer)
    broker.freeze()
    emit(500)
    producer.flush(20)
    assert degraded(producer)
    emit(500)
    producer.flush(20)
    broker.thaw()
    while degraded(producer):
        emit(50)
        time.sleep(0.01)
    emit(500)
    producer.flush(20)
    total = next(numbers)

    eventually(lambda: not list(tmp_path.rglob("*.log")))
    assert amounts(bootstrap, topic) == {f"k-{k}".encode(): list(range(k, total, 5)) for k in range(5)}


def test_a_new_producer_sends_what_the_last_one_left_before_its_own(
    bootstrap: str, topic: str, spooling: Callable[..., EventProducer]
) -> None:
    with spooling(NOWHERE) as first:
        for number in range(100):
            first.emit(topic, order(number), key="a", id=str(number), headers={"tenant": "blue", "raw": b"\xff"})
    with spooling(bootstrap) as second:
        for number in range(100, 200):
            second.emit(topic, order(number), key="a", id=str(number))
        eventually(lambda: not second.degraded)

    records = read_all(bootstrap, topic)
    assert [int(dict(record.headers)["ce_id"]) for record in records] == list(range(200))
    assert dict(records[0].headers)["tenant"] == b"blue"
    assert dict(records[0].headers)["raw"] == b"\xff"
    assert records[0].timestamp <= records[150].timestamp


def test_closing_writes_what_is_unacknowledged_to_disk(topic_name: str, spooling: Callable[..., EventProducer]) -> None:
    producer = spooling(NOWHERE, after=60)
    deliveries = [producer.emit(topic_name, order(number)) for number in range(50)]
    producer.close(0.01)
    assert {delivery.state for delivery in deliveries} == {"spooled"}


SCRIPT = """
import sys
from pathlib import Path
from headwater_producers import EventProducer, Spool
from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.registry import LocalRegistry
from producers.broker import Broker
from producers.orders import catalogue_of, order, settings_for
topic, folder = sys.argv[1:]
producer = EventProducer(
    settings_for("127.0.0.1:1", back_pressure=Spool(Path(folder), after=0.2)),
    catalogue_of(TopicSpec(topic, "Order")),
    LocalRegistry(),
    source="orders",
)
number = 0
while True:
    deliveries = [producer.emit(topic, order(number + i), key="a", id=str(number + i)) for i in range(100)]
    for delivery in deliveries:
        delivery.result()
    number += 100
    print(number, flush=True)
"""


def test_what_was_spooled_survives_a_kill(
    bootstrap: str, topic: str, spooling: Callable[..., EventProducer], tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, topic, str(tmp_path / "spool")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().splitlines()
    accepted = int(said[-1])
    assert accepted >= 2000

    with spooling(bootstrap) as producer:
        eventually(lambda: not producer.degraded and len(producer) == 0)
    sent = [int(dict(record.headers)["ce_id"]) for record in read_all(bootstrap, topic)]
    assert sent[:accepted] == list(range(accepted))
    assert sent == list(range(len(sent)))


def test_what_the_broker_refuses_for_good_is_put_aside_and_tried_at_the_next_start(
    bootstrap: str, topic_name: str, spooling: Callable[..., EventProducer], caplog: pytest.LogCaptureFixture
) -> None:
    create_topic(bootstrap, topic_name, max_message_bytes="2000")
    with spooling(NOWHERE) as first:
        first.emit(topic_name, order(1, note="".join(map(str, range(2000)))), key="a", id="1")
    with spooling(bootstrap) as second:
        eventually(lambda: "put aside" in caplog.text)
        second.emit(topic_name, order(2), key="b", id="2")
    assert amounts(bootstrap, topic_name) == {b"b": [2]}
    assert REGISTRY.get_sample_value("headwater_spool_rejected_total", {"topic": topic_name}) == 1

    alter_topic(bootstrap, topic_name, max_message_bytes="100000")
    with spooling(bootstrap):
        eventually(lambda: amounts(bootstrap, topic_name) == {b"a": [1], b"b": [2]})


def test_a_full_spool_refuses(topic_name: str, spooling: Callable[..., EventProducer]) -> None:
    producer = spooling(NOWHERE, max_bytes=1024 * 1024)
    producer.emit(topic_name, order(0)).result(20)
    accepted: list[Delivery] = []

    def fill() -> None:
        accepted.extend(producer.emit(topic_name, order(number, note="x" * 1000)) for number in range(5000))

    with pytest.raises(Overloaded, match="spool is full"):
        fill()
    producer.flush(20)
    assert 500 < len(accepted) < 1100
    assert {delivery.state for delivery in accepted} == {"spooled"}


def test_a_disk_that_fails_is_loud_and_refuses_until_it_recovers(
    topic_name: str,
    spooling: Callable[..., EventProducer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer = spooling(NOWHERE)
    producer.emit(topic_name, order(0), id="0").result(20)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    refused = producer.emit(topic_name, order(1), id="1")
    with pytest.raises(SpoolUnavailable, match="No space left on device"):
        refused.result(20)
    with pytest.raises(SpoolUnavailable, match="No space left on device"):
        producer.emit(topic_name, order(2), id="2")
    assert [record.levelno for record in caplog.records if "cannot be written" in record.message] == [logging.CRITICAL]

    monkeypatch.undo()

    def accepted() -> bool:
        try:
            return producer.emit(topic_name, order(3), id="3").result(20).state == "spooled"
        except SpoolUnavailable:
            return False

    eventually(accepted)


def test_what_is_in_flight_when_the_disk_fails_is_not_failed(
    bootstrap: str,
    broker: Broker,
    topic: str,
    spooling: Callable[..., EventProducer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    producer = spooling(broker.bootstrap, after=2)
    assert producer.emit(topic, order(0), id="0").result(20).state == "acked"
    broker.freeze()
    monkeypatch.setattr(os, "fdatasync", full)
    moved = [producer.emit(topic, order(number), key="a", id=str(number)) for number in range(1, 20)]
    eventually(lambda: producer.degraded)
    time.sleep(0.1)
    assert {delivery.state for delivery in moved} == {"pending"}

    broker.thaw()
    for delivery in moved:
        assert delivery.result(20).state == "acked"
    monkeypatch.undo()


def test_a_slot_belongs_to_one_process_and_a_slot_with_records_comes_first(tmp_path: Path) -> None:
    first, second = Slot(tmp_path), Slot(tmp_path)
    assert first.path != second.path
    (second.path / "000000000001.log").write_bytes(b"")
    first.close()
    second.close()
    assert Slot(tmp_path).path == second.path
    assert Slot(tmp_path).path == first.path


def test_a_folder_that_cannot_be_used_is_a_setting_error(tmp_path: Path, make_producer: MakeProducer) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="HEADWATER_PRODUCER_SPOOL_DIR"):
        make_producer(NOWHERE, back_pressure=Spool(tmp_path / "file" / "spool"))


def test_a_forked_child_spools_in_a_slot_of_its_own(
    topic_name: str, spooling: Callable[..., EventProducer], tmp_path: Path
) -> None:
    producer = spooling(NOWHERE)
    producer.emit(topic_name, order(1)).result(20)
    pid = os.fork()
    if pid == 0:
        done = producer.emit(topic_name, order(2)).result(20).state == "spooled"
        producer.close(1)
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len({path.parent for path in tmp_path.rglob("*.log")}) == 2
    assert producer.emit(topic_name, order(3)).result(20).state == "spooled"


def test_metrics_show_the_spool(
    bootstrap: str, broker: Broker, topic: str, spooling: Callable[..., EventProducer]
) -> None:
    def sample(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"headwater_{name}", labels) or 0.0

    broker.freeze()
    producer = spooling(broker.bootstrap)
    for number in range(100):
        producer.emit(topic, order(number))
    producer.flush(20)
    assert (sample("producer_degraded"), sample("spool_records")) == (1, 100)
    assert 10_000 < sample("spool_bytes") < sample("spool_limit_bytes")
    eventually(lambda: sample("spool_oldest_seconds") > 0.2)
    assert sample("producer_records_total", topic=topic, outcome="spooled") == 100

    broker.thaw()
    eventually(lambda: sample("producer_records_total", topic=topic, outcome="acked") == 100)
    eventually(lambda: (sample("producer_degraded"), sample("spool_records"), sample("spool_bytes")) == (0, 0, 0))
    assert sample("spool_oldest_seconds") == 0


def test_an_invalid_value_is_refused_as_ever(topic_name: str, spooling: Callable[..., EventProducer]) -> None:
    producer = spooling(NOWHERE)
    producer.emit(topic_name, order(1)).result(20)
    with pytest.raises(InvalidValue):
        producer.emit(topic_name, order(1, amount="many"))


def test_the_settings_name_the_spool(tmp_path: Path) -> None:
    values = {"HEADWATER_PRODUCER_BACK_PRESSURE": "spool", "HEADWATER_PRODUCER_SPOOL_DIR": str(tmp_path)}
    settings = ProducerSettings.from_env(Environment(values | {"HEADWATER_PRODUCER_SPOOL_AFTER": "2s"}))
    assert settings.back_pressure == Spool(tmp_path, max_bytes=1024**3, after=2.0)
    assert ProducerSettings.from_env(Environment({})).back_pressure == Block(10.0)
    with pytest.raises(SettingError, match="HEADWATER_PRODUCER_SPOOL_DIR is not set"):
        ProducerSettings.from_env(Environment({"HEADWATER_PRODUCER_BACK_PRESSURE": "spool"}))
