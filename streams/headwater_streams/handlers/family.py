"""The topics that belong to one consumed topic in one group: its delay tiers, its parking log, its dead letters.

    orders.placed                            the topic itself
    orders.placed.billing.retry.10s          a delay tier: records that failed, waiting to be due
    orders.placed.billing.retry.parked       records behind a waiting one of the same key, in their order
    orders.placed.billing.dlt                dead letters

All have as many partitions as the topic, and a record keeps its partition number through them, so one worker holds
a key's records wherever they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from headwater_schemas import wire
from headwater_schemas.durations import format_duration

__all__ = ["PARKED", "Family"]

PARKED = "parked"
_DELAY = re.compile(r"(\d+)(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True)
class Family:
    """The names, and which delay each tier stands for (seconds)."""

    topic: str
    group: str
    tiers: tuple[tuple[float, str], ...]
    parked: str
    dead: str

    @classmethod
    def of(cls, topic: str, group: str, delays: Iterable[float], existing: Iterable[str] = ()) -> Family:
        """The family with a tier for each of ``delays`` and for each tier topic that exists already.

        Tiers of an earlier release may still hold records, so they are consumed as long as they exist.
        """
        prefix = f"{topic}.{group}.retry."
        tiers = {delay: wire.retry_topic(topic, group, delay) for delay in delays}
        for name in existing:
            match = _DELAY.fullmatch(name[len(prefix) :]) if name.startswith(prefix) else None
            if match is not None:
                delay = int(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
                if f"{format_duration(delay)}" == match[0]:
                    tiers.setdefault(delay, name)
        return cls(
            topic=topic,
            group=group,
            tiers=tuple(sorted(tiers.items())),
            parked=wire.check_topic_name(prefix + PARKED),
            dead=wire.dead_letter_topic(topic, group),
        )

    @property
    def consumed(self) -> tuple[str, ...]:
        """Every topic of the family that the group reads, the topic itself first."""
        return (self.topic, *(name for _, name in self.tiers), self.parked)

    @property
    def created(self) -> tuple[str, ...]:
        """The topics that must exist besides the topic itself."""
        return (*(name for _, name in self.tiers), self.parked, self.dead)

    def tier_for(self, remaining: float) -> str:
        """The tier for a wait of ``remaining`` seconds: the longest that does not overshoot, else the shortest.

        A wait that no tier equals is made of hops: each tier passes the record on until it is due.
        """
        fitting = [name for delay, name in self.tiers if delay <= remaining + 0.0005]
        return fitting[-1] if fitting else self.tiers[0][1]

    def hop_of(self, topic: str) -> float:
        """The delay of a tier topic, in seconds."""
        return next(delay for delay, name in self.tiers if name == topic)
