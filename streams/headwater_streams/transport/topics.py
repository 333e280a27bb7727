"""Creating topics, once, from whoever needs them: Faust's changelogs, and the families of handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from headwater_schemas.admin import Admin
from headwater_schemas.settings import KafkaSettings
from headwater_streams.transport.errors import kafka_error, translate

__all__ = ["TopicRequest", "create_topics", "tombstone_seconds", "topic_partitions"]


logger = logging.getLogger(__name__)

_SECONDS = 15.0
_TOMBSTONES = 86_400.0


@dataclass(frozen=True, slots=True)
class TopicRequest:
    """A topic that must exist. ``replication`` of -1 takes the brokers' default."""

    name: str
    partitions: int
    replication: int = -1
    config: Mapping[str, str] = field(default_factory=dict)


async def create_topics(kafka: KafkaSettings, requests: Iterable[TopicRequest]) -> None:
    """Create what does not exist yet; what exists is left as it is. Waits until the brokers know it.

    Raises:
        HeadwaterError: the brokers refused, or did not answer within 15 s.
    """
    wanted = list(requests)
    if wanted:
        await asyncio.get_running_loop().run_in_executor(None, _create, kafka, wanted)


def _create(kafka: KafkaSettings, requests: list[TopicRequest]) -> None:
    admin = Admin(kafka)
    answers = admin.create_topics(
        [NewTopic(r.name, r.partitions, r.replication, config=dict(r.config)) for r in requests],
        request_timeout=_SECONDS,
        operation_timeout=_SECONDS,
    )
    for name, answer in answers.items():
        try:
            answer.result()
        except KafkaException as exc:
            error = kafka_error(exc)
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translate(error, f"creating topic {name}") from exc


def tombstone_seconds(admin: Admin, topic: str) -> float:
    """How long a compacted topic keeps a tombstone, in seconds; Kafka's default if the brokers do not say. Blocks."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        (answer,) = admin.describe_configs([resource], request_timeout=_SECONDS).values()
        return int(answer.result(_SECONDS)["delete.retention.ms"].value) / 1000
    except (KafkaException, TimeoutError, KeyError) as exc:
        logger.warning("%s: its delete.retention.ms is not known and is taken to be a day: %s", topic, exc)
        return _TOMBSTONES


async def topic_partitions(kafka: KafkaSettings) -> dict[str, int]:
    """The number of partitions of every topic.

    Raises:
        BrokerUnavailable: no answer within 15 s.
        UsageError: NotPermitted, SettingError: the brokers refuse our credentials, or are not trusted.
    """
    return await asyncio.get_running_loop().run_in_executor(None, _partitions, kafka)


def _partitions(kafka: KafkaSettings) -> dict[str, int]:
    try:
        metadata = Admin(kafka).cluster(_SECONDS)
    except KafkaException as exc:
        raise translate(kafka_error(exc), "asking for the cluster's topics") from exc
    return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}
