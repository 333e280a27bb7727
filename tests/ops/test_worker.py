"""``headwater worker`` as a process: it finds the app, works, answers probes, and drains when it is told to stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_ops.stack import Endpoints
from headwater_ops.worker import load
from headwater_schemas.errors import UsageError
from headwater_schemas.wire import REASONS

APP = """
import asyncio
from headwater_streams import StreamApp

app = StreamApp({group!r})
tool = object()

@app.handler({topic!r})
async def note(value):
    await asyncio.sleep({seconds})
    print("handled", flush=True)
"""


class Worker:
    """A running ``headwater worker``; what it prints is in ``output``."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        return self._output.read_text()

    def until(self, wanted: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not wanted():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    @property
    def url(self) -> str:
        self.until(lambda: "/livez" in self.output)
        found = re.search(r"http://\S+?:\d+", self.output)
        assert found is not None
        return found[0]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def until_ready(self) -> None:
        self.until(lambda: self.get("/readyz").status_code == 200)


@pytest.fixture
def start(endpoints: Endpoints, topic_name: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers of one app on a topic of one partition; stops what still runs."""
    create(endpoints, topic_name)
    running: list[Worker] = []

    def started(*, topic: str = topic_name, seconds: float = 0.0, **settings: str) -> Worker:
        (tmp_path / "shop.py").write_text(APP.format(group=f"{topic_name}-group", topic=topic, seconds=seconds))
        output = tmp_path / f"worker-{len(running)}.log"
        env = os.environ | endpoints.settings() | {"HEADWATER_WORKER_HTTP": "127.0.0.1:0"} | settings
        with output.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "headwater_ops.cli", "worker", "shop:app"],
                cwd=tmp_path,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        running.append(Worker(process, output))
        return running[-1]

    yield started
    for worker in running:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()


def create(endpoints: Endpoints, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        created.result()


def send(endpoints: Endpoints, topic: str, count: int) -> None:
    """Tombstones: a handler gets them without any schema."""
    producer = Producer({"bootstrap.servers": endpoints.bootstrap})
    for number in range(count):
        producer.produce(topic, None, f"k{number}")
    assert producer.flush(30) == 0


def committed(endpoints: Endpoints, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": endpoints.bootstrap, "group.id": f"{topic}-group"})
    try:
        (position,) = consumer.committed([TopicPartition(topic, 0)], 30)
        return position.offset
    finally:
        consumer.close()


def test_it_works_answers_probes_and_shows_its_metrics(
    start: Callable[..., Worker], endpoints: Endpoints, topic_name: str
) -> None:
    send(endpoints, topic_name, 3)
    worker = start()
    worker.until(lambda: worker.output.count("handled") == 3)
    worker.until_ready()

    metrics = worker.get("/metrics")

    assert worker.get("/livez").text == "ok\n"
    assert worker.get("/").status_code == 404  # nothing of Faust's own pages
    assert metrics.headers["content-type"].startswith("text/plain")
    line = f'headwater_events_settled_total{{handler="note",outcome="done",topic="{topic_name}"}} 3.0'
    assert line in metrics.text
    # From the start, since Prometheus sees no increase in a counter that begins with its first failures.
    failed = [f'failed_total{{handler="note",reason="{reason}",topic="{topic_name}"}} 0.0' for reason in REASONS]
    assert [line for line in failed if f"headwater_events_{line}" not in metrics.text] == []


def test_sigterm_finishes_what_runs_commits_and_exits_cleanly(
    start: Callable[..., Worker], endpoints: Endpoints, topic_name: str
) -> None:
    worker = start(seconds=1.0)
    worker.until_ready()
    send(endpoints, topic_name, 2)
    worker.until(lambda: 'note",topic' in worker.get("/metrics").text and _in_flight(worker) == 2)
    worker.process.send_signal(signal.SIGTERM)
    code = worker.process.wait(60)

    assert code == 0
    assert worker.output.count("handled") == 2
    assert committed(endpoints, topic_name) == 2


def _in_flight(worker: Worker) -> float:
    found = re.search(r'headwater_events_in_flight\{handler="note".*\} (\S+)', worker.get("/metrics").text)
    return float(found[1]) if found else 0.0


def test_an_idle_member_is_ready(start: Callable[..., Worker]) -> None:
    first, second = start(), start()
    for worker in (first, second):
        worker.until_ready()

    # One partition for two members: one of them has nothing, and says that it is ready all the same.
    assigned = [
        re.search(r"headwater_partitions_assigned\{.*\} (\S+)", w.get("/metrics").text) for w in (first, second)
    ]
    assert sorted(found is not None and found[1] == "0.0" for found in assigned) == [False, True]


def test_a_port_that_is_taken_ends_it_with_what_to_set(start: Callable[..., Worker]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start(HEADWATER_WORKER_HTTP=f"127.0.0.1:{port}")
        code = worker.process.wait(60)

    assert code == 2
    last = worker.output.strip().splitlines()[-1]
    assert last.startswith(f"headwater: 127.0.0.1:{port} is in use: set HEADWATER_WORKER_HTTP")
    assert "Traceback" not in worker.output


def test_a_handled_topic_that_does_not_exist_ends_it_with_what_to_run(
    start: Callable[..., Worker], topic_name: str
) -> None:
    worker = start(topic=f"{topic_name}-nowhere")
    code = worker.process.wait(60)

    assert code == 2
    assert "run `headwater topics apply`" in worker.output.strip().splitlines()[-1]
    assert "Traceback" not in worker.output


# -- finding the app --------------------------------------------------------------------------------------------------


@contextmanager
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> Iterator[None]:
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop(name, None)


SOURCE = APP.format(group="g", topic="orders.placed", seconds=0)


def test_the_app_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unique: Callable[[str], str]
) -> None:
    name = unique("shop").replace("-", "_")
    with module(tmp_path, monkeypatch, name, SOURCE):
        assert load(f"{name}:app").conf.id == "g"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("{}", "pass MODULE:APP, such as billing.worker:app"),
        (":app", "pass MODULE:APP"),
        ("{}:ap", "there is no {}:ap; pass {}:app"),
        ("{}:tool", "{}:tool is no app but of type object; pass {}:app"),
        ("{}.worker:app", "there is no module {}.worker in"),
        ("nowhere_to_be_found:app", "there is no module nowhere_to_be_found in"),
        ("nowhere_to_be_found.sub:app", "there is no module nowhere_to_be_found in"),
    ],
)
def test_what_is_wrong_with_the_name_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unique: Callable[[str], str], target: str, why: str
) -> None:
    name = unique("shop").replace("-", "_")
    with module(tmp_path, monkeypatch, name, SOURCE), pytest.raises(UsageError) as caught:
        load(target.replace("{}", name))

    assert why.replace("{}", name) in str(caught.value)


def test_a_module_that_misses_another_shows_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unique: Callable[[str], str]
) -> None:
    name = unique("shop").replace("-", "_")
    with module(tmp_path, monkeypatch, name, "import a_package_we_do_not_have"):
        with pytest.raises(ModuleNotFoundError, match="a_package_we_do_not_have"):
            load(f"{name}:app")


def test_it_may_be_told_to_end_while_it_joins_its_group(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.until(lambda: "/livez" in worker.output)
    worker.process.send_signal(signal.SIGTERM)

    assert worker.process.wait(30) == 0
    assert "Traceback" not in worker.output
