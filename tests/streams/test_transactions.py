"""Exactly once from log to log, on the real broker, judged by kafka-python reading committed records only."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from faust.types import TP
from kafka import KafkaConsumer, TopicPartition

from headwater_ops.stack import Endpoints
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BrokerUnavailable, UsageError
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams import EventContext, RecordBatch, Retry, StreamApp
from headwater_streams.transport.errors import Fenced
from headwater_streams.transport.log import Log
from streams.billing_worker import fate
from streams.orders import catalogue, memory_app, order
from streams.running import running, until

pytestmark = pytest.mark.timeout(300)

KEYS = 20


class World:
    """A topic of orders, a topic of bills, and workers between them."""

    def __init__(self, endpoints: Endpoints, unique: Callable[[str], str], folder: Path) -> None:
        self.bootstrap = endpoints.bootstrap
        self.topic, self.out, self.group = unique("orders.placed"), unique("orders.billed"), unique("billing")
        self.dead = f"{self.topic}.{self.group}.dlt"
        self.folder = folder
        self.catalogue = catalogue(self.topic, self.out)
        self.codec = Codec(self.catalogue, LocalRegistry())
        self.sent: list[tuple[str, int]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = Log(KafkaSettings(bootstrap=self.bootstrap))
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for answer in admin.create_topics([NewTopic(name, 2, 1) for name in (self.topic, self.out)]).values():
            answer.result()

    def send(self, count: int) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True})
        encode = self.codec.encoder(self.topic)
        for number in range(len(self.sent), len(self.sent) + count):
            key = f"k{number % KEYS}"
            producer.produce(self.topic, encode(order(key, number)), key.encode())
            self.sent.append((key, number))
        assert producer.flush(30) == 0

    def start(self, worker: str, seed: int) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
            "HEADWATER_KAFKA_BOOTSTRAP": self.bootstrap,
            "HEADWATER_WORKER_ID": f"{self.group}-{worker}",
            "HEADWATER_WORKER_COMMIT_INTERVAL": "150ms",
            "HEADWATER_WORKER_DRAIN": "5s",
        }
        command = [sys.executable, "-m", "streams.billing_worker", self.group, self.topic, self.out, str(seed)]
        with (self.folder / f"{worker}.log").open("ab") as log:
            self.workers.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parent.parent)
            )

    def kill_in_mid_transaction(self, seconds: float = 40.0) -> None:
        """SIGKILL the older worker while output stands in the log that it did not commit."""
        worker = self.workers.pop(0)
        end = time.monotonic() + seconds
        try:
            while not self._stopped_in_mid_transaction(worker):
                assert time.monotonic() < end, "no transaction was met open: this run would show nothing"
                worker.send_signal(signal.SIGCONT)
                self.send(100)
                self.within(0.5, lambda: bool(self._open(self.log.ends(self._outputs()))))
        finally:
            worker.kill()
            worker.wait()

    def _stopped_in_mid_transaction(self, worker: subprocess.Popen[bytes]) -> bool:
        """SIGSTOP it: what the others wrote is committed soon, what it wrote itself stays open."""
        worker.send_signal(signal.SIGSTOP)
        written = self.log.ends(self._outputs())
        return not self.within(1.0, lambda: not self._open(written))

    def _outputs(self) -> list[TP]:
        return self.log.partitions(self.out)

    def _open(self, written: Mapping[TP, int]) -> list[TP]:
        """Partitions of which not all that was written is committed or aborted."""
        committed = self.log.ends(written.keys(), committed=True)
        return [tp for tp, end in written.items() if committed[tp] < end]

    @staticmethod
    def within(seconds: float, holds: Callable[[], bool], pause: float = 0.01) -> bool:
        """Whether it came to hold within these seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return True
            time.sleep(pause)
        return False

    @contextmanager
    def working(self) -> Iterator[None]:
        try:
            yield
        finally:
            for worker in self.workers:
                worker.send_signal(signal.SIGTERM)
            for worker in self.workers:
                try:
                    worker.wait(30)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()

    def app(self, settings: Mapping[str, str] | None = None, **options: Any) -> StreamApp:
        ours = {"HEADWATER_KAFKA_BOOTSTRAP": self.bootstrap, "HEADWATER_WORKER_COMMIT_INTERVAL": "100ms"}
        env = Environment({**ours, **(settings or {})})
        return StreamApp(
            self.group,
            env=env,
            catalogue=self.catalogue,
            codec=self.codec,
            processing="transactional",
            faust_settings={"web_enabled": False},
            **options,
        )

    def read(self, topic: str, isolation: str = "read_committed") -> list[tuple[str, int]]:
        """The values of a topic, by another client."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False, isolation_level=isolation)
        decode = self.codec.decoder(self.topic)
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            found: list[tuple[str, int]] = []
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for records in consumer.poll(timeout_ms=500).values():
                    found += [(value["key"], value["number"]) for value in (decode(r.value) for r in records)]
            return found
        finally:
            consumer.close()

    def stands(self, topic: str) -> int:
        """Where committed readers of the topic may go, in all: cheaper to ask than to read, and no less than what they
        find."""
        return sum(self.log.ends(self.log.partitions(topic), committed=True).values())

    def wait_for_more(self, topic: str, seconds: float = 40.0) -> None:
        """Until more is committed there than now."""
        before = self.stands(topic)
        self.within(seconds, lambda: self.stands(topic) > before)

    def expected(self, seed: int) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, int]]]:
        """The bills and the dead letters that must be there, each once."""
        living = [event for event in self.sent if fate(seed, *event) != 99]
        dead = [event for event in self.sent if fate(seed, *event) == 99]
        bills = [(f"{key}/{kind}", number) for key, number in living for kind in ("net", "tax")]
        return Counter(bills), Counter(dead)

    def settle(self, seed: int, seconds: float = 100.0) -> None:
        """Wait until as many are there as must be."""
        bills, dead = self.expected(seed)
        self.within(
            seconds,
            lambda: (
                self.stands(self.out) >= len(bills)
                and self.stands(self.dead) >= len(dead)
                and self._all_there(bills, dead)
            ),
            pause=0.5,
        )

    def _all_there(self, bills: Collection[object], dead: Collection[object]) -> bool:
        return len(set(self.read(self.out))) >= len(bills) and len(set(self.read(self.dead))) >= len(dead)


@pytest.fixture
def world(endpoints: Endpoints, unique: Callable[[str], str], tmp_path: Path) -> World:
    return World(endpoints, unique, tmp_path)


@pytest.mark.parametrize("seed", [3])
def test_workers_killed_in_mid_transaction_leave_each_output_exactly_once(world: World, seed: int) -> None:
    rng = random.Random(seed)
    print(f"seed {seed}")
    world.send(400)
    with world.working():
        world.start("a", seed)
        world.start("b", seed)
        for life in range(4):
            world.wait_for_more(world.out)
            world.send(300)
            time.sleep(rng.uniform(0.05, 0.6))
            world.kill_in_mid_transaction()
            world.start("ab"[life % 2], seed)
        world.settle(seed)
        time.sleep(2)  # what would come twice comes now
        bills, dead = Counter(world.read(world.out)), Counter(world.read(world.dead))
        raw = len(world.read(world.out, "read_uncommitted"))
    wanted_bills, wanted_dead = world.expected(seed)

    print(f"{sum(bills.values())} bills, {sum(dead.values())} dead, {raw} bills written in all")
    assert bills == wanted_bills
    assert dead == wanted_dead
    assert raw > sum(bills.values()), "no transaction was interrupted: this run shows nothing"


async def test_an_aborted_transaction_leaves_nothing_and_its_records_are_handled_again(world: World) -> None:
    app = world.app()
    calls: list[int] = []

    @app.handler(world.topic, name="bill", retry=Retry("200ms"))
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        calls.append(value["number"])
        event.emit(world.out, order(value["key"], value["number"]), key=value["key"])

    async with running(app):
        world.send(50)
        await until(lambda: len(calls) >= 50)
        assert app.transactions is not None
        app.transactions.doom(BrokerUnavailable("as when partitions are lost"))
        world.send(50)
        app.transactions.doom(BrokerUnavailable("and again"))
        await until(lambda: len(set(calls)) == 100)
        await until(lambda: app.transactions is not None and app.transactions.aborted >= 1)
        await asyncio.to_thread(_wait_for, lambda: len(world.read(world.out)) >= 100)

    assert Counter(world.read(world.out)) == Counter(world.sent)


async def test_what_a_failed_attempt_emitted_is_never_written(world: World) -> None:
    app = world.app()

    @app.handler(world.topic, name="bill", retry=Retry("100ms", immediate=1))
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        event.emit(world.out, order(value["key"], event.attempt), key=value["key"])
        if event.attempt == 0:
            raise ValueError("not yet")

    world.send(3)
    async with running(app):
        await asyncio.to_thread(_wait_for, lambda: len(world.read(world.out)) >= 3)

    assert [number for _, number in world.read(world.out, "read_uncommitted")] == [1, 1, 1]


async def test_a_batch_and_what_it_emitted_are_committed_together(world: World) -> None:
    app = world.app()
    sizes: list[int] = []

    @app.batch_handler(world.topic, name="sum", max_records=40, retry=Retry())
    async def add_up(batch: RecordBatch) -> None:
        if any(value["number"] == 7 for value in batch.values):
            raise ValueError("7")
        sizes.append(len(batch))
        batch.emit(world.out, order("records", len(batch)), key="records")

    world.send(200)
    async with running(app):
        await asyncio.to_thread(_wait_for, lambda: sum(number for _, number in world.read(world.out)) >= 199)

    assert sum(number for _, number in world.read(world.out)) == 199
    assert world.read(world.dead) == [("k7", 7)]


async def test_a_worker_whose_transactional_id_is_taken_ends_with_an_error_that_says_what_to_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = world.app({"HEADWATER_WORKER_ID": f"{world.group}-one"})
    crashes: list[BaseException] = []

    @app.handler(world.topic, name="bill")
    async def bill(value: dict[str, Any], event: EventContext) -> None:
        event.emit(world.out, order(value["key"], value["number"]), key=value["key"])

    async with running(app):
        assert app.transactions is not None
        monkeypatch.setattr(app.transactions, "_on_crash", crashes.append)
        world.send(5)
        await asyncio.to_thread(_wait_for, lambda: len(world.read(world.out)) >= 5)
        other = Producer(
            {"bootstrap.servers": world.bootstrap, "transactional.id": f"headwater.{world.group}.{world.group}-one"}
        )
        await asyncio.to_thread(other.init_transactions, 30)
        world.send(5)
        await until(lambda: bool(crashes))

    (crash,) = crashes
    assert isinstance(crash, Fenced)
    assert "HEADWATER_WORKER_ID" in str(crash)


def test_another_processing_is_refused() -> None:
    with pytest.raises(UsageError, match="exactly-once"):
        StreamApp("billing", catalogue=memory_app().catalogue, processing="exactly-once")  # type: ignore[arg-type]


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
