"""The verdict, from what was sent, the effects noted outside of Kafka, and the dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["Effect", "Event", "Verdict", "event_id", "event_of", "judge", "read_effects"]

Event = tuple[str, int]  # key, and the number of the event among those of its key

_WINDOW = 10.0  # seconds after a fault within which a pause is its doing


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the effects file."""

    event: Event
    pid: int
    at: float


@dataclass(slots=True)
class Verdict:
    """What one seed showed.

    Attributes:
        acked: events that the broker acknowledged to the sender: only these count.
        lost: events that neither had an effect nor are dead letters.
        order_violations: events that had their first effect after a later one of their key.
        duplicates: effects beyond the first of each event; at least once means that there may be some.
        dead: events that are dead letters.
        wrong_deaths: dead letters that should have been processed, and the other way round, where that is known.
        behind: records of the topic that the group had not committed at the end. What is lost beyond these was skipped;
            the rest the app had not come to, standing still or slow.
        takeovers: workers frozen or cut off whose partitions went to others meanwhile.
        leader_changes: killed brokers of whose partitions another became the leader.
        without_effect: frozen workers and killed leaders that nobody replaced: such a run proves nothing, so it fails.
        unended: workers that SIGTERM did not end within a minute.
        recovery_seconds: the longest that any partition stood still without an effect, after a fault.
        violations: the first few, for a human.
    """

    seed: int
    faults: list[str]
    acked: int = 0
    lost: int = 0
    order_violations: int = 0
    duplicates: int = 0
    dead: int = 0
    wrong_deaths: int = 0
    behind: int = 0
    takeovers: int = 0
    leader_changes: int = 0
    without_effect: int = 0
    unended: int = 0
    recovery_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.order_violations or self.wrong_deaths or self.without_effect or self.unended)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def event_id(event: Event) -> str:
    """The id under which an event is sent, and its effect noted."""
    key, number = event
    return f"{key}/{number}"


def event_of(name: str) -> Event:
    """The event with this id."""
    key, _, number = name.rpartition("/")
    return key, int(number)


def read_effects(path: Path) -> list[Effect]:
    """The effects in the order in which they happened: appends to one file have one order."""
    if not path.exists():
        return []
    effects = []
    for line in path.read_text().splitlines():
        name, pid, at = json.loads(line)
        effects.append(Effect(event_of(name), pid, at))
    return effects


def judge(
    verdict: Verdict,
    sent: Mapping[Event, int],
    effects: Sequence[Effect],
    dead: Iterable[Event],
    doomed: set[Event] | None,
    struck: Sequence[float],
) -> Verdict:
    """Fill the verdict.

    Args:
        sent: every acknowledged event, per key in the order of sending, with its partition.
        dead: events that were found in the dead-letter topic.
        doomed: events that must end there; ``None``: whichever do.
        struck: when each fault struck.
    """
    died = set(dead)
    first: dict[Event, int] = {}
    for place, effect in enumerate(effects):
        first.setdefault(effect.event, place)
    verdict.acked = len(sent)
    verdict.dead = len(died)
    verdict.duplicates = len(effects) - len(first)
    missing = [event for event in sent if event not in first and event not in died]
    verdict.lost = len(missing)
    verdict.violations += [f"lost {event}" for event in missing[:5]]
    if doomed is not None:
        wrong = (died ^ doomed) | (doomed & first.keys())
        verdict.wrong_deaths = len(wrong)
        verdict.violations += [f"wrong death {event}" for event in sorted(wrong)[:5]]
    _judge_order(verdict, sent, first)
    verdict.violations = verdict.violations[:10]
    verdict.recovery_seconds = _longest_pause(sent, effects, struck)
    return verdict


def _judge_order(verdict: Verdict, sent: Iterable[Event], first: Mapping[Event, int]) -> None:
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


def _longest_pause(sent: Mapping[Event, int], effects: Sequence[Effect], struck: Sequence[float]) -> float:
    """The longest time without any effect of a partition that goes on or begins within the window after a fault."""
    times: dict[int, list[float]] = {}
    for effect in effects:
        if effect.event in sent:
            times.setdefault(sent[effect.event], []).append(effect.at)
    return max(
        (
            later - max(earlier, at)
            for ordered in times.values()
            for earlier, later in pairwise(sorted(ordered))
            for at in struck
            if later > at and earlier < at + _WINDOW
        ),
        default=0.0,
    )
