"""Every dead-letter topic of a cluster, and what can be done with what stands there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from faust.types import TP

from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.codec import Codec
from headwater_schemas.errors import UnknownTopic, UsageError
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams.deadletters.act import Act, Desk, default_actor
from headwater_streams.deadletters.audit import EDIT, PURGE, REDRIVE, RELEASE, Ledger
from headwater_streams.deadletters.letter import DeadLetter, LetterId
from headwater_streams.deadletters.purge import PurgeReport, What, carry_out, survey
from headwater_streams.deadletters.redrive import (
    Options,
    Redrive,
    RedriveReport,
    Targets,
    redriven,
)
from headwater_streams.deadletters.selection import Kind, Selection, kinds
from headwater_streams.deadletters.standing import SUFFIX, Standing, standing
from headwater_streams.handlers.failure import HOLD, RELEASES
from headwater_streams.readable import readable_value
from headwater_streams.transport.log import Log, Span

__all__ = ["DeadLetters"]


class DeadLetters:
    """Look at dead letters, send them back, repair them, remove them. Blocks; use one object in one thread. Close it.

    Args:
        kafka: how to reach the brokers.
        codec: reads values, and writes them when they are edited.
        actor: who acts, for the audit.
        clock: stamps what is written, paces and bounds what waits; only tests pass another than the system's.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        codec: Codec,
        *,
        actor: str | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._codec = codec
        self._owned: Codec | None = None
        self._sleep = sleep
        self._log = Log(kafka)
        self._decode = codec.decoder()
        self._ledger = Ledger(self._log, codec.registry)
        self._desk = Desk(kafka, self._log, self._ledger, clock or SystemClock(), actor or default_actor())

    @classmethod
    def from_env(cls, env: Environment | None = None, *, actor: str | None = None) -> Self:
        """Those of the cluster that the ``HEADWATER_*`` settings name.

        Raises:
            SettingError: a setting is malformed.
        """
        env = env or Environment()
        codec = Codec.from_env(env)
        dead = cls(KafkaSettings.from_env(env), codec, actor=actor)
        dead._owned = codec
        return dead

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the registry's connections, if ``from_env`` made them."""
        if self._owned is not None:
            self._owned.close()

    # -- looking --------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """The dead-letter topics of the cluster, by their names."""
        return sorted(name for name in self._log.topics() if name.endswith(SUFFIX))

    def standing(self) -> list[Standing]:
        """How many letters each topic has that wait for somebody, and since when. Does not read them.

        Raises:
            Unavailable: brokers or registry do not answer.
        """
        self._ledger.refresh()
        return standing(self._log, self._ledger)

    def letters(self, selection: Selection | None = None) -> Iterator[tuple[DeadLetter, bool]]:
        """The selected letters that stand there now, each with whether it is open: neither redriven nor edited.

        Topic by topic; in the order of their deaths within a partition.

        Raises:
            UnknownTopic: the selection names a topic that does not exist.
            Unavailable: brokers or registry do not answer.
        """
        selection = selection or Selection()
        self._ledger.refresh()
        for topic in self._selected_topics(selection):
            for letter in self._read(self._spans(topic, selection), selection):
                yield letter, not self._ledger.is_handled(letter.id)

    def kinds(self, selection: Selection | None = None) -> list[Kind]:
        """The selected letters told together by topic and fingerprint, most open ones first. Reads all of them."""
        return kinds(self.letters(selection))

    def get(self, letter: LetterId) -> tuple[DeadLetter, bool]:
        """One letter, and whether it is open.

        Raises:
            UsageError: it is not there, or no longer.
        """
        found = next(self.letters(Selection(letter=letter)), None)
        if found is None:
            raise UsageError(f"there is no dead letter {letter}: it was purged, has expired, or never was")
        return found

    def value(self, letter: DeadLetter) -> dict[str, Any]:
        """``{"value": …}`` as it was written, and ``undecodable`` with hex and reason where it cannot be read.

        Raises:
            RegistryUnavailable: the registry does not answer.
        """
        return readable_value(letter.value, self._decode)

    # -- sending back ---------------------------------------------------------------------------------------------

    def redrive(
        self,
        selection: Selection,
        *,
        dry_run: bool = False,
        rate: float | None = None,
        canary: int = 0,
        canary_timeout: float = 60.0,
        max_redrives: int = 3,
        again: bool = False,
        handler: str | None = None,
        note: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> RedriveReport:
        """Send the selected letters back to the handlers that failed them; other groups and handlers see nothing of it.

        Letters that die while this runs are left to the next call. Returning promises that each letter in
        ``report.redriven`` is on the log for its handler, not that the handler succeeds: see ``canary``. When it is
        interrupted, or the brokers go away, call it again: what was moved is not moved twice.

        A handler that was renamed or removed would never take its letters: name its successor as ``handler``.

        Args:
            dry_run: write nothing, only tell.
            rate: letters per second; ``None`` sends as fast as the brokers take them.
            canary: redrive so many first, wait for their outcome, and stop unless all were handled.
            canary_timeout: seconds to wait for it; a handler that retries for longer counts as unknown.
            max_redrives: leave alone what has been redriven so often and died again.
            again: also those that were redriven or edited before.
            note: why, for the audit.
            progress: called with the number of letters moved so far.

        Raises:
            UsageError: a number is out of range.
            TakenOver: somebody else moves letters of the same topic now.
            UnknownTopic: the selection names a topic that does not exist.
            Unavailable: brokers or registry do not answer.
        """
        options = Options(dry_run, rate, canary, canary_timeout, max_redrives, again, handler)
        self._ledger.refresh()
        # The spans are taken now, so that what dies again while we work is not redriven for ever.
        spans = [self._spans(topic, selection) for topic in self._selected_topics(selection)]
        with Act(self._desk, REDRIVE, str(selection), note) as act:
            report = RedriveReport(act.run, dry_run)
            redrive = Redrive(act, self._log.topics(), options, report, sleep=self._sleep, progress=progress)
            redrive.run(letter for span in spans for letter in self._read(span, selection))
        return report

    def edit(
        self, letter: LetterId, value: Any, *, dry_run: bool = False, again: bool = False, note: str | None = None
    ) -> RedriveReport:
        """Send one letter back with another value: parsed JSON, in the form in which ``emit`` takes it.

        It is checked and written with the schema that the catalogue declares for the topic the record came from. Key
        and headers stay. The loop guard does not count: an edit is a person's decision.

        Raises:
            InvalidValue: the value does not match the schema; names the field.
            UnknownTopic: the original topic is not in the catalogue.
            NotRedrivable: there is no way back to its handler.
            UsageError: the letter is not there, or was handled before and ``again`` is not given.
            TakenOver: somebody else moves letters of the same topic now.
            Unavailable: brokers or registry do not answer.
        """
        found, _ = self.get(letter)
        target = Targets(self._log.topics()).of(found)
        assert found.origin is not None, "refused otherwise"
        record = self._codec.from_json(found.origin.topic, value)
        edited = replace(found, value=self._codec.encoder(found.origin.topic)(record))
        changed = _changed(self.value(found)["value"], record)
        with Act(self._desk, EDIT, str(Selection(letter=letter)), note, changed) as act:
            report = RedriveReport(act.run, dry_run, selected=1, redriven=[letter])
            if not dry_run:
                act.take(letter.topic)
            if self._ledger.is_handled(letter) and not again:
                raise UsageError(f"{letter} was redriven or edited before: ask for it again explicitly")
            if not dry_run:
                now = self._desk.clock.time()
                act.send([edited], [redriven(edited, target, now, handler=None, value=edited.value)])
        return report

    def release(self, letter: LetterId, *, dry_run: bool = False, note: str | None = None) -> RedriveReport:
        """Give a letter up that holds its key (``on_dead="hold"``): the records behind it run, it itself never does.

        Returning promises that the order is on the log, not that a worker has obeyed it.

        Raises:
            NotRedrivable: there is no way back to its handler.
            UsageError: the letter holds no key, is not there, or was redriven, edited or released before.
            TakenOver: somebody else moves letters of the same topic now.
            Unavailable: brokers or registry do not answer.
        """
        found, _ = self.get(letter)
        if not found.holds_key:
            raise UsageError(f"{letter} holds no key: its handler is not declared with on_dead='hold'")
        target = Targets(self._log.topics()).of(found)
        with Act(self._desk, RELEASE, str(Selection(letter=letter)), note) as act:
            report = RedriveReport(act.run, dry_run, selected=1, redriven=[letter])
            if not dry_run:
                act.take(letter.topic)
            if self._ledger.is_handled(letter):
                raise UsageError(f"{letter} was redriven, edited or released before: what holds its key now is another")
            if not dry_run:
                order = redriven(found, target, self._desk.clock.time(), handler=None, value=None)
                act.send([found], [replace(order, headers=[*order.headers, (HOLD, RELEASES)])])
        return report

    # -- removing -------------------------------------------------------------------------------------------------

    def purge(
        self, topic: str, what: What = "handled", *, dry_run: bool = False, note: str | None = None
    ) -> PurgeReport:
        """Delete dead letters from the start of each partition on; Kafka can delete from nowhere else. Not undoable.

        Args:
            what: ``handled``: up to the first letter that is open. A time (seconds since the epoch): all that died
                before it. ``all``: all that stand there now.

        Raises:
            UsageError: not a dead-letter topic.
            UnknownTopic: there is no such topic.
            NotPermitted: no right to delete records.
            TakenOver: somebody else moves letters of the same topic now.
            Unavailable: brokers or registry do not answer; run it again.
        """
        self._selected_topics(Selection(topic=topic))
        with Act(self._desk, PURGE, str(what), note) as act:
            if dry_run:
                self._ledger.refresh()
            else:
                act.take(topic)
            report = survey(self._log, self._ledger, topic, what, dry_run=dry_run)
            if not dry_run:
                carry_out(act, report)
        return report

    # -- inside ---------------------------------------------------------------------------------------------------

    def _selected_topics(self, selection: Selection) -> list[str]:
        named = selection.topic or (selection.letter.topic if selection.letter is not None else None)
        known = self.topics()
        if named is None:
            return known
        if named not in known:
            raise UnknownTopic(f"there is no dead-letter topic {named}; there are {', '.join(known) or 'none'}")
        return [named]

    def _spans(self, topic: str, selection: Selection) -> dict[TP, Span]:
        """What must be read of a topic."""
        partitions = self._log.partitions(topic)
        if selection.letter is not None:
            wanted = TP(topic, selection.letter.partition)
            at = selection.letter.offset
            known = wanted in partitions and self._log.starts([wanted])[wanted] <= at < self._log.ends([wanted])[wanted]
            return {wanted: (at, at + 1)} if known else {}
        ends = self._log.ends(partitions)
        starts = self._log.starts(partitions)
        if selection.since is not None:
            starts |= self._log.at(partitions, selection.since)
        return {tp: (starts[tp], ends[tp]) for tp in partitions}

    def _read(self, spans: Mapping[TP, Span], selection: Selection) -> Iterator[DeadLetter]:
        for message in self._log.read(spans):
            letter = DeadLetter.of(message)
            if selection.takes(letter):
                yield letter


def _changed(old: Any, new: Mapping[str, Any]) -> list[str]:
    """The fields that differ; all of them when the old value could not be read."""
    before = old if isinstance(old, dict) else {}
    return [name for name, value in new.items() if name not in before or before[name] != value]
