"""How a member joins its group, as librdkafka's properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from headwater_schemas.settings import KafkaSettings

__all__ = ["GroupProtocol", "GroupSettings"]

GroupProtocol = Literal["auto", "consumer", "classic"]
ConfigValue = str | int | float | bool

# librdkafka looks after a full prefetch queue only each so many milliseconds: 1,000 by default, in which a quick
# handler empties the queue and waits.
_FULL_QUEUE_WAIT = 20


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """How this member joins its group.

    Args:
        group: the consumer group id.
        member: static member id (KIP-345); ``None`` joins as a dynamic member. With it, a restart within the
            session time-out moves no partition, and one that was killed for good is missed only after it.
        protocol: ``auto`` prefers KIP-848 and falls back to classic.
        session_timeout: seconds without heartbeat after which the group gives our partitions away. Classic
            protocol only; under KIP-848 the broker decides.
        max_poll_interval: seconds between two polls after which librdkafka leaves the group.
        prefetch_records: records per partition that librdkafka may hold ahead of us.
        prefetch_kilobytes: kilobytes of all partitions together that it may hold ahead of us.
        overrides: further librdkafka properties, passed as they are.
    """

    group: str
    member: str | None = None
    protocol: GroupProtocol = "auto"
    session_timeout: float = 10.0
    max_poll_interval: float = 300.0
    prefetch_records: int = 20_000
    prefetch_kilobytes: int = 32_768
    fetch_min_bytes: int = 1
    fetch_wait: float = 0.1
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    overrides: Mapping[str, ConfigValue] = field(default_factory=dict)

    def config(self, kafka: KafkaSettings, protocol: Literal["consumer", "classic"]) -> dict[str, ConfigValue]:
        """The librdkafka properties for ``protocol``."""
        config: dict[str, ConfigValue] = {
            **kafka.client_config(),
            "group.id": self.group,
            "client.id": self.member or self.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": self.isolation,
            "max.poll.interval.ms": int(self.max_poll_interval * 1000),
            "queued.min.messages": self.prefetch_records,
            "queued.max.messages.kbytes": self.prefetch_kilobytes,
            "fetch.min.bytes": self.fetch_min_bytes,
            "fetch.wait.max.ms": int(self.fetch_wait * 1000),
            "fetch.error.backoff.ms": 50,
            "fetch.queue.backoff.ms": _FULL_QUEUE_WAIT,
            "group.protocol": protocol,
            "log_level": 0,  # what matters comes by the error callback
        }
        if self.member is not None:
            config["group.instance.id"] = self.member
        if protocol == "consumer":
            config["group.remote.assignor"] = "range"
        else:
            config["partition.assignment.strategy"] = "range"
            config["session.timeout.ms"] = int(self.session_timeout * 1000)
            config["heartbeat.interval.ms"] = min(3_000, max(100, int(self.session_timeout * 1000 / 6)))
        config.update(self.overrides)
        return config
