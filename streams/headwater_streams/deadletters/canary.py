"""What became of a few redriven records, before the rest follows: read from the log, not asked from the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from faust.types import TP

from headwater_schemas.clock import Clock
from headwater_streams.deadletters.letter import DeadLetter, LetterId
from headwater_streams.handlers.failure import HOLD, header
from headwater_streams.transport.log import Log

__all__ = ["Canary", "Verdict", "watch"]

_EVERY = 0.5  # seconds between two looks


@dataclass(slots=True)
class Verdict:
    """What became of the canaries.

    Attributes:
        done: they were handled.
        failed: they are dead letters again.
        unknown: not known within the time limit: nobody runs the handler, or they wait for another attempt.
    """

    done: list[LetterId] = field(default_factory=list)
    failed: list[LetterId] = field(default_factory=list)
    unknown: list[LetterId] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all were handled."""
        return not self.failed and not self.unknown


_Name = tuple[object, str | None, str | None, int]


@dataclass(frozen=True, slots=True)
class Canary:
    """A redriven letter, and where it stands."""

    letter: DeadLetter
    group: str
    handler: str
    place: TP
    offset: int

    @property
    def name(self) -> _Name:
        """This redrive of this record: what stays the same through retries and the next death."""
        return (self.letter.origin, self.group, self.handler, self.letter.redrives + 1)


def watch(
    log: Log,
    canaries: Sequence[Canary],
    before: Mapping[TP, int],
    *,
    timeout: float,
    clock: Clock,
    sleep: Callable[[float], None],
) -> Verdict:
    """Wait until each canary is handled or dead, at most ``timeout`` seconds; ends early when one is dead. Blocks.

    A record is handled when its group's committed offset has passed every place where it stood, and it stands nowhere
    new. Committed offsets are asked first and the log is read afterwards: a retry or a dead letter is acknowledged
    before the offset that it settles is committed, so what was passed has left its trace by then.

    Args:
        before: the ends of all watched partitions before the canaries were redriven.
    """
    places = {canary.name: {canary.place: canary.offset} for canary in canaries}
    read = dict(before)
    deadline = clock.monotonic() + timeout
    verdict = Verdict()
    waiting = list(canaries)
    while True:
        committed = _committed(log, waiting, places)
        dead = _look(log, read, places)
        for canary in list(waiting):
            name = canary.name
            if name in dead:
                verdict.failed.append(canary.letter.id)
            elif all(committed.get(tp, -1) > offset for tp, offset in places[name].items()):
                verdict.done.append(canary.letter.id)
            else:
                continue
            waiting.remove(canary)
        if not waiting or verdict.failed or clock.monotonic() >= deadline:
            verdict.unknown = [canary.letter.id for canary in waiting]
            return verdict
        sleep(_EVERY)


def _committed(log: Log, waiting: Sequence[Canary], places: Mapping[_Name, Mapping[TP, int]]) -> dict[TP, int]:
    found: dict[TP, int] = {}
    for group in {canary.group for canary in waiting}:
        mine = {tp for canary in waiting if canary.group == group for tp in places[canary.name]}
        found |= log.committed(group, mine)
    return found


def _look(log: Log, read: dict[TP, int], places: Mapping[_Name, dict[TP, int]]) -> set[_Name]:
    """Read on; notes where the canaries stand now, and gives those that are dead letters again."""
    dead: set[_Name] = set()
    ends = log.ends(read)
    for message in log.read({tp: (start, ends[tp]) for tp, start in read.items()}):
        if header(message.headers(), HOLD) is not None and not message.topic().endswith(".dlt"):
            continue  # no record: it tells that a key is held, or released
        found = DeadLetter.of(message)
        name = (found.origin, found.group, found.handler, found.redrives)
        if name not in places:
            continue
        if message.topic().endswith(".dlt"):
            dead.add(name)
        else:
            places[name][TP(message.topic(), message.partition())] = message.offset()
    read.update(ends)
    return dead
