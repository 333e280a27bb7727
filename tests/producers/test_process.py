"""Forks and exits: nothing hangs, nothing is dropped in silence."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from headwater_producers import EventProducer
from headwater_schemas.errors import BrokerUnavailable
from producers.orders import order, read_all


def in_fork(work: Callable[[], None]) -> int:
    """The exit code of a forked child that does ``work``: 0 when it returned."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_emits_with_a_client_of_its_own(bootstrap: str, topic: str, producer: EventProducer) -> None:
    ours = producer.emit(topic, order(1), key="parent").result(20)

    def work() -> None:
        theirs = producer.emit(topic, order(2), key="child").result(20)
        assert theirs.id.partition("-")[0] != ours.id.partition("-")[0]
        producer.close()

    assert in_fork(work) == 0
    producer.emit(topic, order(3), key="parent").result(20)
    assert sorted(record.key for record in read_all(bootstrap, topic)) == [b"child", b"parent", b"parent"]


def test_a_forked_child_sends_nothing_of_what_its_parent_queued(
    bootstrap: str, topic: str, producer: EventProducer
) -> None:
    deliveries = [producer.emit(topic, order(number), key="parent") for number in range(500)]

    def work() -> None:
        assert len(producer) == 0
        producer.flush(1)

    assert in_fork(work) == 0
    producer.flush(20)
    assert len(read_all(bootstrap, topic)) == len(deliveries)


def test_a_delivery_of_the_parent_says_in_the_child_that_it_is_the_parents(
    topic_name: str, nowhere: EventProducer
) -> None:
    delivery = nowhere.emit(topic_name, order(1))

    def work() -> None:
        with pytest.raises(BrokerUnavailable, match="only the parent knows"):
            delivery.result(5)

    assert in_fork(work) == 0


def test_a_child_of_multiprocessing_drains_at_its_end(bootstrap: str, topic: str, producer: EventProducer) -> None:
    def work() -> None:
        for number in range(200):
            producer.emit(topic, order(number))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert len(read_all(bootstrap, topic)) == 200


SCRIPT = """
from headwater_producers import EventProducer
from headwater_schemas.registry import LocalRegistry
from producers.orders import catalogue_of, order, settings_for
from headwater_schemas.catalogue import TopicSpec
producer = EventProducer(
    settings_for({bootstrap!r}, exit_flush={exit_flush}),
    catalogue_of(TopicSpec({topic!r}, "Order")),
    LocalRegistry(),
    source="orders",
)
for number in range(300):
    producer.emit({topic!r}, order(number))
"""


def run(bootstrap: str, topic: str, exit_flush: float, more: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(bootstrap=bootstrap, topic=topic, exit_flush=exit_flush) + more],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_interpreter_that_exits_waits_for_the_broker(bootstrap: str, topic: str) -> None:
    done = run(bootstrap, topic, 20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(read_all(bootstrap, topic)) == 300


def test_an_interpreter_that_cannot_deliver_before_it_exits_says_what_is_lost(topic_name: str) -> None:
    done = run("127.0.0.1:1", topic_name, 0.3)
    assert f"NOT delivered: 300 to {topic_name}" in done.stderr


def test_an_interpreter_that_dies_of_an_error_drains_as_well(bootstrap: str, topic: str) -> None:
    done = run(bootstrap, topic, 20, more=textwrap.dedent("raise SystemExit(3)"))
    assert done.returncode == 3
    assert len(read_all(bootstrap, topic)) == 300
