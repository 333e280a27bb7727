"""Auditing views: follow their change topics from outside any group, and compare what a reader would get."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headwater_cache import AuditReport, Change, EntityCache, MsgpackValues, Position, RedisSettings, Violation
from headwater_cache.events import ChangeDecoder
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BadRecord, Unavailable
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.wire import change_topic
from headwater_streams.transport.log import Log

if TYPE_CHECKING:
    from faust.types import TP

__all__ = ["AuditOptions", "ViewAudit", "serve", "watch"]

logger = logging.getLogger(__name__)

_SETTING = "HEADWATER_AUDIT_HTTP"
_PAUSE = 0.5  # seconds between two turns
_LATE = 120.0  # seconds without a turn after which the process should be restarted
_REPORT = 60.0  # seconds between two lines in the log


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What is audited: the entities, a share of their keys, and whether what stays wrong is repaired."""

    entities: Sequence[str]
    topic: str | None
    topic_epoch: int
    share: float
    repair: bool


class ViewAudit:
    """One view and its topic, from the topic's present end on. Every call blocks."""

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
    decoder = ChangeDecoder(MsgpackValues[Any](), codec.decoder(), epoch=options.topic_epoch)
    redis = RedisSettings.from_env(env)
    with ExitStack() as stack:
        stack.callback(codec.close)
        yield [
            ViewAudit(
                stack.enter_context(EntityCache[Any](entity, redis)),
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with _audits(env, options) as audits:
        asyncio.run(_serve(env.text(_SETTING), audits))


async def _serve(address: str, audits: Sequence[ViewAudit]) -> None:
    from headwater_streams.status import StatusServer

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    last, trouble = time.monotonic(), "nothing was looked at yet"

    async def alive() -> str | None:
        silent = time.monotonic() - last
        return f"no turn was finished for {silent:.0f} s" if silent > _LATE else None

    async def ready() -> str | None:
        return trouble or None

    server = StatusServer(address, setting=_SETTING, alive=alive, ready=ready)
    await server.start()
    logger.info("auditing; %s/metrics", server.url)
    told = time.monotonic()
    try:
        while not stop.is_set():
            try:
                for audit in audits:
                    _tell(await asyncio.to_thread(audit.turn))
                trouble = ""
            except Unavailable as exc:
                trouble = str(exc)
                logger.warning("waiting: %s", exc)
            last = time.monotonic()
            if last - told > _REPORT:
                told = last
                for audit in audits:
                    logger.info(summary(audit.report()))
            try:
                await asyncio.wait_for(stop.wait(), _PAUSE)
            except TimeoutError:
                continue
    finally:
        await server.close()


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
