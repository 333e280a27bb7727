"""TLS, SCRAM, ACLs and the classic group protocol on a real broker: getting in, and what is said when one does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType
from prometheus_client import CollectorRegistry

from headwater_ops import cli
from headwater_ops.lag import LagCollector
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.codec import Codec
from headwater_schemas.errors import HeadwaterError, NotPermitted, SettingError, UnknownTopic
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams import StreamApp
from headwater_streams.deadletters import Ledger
from headwater_streams.transport.log import Log
from ops.secured import Secured, secured_broker
from streams.orders import catalogue, order
from streams.running import running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_broker(tmp_path_factory.mktemp("secured")) as broker:
        yield broker


def emit(secured: Secured, topic: str, numbers: range, *, compression: str = "lz4", **changes: str) -> None:
    """Emit and wait for the acknowledgement."""
    settings = ProducerSettings(
        KafkaSettings.from_env(secured.env(**changes)), delivery_timeout=3.0, compression=compression
    )
    with EventProducer(settings, catalogue(topic), LocalRegistry(), source="orders-service") as producer:
        for delivery in [producer.emit(topic, order("k", number), key=f"k{number}") for number in numbers]:
            delivery.result(20)


def handling(
    secured: Secured, topic: str, group: str, seen: list[Any], *, protocol: str = "auto", **changes: str
) -> StreamApp:
    """An app that notes what it handled."""
    env = Environment(secured.settings(**changes) | {"HEADWATER_WORKER_GROUP_PROTOCOL": protocol})
    known = catalogue(topic)
    codec = Codec(known, LocalRegistry())
    codec.encoder(topic)
    app = StreamApp(group, env=env, catalogue=known, codec=codec, faust_settings={"web_enabled": False})

    @app.handler(topic)
    async def note(event: dict[str, Any]) -> None:
        seen.append(event["number"])

    return app


async def test_what_is_emitted_over_tls_with_a_password_is_handled_in_every_compression(
    secured: Secured, unique: Callable[[str], str]
) -> None:
    topic = secured.create(unique("orders.placed"))
    seen: list[int] = []
    for number, compression in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
        emit(secured, topic, range(number * 10, number * 10 + 10), compression=compression)

    async with running(handling(secured, topic, unique("orders-billing"), seen)):
        await until(lambda: {*range(50)} == {*seen})


@pytest.mark.parametrize("protocol", ["classic", "auto"])
async def test_two_workers_share_and_hand_over_by_the_classic_protocol(
    secured: Secured, unique: Callable[[str], str], protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    topic, group = secured.create(unique("orders.placed")), unique("orders-billing")
    first: list[int] = []
    second: list[int] = []
    one = handling(secured, topic, group, first, protocol=protocol)
    two = handling(secured, topic, group, second, protocol=protocol)
    async with running(one):
        async with running(two):
            await until(lambda: held(one, topic) == held(two, topic) == 1)
            emit(secured, topic, range(20))
            await until(lambda: len({*first, *second}) == 20)
            assert first
            assert second
        await until(lambda: held(one, topic) == 2)
        emit(secured, topic, range(20, 30))
        await until(lambda: {*range(20, 30)} <= {*first})
        assert one.consumer.group.protocol == "classic"  # type: ignore[attr-defined]


def held(app: StreamApp, topic: str) -> int:
    """How many partitions of the topic are the worker's."""
    return sum(tp.topic == topic for tp in app.consumer.group.assignment)  # type: ignore[attr-defined]


def test_commands_reach_a_secured_broker(
    secured: Secured, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = secured.create(unique("orders.placed"))
    for name, value in secured.settings().items():
        monkeypatch.setenv(name, value)
    producer = Producer(KafkaSettings.from_env(secured.env()).client_config() | {"log_level": 0})
    producer.produce(topic, b"no Avro")
    assert producer.flush(30) == 0

    def told(*command: str) -> tuple[int, Any]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(command))
        said = capsys.readouterr()
        assert said.out, said.err
        return int(ended.value.code or 0), json.loads(said.out)

    code, line = told("tail", topic, "--from", "beginning")
    assert (code, line["topic"]) == (0, topic)
    assert told("lag", "--json")[0] == 0
    code, differences = told("topics", "apply", "--dry-run", "--json")
    assert code == 1  # none of the declared topics is there
    assert differences


