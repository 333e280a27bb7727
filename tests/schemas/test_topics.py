"""Topics on a real Kafka; kafka-python looks at what we made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.errors import BrokerUnavailable, UsageError
from headwater_schemas.settings import KafkaSettings
from headwater_schemas.topics import Difference, admin_client, apply, plan, topic_config


@pytest.fixture
def admin(bootstrap: str) -> Any:
    return admin_client(KafkaSettings(bootstrap))


@pytest.fixture
def kafka(bootstrap: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    yield client
    client.close()


@pytest.fixture
def spec(topic_name: str) -> TopicSpec:
    return TopicSpec(topic_name, "Note", partitions=2, retention=3600.0)


def found(differences: list[Difference]) -> list[tuple[str, str | None, str, str]]:
    return [(d.option, d.found, d.wanted, d.action) for d in differences]


def assert_settled(specs: list[TopicSpec], admin: Any) -> None:
    """Everything is as declared, once every broker has heard of the change."""
    deadline = time.monotonic() + 10
    while (left := plan(specs, admin)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def made(spec: TopicSpec, admin: Any) -> None:
    apply(plan([spec], admin), admin)
    assert_settled([spec], admin)


def test_a_missing_topic_is_planned_then_made_as_declared(spec: TopicSpec, admin: Any, kafka: Any) -> None:
    planned = plan([spec], admin)
    assert found(planned) == [("topic", None, "2 partitions, cleanup.policy=delete, retention.ms=3600000", "create")]

    made(spec, admin)

    described = kafka.describe_topics([spec.name])[0]
    configs = kafka.describe_configs([ConfigResource(ConfigResourceType.TOPIC, spec.name)])["topic"][spec.name]
    assert len(described["partitions"]) == 2
    assert {name: entry["value"] for name, entry in configs.items()} == {
        "cleanup.policy": "delete",
        "retention.ms": "3600000",
    }
    assert_settled([spec], admin)


def test_planning_changes_nothing(spec: TopicSpec, admin: Any) -> None:
    plan([spec], admin)

    assert spec.name not in admin.list_topics(timeout=10).topics


def test_applying_twice_or_from_two_sides_is_fine(spec: TopicSpec, admin: Any) -> None:
    planned = plan([spec], admin)
    apply(planned, admin)

    apply(planned, admin)  # the plan of someone who was a moment too late

    assert_settled([spec], admin)


def test_wrong_options_are_put_right(spec: TopicSpec, admin: Any) -> None:
    made(spec, admin)
    declared = replace(spec, cleanup="compact,delete", retention=None)

    planned = plan([declared], admin)
    assert found(planned) == [
        ("cleanup.policy", "delete", "compact,delete", "set"),
        ("retention.ms", "3600000", "-1", "set"),
    ]
    apply(planned, admin)

    assert_settled([declared], admin)


def test_the_order_of_a_list_is_no_difference(spec: TopicSpec, admin: Any) -> None:
    """Kafka keeps ``delete,compact`` as it was set."""
    made(spec, admin)
    backwards = Difference(spec, "cleanup.policy", None, "delete,compact", "set")
    apply([backwards], admin)

    assert_settled([replace(spec, cleanup="compact,delete")], admin)


def test_partitions_grow_only_when_asked_for(spec: TopicSpec, admin: Any) -> None:
    made(spec, admin)
    declared = replace(spec, partitions=3)

    refused = plan([declared], admin)
    assert found(refused) == [("partitions", "2", "3", "report")]
    assert "--grow-partitions" in refused[0].why
    apply(refused, admin)
    assert found(plan([declared], admin)) == [("partitions", "2", "3", "report")]

    planned = plan([declared], admin, grow_partitions=True)
    assert found(planned) == [("partitions", "2", "3", "grow")]
    apply(planned, admin)

    assert_settled([declared], admin)


def test_partitions_never_shrink(spec: TopicSpec, admin: Any) -> None:
    made(spec, admin)

    planned = plan([replace(spec, partitions=1)], admin, grow_partitions=True)

    assert found(planned) == [("partitions", "2", "1", "report")]


def test_another_replication_is_reported(spec: TopicSpec, admin: Any) -> None:
    made(spec, admin)

    planned = plan([replace(spec, replication=3)], admin)

    assert found(planned) == [("replication", "1", "3", "report")]


def test_what_kafka_refuses_is_a_usage_error_and_the_rest_is_made(spec: TopicSpec, admin: Any) -> None:
    impossible = replace(spec, name=f"{spec.name}.impossible", replication=30)

    with pytest.raises(UsageError, match=r"impossible.*[Rr]eplication"):
        apply(plan([impossible, spec], admin), admin)

    assert_settled([spec], admin)


def test_dead_letters_are_a_topic_like_others(spec: TopicSpec, admin: Any) -> None:
    derived = [spec.dead_letter("board")]

    apply(plan(derived, admin), admin)

    assert_settled(derived, admin)


def test_nobody_there_is_unavailable_within_the_time_limit() -> None:
    admin = admin_client(KafkaSettings("127.0.0.1:9"))

    with pytest.raises(BrokerUnavailable, match="cannot list topics"):
        plan([TopicSpec("orders", "Note")], admin, timeout=0.5)


def test_only_declared_options_are_compared() -> None:
    assert topic_config(TopicSpec("a.changes", "Note", cleanup="compact")) == {"cleanup.policy": "compact"}
    assert topic_config(TopicSpec("a", "Note", retention=None, min_insync_replicas=2)) == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "min.insync.replicas": "2",
    }
