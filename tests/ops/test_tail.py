"""``headwater tail``: records as JSON lines, decoded where they can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_ops import cli
from headwater_ops.stack import Endpoints
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment
from streams.orders import ORDER, order

HOUR = 3_600.0


class Topic:
    """A topic of two partitions, written by hand."""

    def __init__(self, name: str, endpoints: Endpoints) -> None:
        self.name = name
        self._producer = Producer({"bootstrap.servers": endpoints.bootstrap})
        catalogue = Catalogue.of(topics=[TopicSpec(name, schema="Order")], schemas=[ORDER])
        with Registry.from_env(Environment(endpoints.settings())) as registry:
            self.encode = Codec(catalogue, registry).encoder(name)
        admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
        for created in admin.create_topics([NewTopic(name, 2, 1)]).values():
            created.result()

    def write(self, number: int, *, partition: int = 0, age: float = 0.0) -> None:
        value = self.encode(order("k", number))
        stamp = int((time.time() - age) * 1000)
        self._producer.produce(self.name, value, b"k", partition, timestamp=stamp, headers=[("a", b"1"), ("a", b"2")])
        assert self._producer.flush(30) == 0

    def write_bytes(self, value: bytes | None, key: bytes) -> None:
        self._producer.produce(self.name, value, key, 0)
        assert self._producer.flush(30) == 0


@pytest.fixture
def topic(endpoints: Endpoints, topic_name: str, monkeypatch: pytest.MonkeyPatch) -> Topic:
    for name, value in endpoints.settings().items():
        monkeypatch.setenv(name, value)
    return Topic(topic_name, endpoints)


@pytest.fixture
def tail(capsys: pytest.CaptureFixture[str], topic: Topic) -> Callable[..., list[dict[str, Any]]]:
    def tailed(*options: str) -> list[dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["tail", topic.name, *options])
        assert ended.value.code == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return tailed


Tail = Callable[..., list[dict[str, Any]]]


def test_a_record_is_a_line_with_all_that_it_has(topic: Topic, tail: Tail) -> None:
    topic.write(7, partition=1)

    (line,) = tail()

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "topic": topic.name,
        "partition": 1,
        "offset": 0,
        "key": "k",
        "headers": {"a": ["1", "2"]},
        "value": {"key": "k", "number": 7},
    }


def test_what_cannot_be_decoded_is_hex_with_the_reason_and_a_tombstone_is_null(topic: Topic, tail: Tail) -> None:
    topic.write_bytes(b"\xff\x01", b"\xfe")
    topic.write_bytes(None, b"k")
    topic.write(1)

    poison, tombstone, sound = tail("--from", "beginning")

    assert poison["key"] == "0xfe"
    assert poison["value"] is None
    assert poison["undecodable"]["hex"] == "ff01"
    assert poison["undecodable"]["why"].startswith("NotDecodable: not the wire format")
    assert tombstone["value"] is None
    assert "undecodable" not in tombstone
    assert sound["value"]["number"] == 1


def test_without_from_the_newest_of_all_partitions_come_in_the_order_of_time(topic: Topic, tail: Tail) -> None:
    for number in range(12):
        topic.write(number, partition=number % 2, age=100.0 - number)

    assert [line["value"]["number"] for line in tail()] == list(range(2, 12))
    assert [line["value"]["number"] for line in tail("--limit", "3")] == [9, 10, 11]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--from", "beginning"], [0, 1, 2, 3]),
        (["--from", "end"], []),
        (["--from", "2"], [2, 3]),
        (["--from", "90m"], [2, 3]),
        (["--from", "1970-01-01"], [0, 1, 2, 3]),
        (["--from", "beginning", "--limit", "1"], [0]),
        (["--from", "beginning", "--partition", "1"], []),
    ],
)
def test_from_says_where_it_begins(topic: Topic, tail: Tail, options: list[str], numbers: list[int]) -> None:
    for number, hours in enumerate((3, 2, 1, 0)):
        topic.write(number, age=hours * HOUR)

    assert [line["value"]["number"] for line in tail(*options)] == numbers


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--from", "yesterday"], "or pass beginning, end or an offset"),
        (["--partition", "7"], "there is no such partition"),
    ],
)
def test_what_cannot_be_is_said(
    topic: Topic, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["tail", topic.name, *arguments])

    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_following_prints_what_is_written_later(topic: Topic) -> None:
    topic.write(1)
    command = [sys.executable, "-m", "headwater_ops.cli", "tail", topic.name, "--follow", "--from", "1", "--limit", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        for number in (2, 3):
            topic.write(number)
        out, _ = process.communicate(timeout=60)

    assert [json.loads(line)["value"]["number"] for line in out.splitlines()] == [2, 3]
