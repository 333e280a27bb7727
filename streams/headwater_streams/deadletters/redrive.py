"""Redriving: a dead letter goes back to the handler that failed, through a retry topic that only its group reads.

It is written to the shortest delay tier of the group (to the parking log where the handler has no delays), in the same
partition, with its key, its value, its own headers and its handler's name, due at once and at attempt 0: it gets the
whole retry policy again. It has no fence mark, by which the engine knows an operator's redrive and runs it.
``hw-redrive-count`` grows with each redrive; a letter that has reached the limit is left alone, so that a loop of dying
and redriving ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice

from faust.types import TP

from headwater_schemas import wire
from headwater_schemas.errors import UsageError
from headwater_streams.deadletters.act import Act
from headwater_streams.deadletters.canary import Canary, Verdict, watch
from headwater_streams.deadletters.letter import DeadLetter, LetterId
from headwater_streams.deadletters.mover import Move
from headwater_streams.handlers.failure import FENCE, HOLD
from headwater_streams.handlers.family import Family
from headwater_streams.handlers.message import Headers

__all__ = ["NotRedrivable", "Options", "Redrive", "RedriveReport", "Targets", "redriven"]

_CHUNK = 200  # letters of one transaction

_DROPPED = frozenset(
    {
        FENCE,
        HOLD,
        wire.HW_ATTEMPT,
        wire.HW_DUE_AT,
        wire.HW_FIRST_FAILED_AT,  # its life starts anew, also for Retry(give_up_after=…)
        wire.HW_REASON,
        wire.HW_EXCEPTION_CLASS,
        wire.HW_EXCEPTION_MESSAGE,
        wire.HW_EXCEPTION_STACK,
        wire.HW_FINGERPRINT,
        wire.HW_REDRIVE_COUNT,
        wire.HW_HANDLER,
    }
)


class NotRedrivable(UsageError):
    """This dead letter cannot be sent back to a handler; the message says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to redrive; see ``DeadLetters.redrive``.

    Raises:
        UsageError: a number is out of range.
    """

    dry_run: bool = False
    rate: float | None = None
    canary: int = 0
    canary_timeout: float = 60.0
    max_redrives: int = 3
    again: bool = False
    handler: str | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise UsageError(f"rate={self.rate} must be more than 0 letters per second, or None")
        if self.canary < 0 or self.canary_timeout <= 0 or self.max_redrives < 1:
            raise UsageError("canary must be at least 0, canary_timeout more than 0 s, max_redrives at least 1")


@dataclass(slots=True)
class RedriveReport:
    """What a redrive did, or with ``dry_run`` would do.

    Attributes:
        run: names the call in the audit.
        selected: letters that fit the selection.
        redriven: those that went back.
        handled: those left alone because they were redriven or edited before.
        guarded: those left alone because they have come back too often.
        refused: those that cannot be redriven, each with the reason.
        verdict: the outcome of the canaries, when there were some.
        stopped: why it ended before all were redriven; ``None`` when it did not.
    """

    run: str
    dry_run: bool
    selected: int = 0
    redriven: list[LetterId] = field(default_factory=list)
    handled: int = 0
    guarded: int = 0
    refused: list[tuple[LetterId, str]] = field(default_factory=list)
    verdict: Verdict | None = None
    stopped: str | None = None


class Targets:
    """Where letters go back to.

    Args:
        topics: the partitions of each topic of the cluster.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self._topics = topics
        self._families: dict[tuple[str, str], Family] = {}

    def family(self, letter: DeadLetter) -> Family:
        """The retry topics of the letter's group that exist.

        Raises:
            NotRedrivable: it does not say where it came from.
        """
        if letter.origin is None or letter.group is None or letter.handler is None:
            raise NotRedrivable(f"{letter.id} was not written by a handler: it does not say where it came from")
        key = (letter.origin.topic, letter.group)
        if key not in self._families:
            self._families[key] = Family.of(*key, (), self._topics)
        return self._families[key]

    def of(self, letter: DeadLetter) -> str:
        """The topic through which the letter reaches its handler again.

        Raises:
            NotRedrivable: there is none.
        """
        family = self.family(letter)
        target = family.tiers[0][1] if family.tiers else family.parked
        number = letter.id.partition
        if number >= self._topics.get(target, 0):
            raise NotRedrivable(f"{letter.id}: {target} has no partition {number}: start a worker of the group")
        return target

    def watched(self, letter: DeadLetter) -> set[TP]:
        """The partitions in which the letter can show up again."""
        names = (*self.family(letter).created, letter.id.topic)
        return {TP(name, letter.id.partition) for name in names if letter.id.partition < self._topics.get(name, 0)}


