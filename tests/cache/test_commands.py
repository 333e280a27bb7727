"""``headwater cache`` on the real Kafka, Redis and registry."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from typer.testing import CliRunner, Result

from headwater_cache import EntityCache, MsgpackValues
from headwater_ops.commands.cache import app
from headwater_ops.stack import Endpoints
from headwater_schemas.codec import Codec
from headwater_schemas.settings import Environment

Run = Callable[..., Result]


@pytest.fixture
def entity(endpoints: Endpoints, unique: Callable[[str], str]) -> str:
    """An entity whose change topic exists, with two partitions."""
    name = unique("plane")
    topic = NewTopic(f"{name}.changes", num_partitions=2, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    admin.create_topics([topic])[topic.topic].result(30)
    return name


@pytest.fixture
def run(endpoints: Endpoints) -> Run:
    """Runs the command as a shell would."""
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)), env=endpoints.settings())


@pytest.fixture
def change(endpoints: Endpoints, env: Environment, entity: str) -> Callable[[str, Any], None]:
    """Writes a change of the entity to its topic, acknowledged."""
    codec = Codec.from_env(env)
    try:
        encode = codec.encoder("plane.changes")
    finally:
        codec.close()
    producer = Producer({"bootstrap.servers": endpoints.bootstrap, "acks": "all"})

    def write(key: str, value: Any) -> None:
        event = {
            "entity": entity,
            "key": key,
            "version": 0,
            "op": "DELETE" if value is None else "UPSERT",
            "schema_id": None,
            "value": None if value is None else MsgpackValues[Any]().encode(value)[1],
            "source": "test",
            "occurred_at": datetime.now(UTC),
        }
        producer.produce(f"{entity}.changes", encode(event), key, partition=hash(key) % 2)
        assert producer.flush(30) == 0

    return write


def test_a_view_is_warmed_read_and_explained(
    run: Run, change: Callable[[str, Any], None], entity: str, endpoints: Endpoints
) -> None:
    """From the topic alone; run again it fills the next epoch, and poison hides what it would have changed."""
    for number in range(20):
        change(f"N{number}", {"seats": number})
    change("N3", None)

    warmed = run("warm", entity)
    assert warmed.exit_code == 0, warmed.output
    assert "21 changes applied to epoch 2, now live" in warmed.output
    assert json.loads(run("get", entity, "N7", "--json").stdout)["value"] == {"seats": 7}
    assert run("get", entity, "N3").exit_code == 1
    explained = json.loads(run("explain", entity, "N7", "--json").stdout)
    assert (explained["state"], explained["epoch"], explained["ready"]) == ("V", 2, [2, 2])
    assert "not found" in run("explain", entity, "N3").stdout

    poison = Producer({"bootstrap.servers": endpoints.bootstrap})
    poison.produce(f"{entity}.changes", b"poison", "N7", partition=hash("N7") % 2)
    poison.flush(30)
    assert "epoch 3, now live" in run("warm", entity).output
    assert json.loads(run("explain", entity, "N7", "--json").stdout)["state"] == "F"


def test_an_audit_tells_a_view_that_stands_still(
    run: Run, change: Callable[[str, Any], None], entity: str, endpoints: Endpoints
) -> None:
    """Nobody applies the change: it is wrong after a second, and said so."""
    change("N1", {"seats": 1})
    assert run("warm", entity).exit_code == 0
    with EntityCache[Any](entity, endpoints.redis_url) as cache:
        assert cache.get("N1") == {"seats": 1}
    writer = threading.Timer(1.0, change, ("N1", {"seats": 2}))
    writer.start()
    audited = json.loads(run("audit", entity, "--share", 1, "--seconds", 4, "--json").stdout)
    writer.join()

    assert audited["report"]["violations"] == {"1": 1}
    assert audited["violations"][0]["key"] == "N1"
