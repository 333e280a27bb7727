"""Auditing caches: follow their change topics from outside any group, and compare what a reader would get."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater_cache import AuditReport, Change, EntityCache, MsgpackValues, Position, RedisSettings, Violation
from headwater_cache.events import ChangeDecoder
from headwater_ops import serving
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BadRecord, Unavailable
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.wire import change_topic
from headwater_streams.transport.log import Log

if TYPE_CHECKING:
    from faust.types import TP

    from headwater_cache.space import Mode

__all__ = ["AuditOptions", "ViewAudit", "serve", "watch"]

logger = logging.getLogger(__name__)

_SETTING = "HEADWATER_AUDIT_HTTP"
_PAUSE = 0.5  # seconds between two turns
_LATE = 120.0  # seconds without a turn after which the process should be restarted
_REPORT = 60.0  # seconds between two lines in the log


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What is audited: the entities, a share of their keys, and whether what stays wrong is repaired.

    ``mode="cache"``: the entities are caches, and the changes carry versions of their source, of the domain ``domain``.
    """

    entities: Sequence[str]
    topic: str | None
    topic_epoch: int
    share: float
    repair: bool
    mode: Mode = "view"
    domain: str = "log"


class ViewAudit:
    """One view (or cache) and its topic, from the topic's present end on. Every call blocks."""

    def __init__(
        self, cache: EntityCache[Any], log: Log, decoder: ChangeDecoder, topic: str, share: float, repair: bool
    ):
        self._cache = cache
        self._log = log
        self._decoder = decoder
        self._auditor = cache.auditor(share=share, repair=repair)
        self._seen: dict[TP, int] = log.ends(log.partitions(topic), committed=True)

    def turn(self) -> list[Violation]:
        """Take in the changes since the last turn, and look at those that have come of age; what is wrong.

        Raises:
            Unavailable: Kafka or Redis does not answer; the next turn goes on where this one stopped.
        """
        ends = self._log.ends(self._seen.keys(), committed=True)
        self._auditor.observe(list(self._changes({tp: (self._seen[tp], end) for tp, end in ends.items()})))
        self._seen = ends
        return self._cache.audit(self._auditor)

    def report(self) -> AuditReport:
        """What has been seen so far."""
        return self._auditor.report()

    def _changes(self, spans: dict[TP, tuple[int, int]]) -> Iterator[Change]:
        for message in self._log.read(spans):
            place = Position(message.topic(), message.partition(), message.offset())
            try:
                change = self._decoder.decode(message.key(), message.value(), place)
            except BadRecord as exc:  # the dead letters tell of it
                logger.warning("%s[%d] at %d can not be audited: %s", *place, exc)
                continue
            if change is not None:
                yield change


@contextmanager
def _audits(env: Environment, options: AuditOptions) -> Iterator[list[ViewAudit]]:
    log, codec = Log(KafkaSettings.from_env(env)), Codec.from_env(env)
    epoch = options.topic_epoch if options.mode == "view" else None
    decoder = ChangeDecoder(MsgpackValues[Any](), codec.decoder(), epoch=epoch)
    redis = RedisSettings.from_env(env)
    with ExitStack() as stack:
        stack.callback(codec.close)
        yield [
            ViewAudit(
                stack.enter_context(EntityCache[Any](entity, redis, mode=options.mode, domain=options.domain)),
                log,
                decoder,
                options.topic or change_topic(entity),
                options.share,
                options.repair,
            )
            for entity in options.entities
        ]


def watch(env: Environment, options: AuditOptions, seconds: float) -> tuple[list[AuditReport], list[Violation]]:
    """Audit for so many seconds: a report per view, and every violation seen. Blocks.

    Raises:
        UnknownTopic: there is no such change topic.
        Unavailable: a server does not answer.
    """
    wrong: list[Violation] = []
    with _audits(env, options) as audits:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for audit in audits:
                wrong += audit.turn()
            time.sleep(_PAUSE)
        return [audit.report() for audit in audits], wrong


def serve(env: Environment, options: AuditOptions) -> None:
    """Audit until SIGTERM or ^C; probes and metrics on ``HEADWATER_AUDIT_HTTP``, a line of nines a minute in the log.

    Raises:
        UnknownTopic: there is no such change topic.
        SettingError: the address cannot be had.
        Unavailable: a server does not answer at the start; later that is waited out.
    """
    with _audits(env, options) as audits:
        serving.serve(_Auditing(audits), env.text(_SETTING), setting=_SETTING, late=_LATE, doing="auditing")


class _Auditing:
    """Turns through the views, waits out servers that are away, and reports now and then."""

    def __init__(self, audits: Sequence[ViewAudit]) -> None:
        self._audits = audits
        self.last_turn = self._told = time.monotonic()
        self.trouble: str | None = "nothing was looked at yet"

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                for audit in self._audits:
                    _tell(audit.turn())
                self.trouble = None
            except Unavailable as exc:
                self.trouble = str(exc)
                logger.warning("waiting: %s", exc)
            self.last_turn = time.monotonic()
            self._report()
            stop.wait(_PAUSE)

    def _report(self) -> None:
        if self.last_turn - self._told > _REPORT:
            self._told = self.last_turn
            for audit in self._audits:
                logger.info(summary(audit.report()))


def _tell(wrong: Sequence[Violation]) -> None:
    for violation in wrong:
        logger.warning(
            "%s: expected %s, found %s after %d s; repair: %s",
            violation.key,
            violation.expected,
            violation.found,
            violation.age,
            violation.repair,
        )


def summary(report: AuditReport) -> str:
    """One line: the nines of an entity."""
    nines = ", ".join(f"{of:.1f} nines within {age} s" for age, of in report.nines.items()) or "no change seen yet"
    return f"{report.entity}: {nines}; {report.repaired} repaired"
