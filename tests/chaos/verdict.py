"""The verdict, from the effects file and from the log as kafka-python reads it. Nothing of the engine judges itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["Effect", "Verdict", "judge", "read_dead", "read_effects"]

Event = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the effects file."""

    event: Event
    attempt: int
    pid: int
    at: float


@dataclass(slots=True)
class Verdict:
    """What one seed showed.

    Attributes:
        takeovers: frozen workers whose partitions went to others while they slept.
        leader_changes: killed brokers of whose partitions another became the leader.
        without_effect: frozen workers and killed leaders that nobody replaced: such a run proves nothing, so it fails.
        violations: the first few, for a human.
    """

    seed: int
    faults: list[str]
    acked: int = 0
    lost: int = 0
    order_violations: int = 0
    duplicates: int = 0
    wrong_deaths: int = 0
    takeovers: int = 0
    leader_changes: int = 0
    without_effect: int = 0
    recovery_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.order_violations or self.wrong_deaths or self.without_effect)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_effects(path: Path) -> list[Effect]:
    """The effects in the order in which they happened: appends to one file have one order."""
    if not path.exists():
        return []
    effects = []
    for line in path.read_text().splitlines():
        key, number, attempt, pid, at = line.split()
        effects.append(Effect((key, int(number)), int(attempt), int(pid), float(at)))
    return effects


def read_dead(bootstrap: str, topic: str) -> list[tuple[bytes | None, dict[str, bytes]]]:
    """Values and headers of a dead-letter topic, by kafka-python, a client that shares no code with ours."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=5000, enable_auto_commit=False)
    try:
        numbers = consumer.partitions_for_topic(topic) or set()
        partitions = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        left = sum(consumer.end_offsets(partitions).values())
        found: list[tuple[bytes | None, dict[str, bytes]]] = []
        while len(found) < left:
            batch = consumer.poll(timeout_ms=2000)
            if not batch:
                break
            for records in batch.values():
                found += [(record.value, dict(record.headers)) for record in records]
        return found
    finally:
        consumer.close()


def judge(
    verdict: Verdict,
    sent: Sequence[Event],
    effects: Sequence[Effect],
    dead: Iterable[Event],
    doomed: set[Event],
    struck: Sequence[float],
) -> Verdict:
    """Fill the verdict.

    Args:
        sent: every acknowledged event, per key in the order of sending.
        dead: events that were found in the dead-letter topic.
        doomed: events that must end there.
        struck: when each fault struck.
    """
    died = set(dead)
    first: dict[Event, int] = {}
    for place, effect in enumerate(effects):
        first.setdefault(effect.event, place)
    verdict.acked = len(sent)
    verdict.duplicates = len(effects) - len(first)
    missing = [event for event in sent if event not in first and event not in died]
    verdict.lost = len(missing)
    wrong = (died ^ doomed) | (doomed & first.keys())
    verdict.wrong_deaths = len(wrong)
    verdict.violations += [f"lost {event}" for event in missing[:5]]
    verdict.violations += [f"wrong death {event}" for event in sorted(wrong)[:5]]
    furthest: dict[str, tuple[int, int]] = {}  # per key: the latest first effect so far, and its number
    for key, number in sent:
        place = first.get((key, number), -1)
        if place < 0:
            continue
        latest, earlier = furthest.get(key, (-1, -1))
        if place < latest:
            verdict.order_violations += 1
            verdict.violations.append(f"{key}: {number} took effect before {earlier}")
        else:
            furthest[key] = (place, number)
    verdict.violations = verdict.violations[:10]
    times = [effect.at for effect in effects]
    for at in struck:
        following = next((time for time in sorted(times) if time > at + 0.5), None)
        if following is not None:
            verdict.recovery_seconds = max(verdict.recovery_seconds, _pause_after(times, at))
    return verdict


def _pause_after(times: Sequence[float], at: float) -> float:
    """The longest time without any effect that begins within the ten seconds after ``at``."""
    ordered = sorted(times)
    longest = 0.0
    for earlier, later in pairwise(ordered):
        if later > at and earlier < at + 10:
            longest = max(longest, later - max(earlier, at))
    return longest
