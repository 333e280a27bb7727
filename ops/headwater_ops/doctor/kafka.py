"""Does Kafka answer, can every broker be reached, and does it offer what Headwater needs?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headwater_ops.doctor.finding import Finding, bad, good, odd
from headwater_schemas.settings import Environment, KafkaSettings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._metadata import ClusterMetadata

__all__ = ["check_kafka"]

_TIMEOUT = 5.0  # seconds


def check_kafka(env: Environment) -> Iterator[Finding]:
    """Blocks up to some seconds per broker."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    settings = KafkaSettings.from_env(env)
    advice = "headwater up starts one on this machine; or correct HEADWATER_KAFKA_BOOTSTRAP and _SECURITY_*"
    if not any(_reachable(address.strip()) for address in settings.bootstrap.split(",")):
        yield bad("kafka", f"nobody accepts a connection at {settings.bootstrap}", advice)
        return
    errors: list[str] = []
    quiet: dict[str, Any] = {"log_level": 0, "error_cb": lambda error: errors.append(error.str())}
    admin = AdminClient(settings.client_config() | quiet)
    try:
        metadata = admin.list_topics(timeout=_TIMEOUT)
    except KafkaException as exc:
        admin.poll(0)  # hands over the errors of the connections, which tell more than the time limit
        reason = errors[0] if errors else exc.args[0].str()
        yield bad("kafka", f"no answer from {settings.bootstrap} within {_TIMEOUT:.0f} s: {reason}", advice)
        return
    yield good("kafka", f"{settings.bootstrap}: cluster {metadata.cluster_id}, {len(metadata.brokers)} broker(s)")
    unreachable = [broker for broker in metadata.brokers.values() if not _reachable(f"{broker.host}:{broker.port}")]
    for broker in unreachable:
        yield bad(
            "kafka",
            f"broker {broker.id} says it is at {broker.host}:{broker.port}, which cannot be reached from here",
            "correct advertised.listeners of the broker, or the network between",
        )
    if not unreachable:
        yield from _check_configuration(admin, metadata)


def _reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT):
            return True
    except (OSError, ValueError):
        return False


def _check_configuration(admin: AdminClient, metadata: ClusterMetadata) -> Iterator[Finding]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin._config import ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    resource = ConfigResource(ResourceType.BROKER, str(metadata.controller_id))
    try:
        config = admin.describe_configs([resource], request_timeout=_TIMEOUT)[resource].result()
    except KafkaException as exc:
        yield odd(
            "kafka configuration",
            f"it may not be read: {exc.args[0].str()}",
            "grant DescribeConfigs on the cluster if the doctor shall look at it",
        )
        return
    values = {name: entry.value or "" for name, entry in config.items()}
    yield _protocol(values.get("group.coordinator.rebalance.protocols", ""))
    if values.get("auto.create.topics.enable") == "true":
        yield odd(
            "topic creation",
            "auto.create.topics.enable=true: a misspelt topic is created, with the broker's defaults",
            "set it to false and let `headwater topics apply` create topics",
        )
    yield _durability(len(metadata.brokers), values)


def _protocol(protocols: str) -> Finding:
    if "consumer" in protocols:
        return good("consumer protocol", f"KIP-848 is offered ({protocols}): rebalances are incremental")
    return odd(
        "consumer protocol",
        "the brokers do not offer KIP-848: workers fall back to the classic protocol",
        "Kafka 4.0 or newer offers it; rebalances are then shorter",
    )


def _durability(brokers: int, values: dict[str, str]) -> Finding:
    replicas, in_sync = values.get("default.replication.factor", "1"), values.get("min.insync.replicas", "1")
    if brokers < 3:
        return odd(
            "durability",
            f"{brokers} broker(s): the loss of a disk loses acknowledged records",
            "fine for development; use 3 brokers, replication factor 3 and min.insync.replicas=2 elsewhere",
        )
    if int(in_sync) < 2 or int(replicas) < 3:
        return odd(
            "durability",
            f"default.replication.factor={replicas}, min.insync.replicas={in_sync}",
            "set 3 and 2, so that an acknowledged record survives the loss of a broker",
        )
    return good("durability", f"default.replication.factor={replicas}, min.insync.replicas={in_sync}")