def redriven(letter: DeadLetter, target: str, now: float, *, handler: str | None, value: bytes | None) -> Move:
    """The record that goes back. ``handler`` is another one to run it, for one that was renamed."""
    headers: Headers = [(name, held) for name, held in letter.headers if name not in _DROPPED]
    headers += [
        (wire.HW_HANDLER, (handler or letter.handler or "").encode()),
        (wire.HW_ATTEMPT, b"0"),
        (wire.HW_DUE_AT, f"{now:.3f}".encode()),
        (wire.HW_REDRIVE_COUNT, str(letter.redrives + 1).encode()),
    ]
    return Move(target, letter.id.partition, letter.key, value, headers)


class Redrive:
    """One call. ``run`` takes the letters in their order and leaves alone what need not or must not go back.

    Args:
        act: writes them.
        topics: the partitions of each topic of the cluster.
        report: is filled in while it runs, so that an interruption does not lose it.
        sleep: waits so many seconds.
        progress: called with the number of letters moved so far.
    """

    def __init__(
        self,
        act: Act,
        topics: Mapping[str, int],
        options: Options,
        report: RedriveReport,
        *,
        sleep: Callable[[float], None] = time.sleep,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._act = act
        self._targets = Targets(topics)
        self._options = options
        self._report = report
        self._sleep = sleep
        self._progress = progress

    def run(self, letters: Iterable[DeadLetter]) -> None:
        """Redrive these letters; those of one topic stand together."""
        chosen = self._chosen(letters)
        first = [] if self._options.dry_run else list(islice(chosen, self._options.canary))
        if first:
            verdict = self._report.verdict = self._fly(first)
            if not verdict.ok:
                self._report.stopped = _why_stopped(verdict)
                return
        self._move_all(chosen)

    def _chosen(self, letters: Iterable[DeadLetter]) -> Iterator[tuple[DeadLetter, str]]:
        """The letters that go back, each with its target; counts the others."""
        report, ledger = self._report, self._act.desk.ledger
        for letter in letters:
            if not self._options.dry_run:
                self._act.take(letter.id.topic)
            report.selected += 1
            if ledger.is_handled(letter.id) and not self._options.again:
                report.handled += 1
            elif letter.redrives >= self._options.max_redrives:
                report.guarded += 1
            else:
                try:
                    yield letter, self._targets.of(letter)
                except NotRedrivable as exc:
                    report.refused.append((letter.id, str(exc)))

    def _move_all(self, chosen: Iterator[tuple[DeadLetter, str]]) -> None:
        rate, clock = self._options.rate, self._act.desk.clock
        size = _CHUNK if rate is None else max(1, min(_CHUNK, int(rate)))
        due = clock.monotonic()
        while chunk := list(islice(chosen, size)):
            if rate is not None and not self._options.dry_run:
                self._sleep(max(0.0, due - clock.monotonic()))
                due = max(due, clock.monotonic()) + len(chunk) / rate
            self._move(chunk)

    def _move(self, chunk: list[tuple[DeadLetter, str]]) -> list[int]:
        """Move letters; gives their offsets in their targets (nothing in a dry run)."""
        offsets: list[int] = []
        now = self._act.desk.clock.time()
        for _, share in groupby(chunk, key=lambda item: (item[0].id.topic, item[1])):
            letters, moves = [], []
            for letter, target in share:
                letters.append(letter)
                moves.append(redriven(letter, target, now, handler=self._options.handler, value=letter.value))
            if not self._options.dry_run:
                offsets += self._act.send(letters, moves)
            self._report.redriven += [letter.id for letter in letters]
            if self._progress is not None:
                self._progress(len(self._report.redriven))
        return offsets

    def _fly(self, chosen: list[tuple[DeadLetter, str]]) -> Verdict:
        """Redrive the canaries and wait for their outcome."""
        log = self._act.desk.log
        watched = {tp for letter, _ in chosen for tp in self._targets.watched(letter)}
        before = log.ends(watched)
        offsets = self._move(chosen)
        canaries = [
            Canary(
                letter=letter,
                group=letter.group or "",
                handler=self._options.handler or letter.handler or "",
                place=TP(target, letter.id.partition),
                offset=offset,
            )
            for (letter, target), offset in zip(chosen, offsets, strict=True)
        ]
        timeout, clock = self._options.canary_timeout, self._act.desk.clock
        return watch(log, canaries, before, timeout=timeout, clock=clock, sleep=self._sleep)


def _why_stopped(verdict: Verdict) -> str:
    if verdict.failed:
        return f"{len(verdict.failed)} canaries died again, the first of {verdict.failed[0]}: no others were redriven"
    return (
        f"the outcome of {len(verdict.unknown)} canaries is not known yet: no others were redriven. "
        "Does a worker of the group run? A handler that retries for long needs a longer canary time-out"
    )
