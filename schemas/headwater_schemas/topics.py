"""Kafka's topics against the catalogue: what differs, and making it so.

``plan`` asks the brokers and changes nothing; ``apply`` carries a plan out. Both may be run again at any time, also by
several processes at once: what is right already is left alone, and a topic is never deleted.

What is not made so, but reported: fewer partitions (Kafka cannot), more partitions unless asked for (keys move, and
their order breaks), and another replication (moving copies is an operator's job).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Final, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from headwater_schemas.admin import Admin
from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, NotPermitted, UsageError
from headwater_schemas.settings import KafkaSettings

__all__ = ["Action", "Difference", "admin_client", "apply", "plan", "topic_config"]

_TIMEOUT: Final = 10.0

Action = Literal["create", "set", "grow", "report"]
"""create the topic, set one of its options, grow its partitions, or only report (see the module's text)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as declared.

    Args:
        spec: the topic as declared.
        option: ``topic`` (it is missing), ``partitions``, ``replication``, or a Kafka topic option.
        found: what Kafka has; ``None`` when the topic is missing.
        wanted: what is declared.
        action: what ``apply`` does about it.
        why: why nothing is done, when nothing is.
    """

    spec: TopicSpec
    option: str
    found: str | None
    wanted: str
    action: Action
    why: str = ""

    @property
    def topic(self) -> str:
        return self.spec.name


def admin_client(settings: KafkaSettings) -> Admin:
    """A Kafka admin client of these settings. Does not connect yet."""
    return Admin(settings)


def topic_config(spec: TopicSpec) -> dict[str, str]:
    """The Kafka options that the catalogue declares for a topic; all others are the broker's business."""
    config: dict[str, str] = {"cleanup.policy": spec.cleanup}
    if "delete" in spec.cleanup:
        config["retention.ms"] = "-1" if spec.retention is None else str(round(spec.retention * 1000))
    if spec.min_insync_replicas is not None:
        config["min.insync.replicas"] = str(spec.min_insync_replicas)
    return config


def plan(
    topics: Iterable[TopicSpec], admin: AdminClient, *, grow_partitions: bool = False, timeout: float = _TIMEOUT
) -> list[Difference]:
    """What differs between ``topics`` and the brokers, by topic. Blocks; changes nothing.

    Args:
        topics: the declared ones, e.g. ``catalogue.topics()``. Other topics of the cluster are not looked at.
        grow_partitions: whether a topic with too few partitions shall be grown, moving its keys.
        timeout: seconds each request may take.

    Raises:
        BrokerUnavailable: Kafka does not answer in time.
        NotPermitted: we may not look.
        SettingError: the brokers' certificate is not trusted.
    """
    specs = sorted(topics, key=lambda spec: spec.name)
    existing = _metadata(admin, timeout)
    configs = _configs(admin, [spec.name for spec in specs if spec.name in existing], timeout)
    differences: list[Difference] = []
    for spec in specs:
        if spec.name in existing:
            differences += _compared(spec, existing[spec.name], configs[spec.name], grow_partitions)
        else:
            differences.append(Difference(spec, "topic", None, _described(spec), "create"))
    return differences


def apply(differences: Sequence[Difference], admin: AdminClient, *, timeout: float = _TIMEOUT) -> None:
    """Carry a plan out. Blocks until the brokers have accepted every change; a new topic may take a moment to show.

    A topic that someone else created meanwhile is fine; run ``plan`` again to compare it.

    Raises:
        BrokerUnavailable: Kafka does not answer in time; some changes may be made: run it again.
        UsageError: Kafka refuses a change; the others are made.
        NotPermitted: we may not change a topic.
    """
    by_action: dict[Action, list[Difference]] = {"create": [], "set": [], "grow": [], "report": []}
    for difference in differences:
        by_action[difference.action].append(difference)
    errors: list[HeadwaterError] = []
    if by_action["create"]:
        futures = admin.create_topics([_new_topic(d.spec) for d in by_action["create"]], request_timeout=timeout)
        errors += _collect(futures, timeout)
    if by_action["grow"]:
        grown = [NewPartitions(d.topic, d.spec.partitions) for d in by_action["grow"]]
        errors += _collect(admin.create_partitions(grown, request_timeout=timeout), timeout)
    if by_action["set"]:
        resources = _altered(by_action["set"])
        errors += _collect(admin.incremental_alter_configs(resources, request_timeout=timeout), timeout)
    if errors:
        raise errors[0]


def _metadata(admin: AdminClient, timeout: float) -> dict[str, Any]:
    try:
        asked = admin.cluster(timeout) if isinstance(admin, Admin) else admin.list_topics(timeout=timeout)
    except KafkaException as exc:
        raise _translated(exc, "list topics") from exc
    topics: dict[str, Any] = asked.topics
    return topics


def _configs(admin: AdminClient, names: Sequence[str], timeout: float) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    configs = {}
    for resource, future in admin.describe_configs(resources, request_timeout=timeout).items():
        entries = _result(future, f"describe {resource.name}", timeout)
        configs[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
    return configs


def _compared(spec: TopicSpec, metadata: Any, config: dict[str, str], grow: bool) -> list[Difference]:
    differences = []
    partitions = len(metadata.partitions)
    if partitions != spec.partitions:
        differences.append(_partitions(spec, partitions, grow))
    replication = {len(partition.replicas) for partition in metadata.partitions.values()}
    if spec.replication is not None and replication != {spec.replication}:
        found = ", ".join(map(str, sorted(replication)))
        why = "moving copies is an operator's job: kafka-reassign-partitions"
        differences.append(Difference(spec, "replication", found, str(spec.replication), "report", why))
    for option, wanted in topic_config(spec).items():
        if _normal(config.get(option, "")) != _normal(wanted):
            differences.append(Difference(spec, option, config.get(option), wanted, "set"))
    return differences


def _partitions(spec: TopicSpec, found: int, grow: bool) -> Difference:
    wanted = str(spec.partitions)
    if found > spec.partitions:
        why = "Kafka cannot take partitions away: declare what is there, or move to a new topic"
        return Difference(spec, "partitions", str(found), wanted, "report", why)
    if not grow:
        why = "growing moves keys to other partitions and breaks their order: ask for it with --grow-partitions"
        return Difference(spec, "partitions", str(found), wanted, "report", why)
    return Difference(spec, "partitions", str(found), wanted, "grow")


def _normal(value: str) -> str:
    """Kafka keeps lists such as ``compact,delete`` in the order in which they were set."""
    return ",".join(sorted(value.split(",")))


def _described(spec: TopicSpec) -> str:
    options = ", ".join(f"{name}={value}" for name, value in topic_config(spec).items())
    return f"{spec.partitions} partitions, {options}"


def _new_topic(spec: TopicSpec) -> NewTopic:
    replication = -1 if spec.replication is None else spec.replication
    return NewTopic(spec.name, spec.partitions, replication, config=topic_config(spec))


def _altered(differences: Sequence[Difference]) -> list[ConfigResource]:
    by_topic: dict[str, list[ConfigEntry]] = {}
    for difference in differences:
        entry = ConfigEntry(difference.option, difference.wanted, incremental_operation=AlterConfigOpType.SET)
        by_topic.setdefault(difference.topic, []).append(entry)
    return [ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name, entries in by_topic.items()]


def _collect(futures: dict[Any, Any], timeout: float) -> list[HeadwaterError]:
    """The errors of several changes, so that one that fails does not hide the fate of the others."""
    errors = []
    for what, future in futures.items():
        try:
            _result(future, f"change topic {getattr(what, 'name', what)}", timeout)
        except HeadwaterError as exc:
            errors.append(exc)
    return errors


def _result(future: Any, what: str, timeout: float) -> Any:
    try:
        return future.result(timeout + 1.0)
    except FutureTimeoutError as exc:
        raise BrokerUnavailable(f"cannot {what}: Kafka did not answer within {timeout:g} s") from exc
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return None
        raise _translated(exc, what) from exc


_FORBIDDEN: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
_REFUSED: Final = frozenset(
    {
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REQUEST,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)


def _translated(exc: KafkaException, what: str) -> HeadwaterError:
    """What Kafka's error means for the caller; the one place that decides it."""
    error = exc.args[0]
    if error.code() in _FORBIDDEN:
        return NotPermitted(f"cannot {what}: {error.str()}; check HEADWATER_KAFKA_SECURITY_* and the broker's ACLs")
    if error.code() in _REFUSED:
        return UsageError(f"cannot {what}: {error.str()}")
    # Time limits, lost connections, no controller at the moment: all pass with time.
    return BrokerUnavailable(f"cannot {what}: {error.str()}")
