"""``headwater lag --serve`` as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_ops import cli
from headwater_ops.stack import Endpoints


@pytest.fixture
def collector(endpoints: Endpoints, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A running collector, and the file it logs to."""
    log = tmp_path / "lag.log"
    env = os.environ | endpoints.settings() | {"HEADWATER_LAG_HTTP": "127.0.0.1:0"}
    command = [sys.executable, "-m", "headwater_ops.cli", "lag", "--serve", "--interval", "1s", "--group", "readers*"]
    with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output) as process:
        yield process, log
        if process.poll() is None:
            process.kill()


def until(wanted: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_it_serves_lag_keeps_looking_and_ends_on_sigterm(
    collector: tuple[subprocess.Popen[bytes], Path], endpoints: Endpoints, topic_name: str, unique: Callable[[str], str]
) -> None:
    process, log = collector
    group = unique("readers")
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    for created in admin.create_topics([NewTopic(topic_name, 1, 1)]).values():
        created.result()
    producer = Producer({"bootstrap.servers": endpoints.bootstrap})
    until(lambda: "/metrics" in log.read_text(), log)
    found = re.search(r"http://\S+:\d+", log.read_text())
    assert found is not None
    url = found[0]
    until(lambda: httpx.get(f"{url}/readyz", timeout=10).status_code == 200, log)

    commit = ConsumerGroupTopicPartitions(group, [TopicPartition(topic_name, 0, 0)])

    def committed() -> bool:
        """A broker that has just started refuses at first, and says so of the partition alone."""
        (partition,) = admin.alter_consumer_group_offsets([commit])[group].result().topic_partitions
        return partition.error is None

    until(committed, log)
    line = f'headwater_consumer_lag_records{{group="{group}",partition="0",topic="{topic_name}"}}'
    for lag in (1, 2):
        producer.produce(topic_name, b"v")
        assert producer.flush(30) == 0
        wanted = f"{line} {lag}.0"
        until(lambda: wanted in httpx.get(f"{url}/metrics", timeout=10).text, log)  # noqa: B023 - called in this turn
    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--serve", "somegroup"], "pass --group for GROUP"),
        (["--group", "some*"], "--group goes with --serve"),
        (["--serve", "--interval", "100ms"], "more than once a second"),
        (["--serve", "--interval", "soon"], "is not a duration"),
    ],
)
def test_what_cannot_be_is_said(
    endpoints: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA_BOOTSTRAP", endpoints.bootstrap)
    with pytest.raises(SystemExit) as ended:
        cli.main(["lag", *arguments])

    assert ended.value.code == 2
    assert why in capsys.readouterr().err