def test_a_topic_that_one_may_not_read_hides_the_lag_of_no_other(
    secured: Secured, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Describe gives the records of its lag; their age, and that of dead letters, takes Read."""
    group, other = unique("orders-billing"), unique("orders-audit")
    open_, hidden = secured.create(unique("orders.placed")), secured.create(unique("secrets.kept"))
    dead = secured.create(f"{hidden}.{group}.dlt")
    for topic in (hidden, dead):
        secured.grant(AclOperation.DESCRIBE, ResourceType.TOPIC, topic)
    producer = Producer({"bootstrap.servers": secured.plain, "log_level": 0})
    for topic in (open_, hidden, dead):
        producer.produce(topic, b"v", partition=0)
        producer.produce(topic, b"v", partition=1)
    assert producer.flush(30) == 0
    for name, topics in {group: (hidden, open_), other: (open_,)}.items():
        positions = [TopicPartition(topic, number, 0) for topic in topics for number in (0, 1)]
        wanted = ConsumerGroupTopicPartitions(name, positions)
        secured.admin.alter_consumer_group_offsets([wanted])[name].result(30)
    log = Log(KafkaSettings.from_env(secured.env()))
    collector = LagCollector(log, Ledger(log, LocalRegistry()), groups=(group, other))
    registry = CollectorRegistry()
    registry.register(collector)

    collector.look()

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"headwater_{name}", labels)

    for name, topic, readable in ((group, hidden, False), (group, open_, True), (other, open_, True)):
        labels = {"group": name, "topic": topic, "partition": "1"}
        assert sample("consumer_lag_records", **labels) == 1
        assert (sample("consumer_lag_seconds", **labels) is not None) == readable
    assert sample("dead_letters", topic=dead, group=group) == 2
    assert sample("dead_letter_oldest_seconds", topic=dead, group=group) is None
    assert sample("lag_collector_errors_total") == 2  # each topic once
    assert collector.succeeded_at is not None

    for name, value in secured.settings().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(["lag", group])
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert f"reading {hidden}[" in told.err
    assert "4 records behind (of unknown age)" in told.out


REFUSALS: list[tuple[str, type[HeadwaterError], str]] = [
    ("password", NotPermitted, "HEADWATER_KAFKA_SECURITY_USERNAME, _PASSWORD"),
    ("ca", SettingError, "HEADWATER_KAFKA_SECURITY_CA"),
]


def wrong(secured: Secured, what: str) -> dict[str, str]:
    return {"PASSWORD": "wrong"} if what == "password" else {"CA": str(secured.other_ca)}


@pytest.mark.parametrize(("what", "error", "advice"), REFUSALS)
async def test_wrong_credentials_and_an_untrusted_certificate_are_told_with_the_setting_to_mend(
    secured: Secured, unique: Callable[[str], str], what: str, error: type[HeadwaterError], advice: str
) -> None:
    topic = secured.create(unique("orders.placed"))

    with pytest.raises(error, match=advice):
        emit(secured, topic, range(1), **wrong(secured, what))
    with pytest.raises(error, match=advice):
        async with running(handling(secured, topic, unique("orders-billing"), [], **wrong(secured, what))):
            pass


async def test_a_missing_permission_is_told_with_what_to_grant(secured: Secured, unique: Callable[[str], str]) -> None:
    allowed, forbidden = secured.create(unique("orders.placed")), secured.create(unique("secrets.kept"))

    with pytest.raises(NotPermitted, match="grant this user Write"):
        emit(secured, forbidden, range(1))
    with pytest.raises(UnknownTopic, match="grant this user Describe and Read"):
        async with running(handling(secured, forbidden, unique("orders-billing"), [])):
            pass
    app = handling(secured, allowed, unique("secret-group"), [])
    async with running(app):
        await until(lambda: app.consumer.crashed)
    assert isinstance(app.consumer.crash_reason, NotPermitted)
    assert "check HEADWATER_KAFKA_SECURITY_* and the broker's ACLs" in str(app.consumer.crash_reason)
