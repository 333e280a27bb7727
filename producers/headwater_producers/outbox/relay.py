"""The relay: sends what is committed in the outbox, in order per key, and takes it out once it is acknowledged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Self

import msgspec
from confluent_kafka import KafkaException
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import ArgumentError

from headwater_producers.backpressure import Block
from headwater_producers.border import translate
from headwater_producers.client import ANY_PARTITION, Client
from headwater_producers.envelope import Header
from headwater_producers.metrics import OUTBOX_OLDEST, OUTBOX_PARKED, OUTBOX_PENDING, OUTBOX_RELAY_SECONDS
from headwater_producers.outbox.alarm import Alarm
from headwater_producers.outbox.batch import Batches, Row
from headwater_producers.outbox.border import database_errors
from headwater_producers.settings import ProducerSettings
from headwater_schemas.errors import BrokerUnavailable, HeadwaterError, SettingError, Unavailable, UsageError
from headwater_schemas.settings import Environment
from headwater_schemas.wire import CE_ID

__all__ = ["Relay", "RelaySettings", "make_engine"]

_PATIENCE_SECONDS: Final = 15.0
_BACKLOG_SECONDS: Final = 5.0
_LONGEST_PAUSE: Final = 10.0

_log = logging.getLogger("headwater.producers")


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Settings of a relay; durations in seconds.

    Args:
        url: SQLAlchemy URL of the database.
        batch: events of one transaction at most. More is faster, and more is sent twice when a relay is killed.
        poll: how often to look when nothing notifies.
        keep: how long sent events stay; 0 deletes them in the transaction that sent them.

    Raises:
        SettingError: a value is out of range.
    """

    url: str
    batch: int = 1000
    poll: float = 1.0
    keep: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 10_000:
            raise SettingError(f"HEADWATER_OUTBOX_BATCH={self.batch}: pass 1 to 10000")
        if not self.poll > 0:
            raise SettingError(f"HEADWATER_OUTBOX_POLL={self.poll}: pass a duration of more than zero")

    @classmethod
    def from_env(cls, env: Environment | None = None) -> Self:
        """Read ``HEADWATER_OUTBOX_*``.

        Raises:
            SettingError: a value is malformed, or the URL is missing.
        """
        env = env or Environment()
        return cls(
            url=env.text("HEADWATER_OUTBOX_URL"),
            batch=env.integer("HEADWATER_OUTBOX_BATCH", minimum=1),
            poll=env.duration("HEADWATER_OUTBOX_POLL"),
            keep=env.duration("HEADWATER_OUTBOX_KEEP"),
        )


class Relay:
    """Sends the events of an outbox. Run as many as you like on PostgreSQL, one on SQLite.

    Per key, events go out in the order of their ``seq``, one batch after the other, each acknowledged before it is
    taken out. What a killed relay had sent and not taken out is sent again by the next, with the same ``ce_id``. An
    event that the broker refuses for good is parked (``error`` is set, it stays in the table, the log says so) and the
    later events of its key go on; set ``error`` to null to have it sent again.

    Args:
        settings: of the outbox.
        producer: how to reach Kafka; back pressure and delivery timeout are the relay's own.
        engine: of the database, if there is one already; else it is made from the URL.

    Raises:
        SettingError: the URL cannot be understood, or librdkafka refuses the settings.
    """

    def __init__(self, settings: RelaySettings, producer: ProducerSettings, *, engine: Engine | None = None) -> None:
        self._settings = settings
        self._engine = engine or make_engine(settings.url)
        self._batches = Batches(self._engine, size=settings.batch, keep=settings.keep > 0)
        self._alarm = Alarm(self._engine, poll=settings.poll)
        # Records are never given up on the way: the relay itself decides, for a whole batch.
        self._producer = replace(
            producer,
            delivery_timeout=_PATIENCE_SECONDS * 4,
            back_pressure=Block(_PATIENCE_SECONDS),
            rate=None,
            fail_fast=None,
        )
        self._client = self._connected()
        self._looked = 0.0
        self.last_turn = time.monotonic()
        """When the loop last turned; of the monotonic clock."""
        self.trouble: str | None = "the outbox was not looked at yet"
        """What keeps the relay from its work, if anything does."""

    @classmethod
    def from_env(cls, env: Environment | None = None) -> Self:
        """By the ``HEADWATER_OUTBOX_*`` and ``HEADWATER_KAFKA_*`` settings.

        Raises:
            SettingError: a setting is unknown, malformed or missing.
        """
        env = env or Environment()
        return cls(RelaySettings.from_env(env), ProducerSettings.from_env(env))

    def run(self, stop: threading.Event) -> None:
        """Relay until ``stop`` is set. Blocks. Waits for a database or a broker that is away, as long as it takes.

        Raises:
            UsageError: there is no outbox in the database, or we may not use it.
        """
        pause = 0.0
        prepared = False
        while not stop.is_set():
            self.last_turn = time.monotonic()
            try:
                if not prepared:
                    with database_errors():
                        self._batches.ensure_lanes()
                    prepared = True
                self._alarm.listen()
                self._look()
                dealt_with = self.relay_once()
                pause, self.trouble = 0.0, None
                if not dealt_with:
                    self._alarm.wait(stop)
            except Unavailable as exc:
                self.trouble = str(exc)
                pause = min(_LONGEST_PAUSE, 2 * pause or 0.5)
                _log.warning("%s; trying again in %g s", exc, pause)
                stop.wait(pause)

    def relay_once(self) -> int:
        """Send one batch, if there is one; gives how many events were dealt with. Blocks until they are.

        Raises:
            OutboxUnavailable: the database does not answer.
            BrokerUnavailable: the broker does not; the batch stays in the outbox.
            UsageError: there is no outbox in the database.
        """
        with database_errors(), self._batches.take() as rows:
            outcomes = self._send(rows) if rows else {}
            sent = [seq for seq, error in outcomes.items() if error is None]
            refused = {seq: str(error) for seq, error in outcomes.items() if isinstance(error, UsageError)}
            if outcomes:
                self._batches.settle(sent, refused)
        _observe(rows, outcomes)
        if len(sent) + len(refused) < len(rows):
            raise BrokerUnavailable(f"{len(rows) - len(sent)} events of the outbox were not acknowledged in time")
        return len(rows)

    def close(self) -> None:
        """Let go of broker and database. Blocks shortly."""
        self._client.close(0.0)
        self._alarm.close()
        self._engine.dispose()

    def _connected(self) -> Client:
        client = Client(self._producer)
        client.start()
        return client

    def _send(self, rows: list[Row]) -> dict[int, HeadwaterError | None]:
        """Send a batch and wait for the acknowledgements; gives what became of each, by ``seq``.

        What is not among them, or unavailable, was not acknowledged in time, and is not on its way any more. It is
        the end of its key in this batch: nothing overtakes within librdkafka.
        """
        outcomes: dict[int, HeadwaterError | None] = {}
        try:
            for row in rows:
                self._produce(row, partial(self._report, outcomes, row))
            self._client.flush(_PATIENCE_SECONDS)
        except Unavailable as exc:
            _log.warning("not all of a batch of the outbox could be queued: %s", exc)
        if len(outcomes) < len(rows):
            # Another relay may take these rows as soon as we let them go: ours must not come after them.
            self._client.close(0.0)
            self._client = self._connected()
        return outcomes

    def _produce(self, row: Row, report: Callable[[Any, Any], None]) -> None:
        key = None if row.key is None else row.key.encode()
        headers: list[Header] = [(CE_ID, row.id), *row.headers.items()]
        timestamp = round(row.created_at.timestamp() * 1000)
        try:
            self._client.produce(row.topic, row.payload, key, ANY_PARTITION, report, None, timestamp, headers)
        except BufferError:
            self._client.produce_when_room(row.topic, row.payload, key, headers, ANY_PARTITION, report)
        except KafkaException as exc:
            report(exc.args[0], None)

    def _report(self, outcomes: dict[int, HeadwaterError | None], row: Row, error: Any, _message: Any) -> None:
        if error is None:
            outcomes[row.seq] = None
            return
        failure = outcomes[row.seq] = translate(error, row.topic, last=self._client.last_error)
        if isinstance(failure, UsageError):
            OUTBOX_PARKED.labels(row.topic).inc()
            _log.error("event %s of the outbox is parked (outbox.error says why): %s", row.id, failure)

    def _look(self) -> None:
        """Every few seconds: how much waits, and delete what was kept long enough."""
        now = time.monotonic()
        if now - self._looked < _BACKLOG_SECONDS:
            return
        self._looked = now
        with database_errors():
            backlog = self._batches.backlog()
            OUTBOX_PENDING.set(backlog.events)
            since = backlog.oldest
            OUTBOX_OLDEST.set(0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds()))
            if self._settings.keep:
                self._batches.purge(datetime.now(UTC) - timedelta(seconds=self._settings.keep))


def _observe(rows: list[Row], outcomes: dict[int, HeadwaterError | None]) -> None:
    now = datetime.now(UTC)
    observers = {topic: OUTBOX_RELAY_SECONDS.labels(topic).observe for topic in {row.topic for row in rows}}
    for row in rows:
        if outcomes.get(row.seq, row) is None:
            observers[row.topic](max(0.0, (now - row.created_at).total_seconds()))


def make_engine(url: str) -> Engine:
    """The database of a ``HEADWATER_OUTBOX_URL``. Connects at first use.

    Raises:
        SettingError: the URL cannot be understood, or its driver is not installed.
    """
    try:
        return create_engine(url, json_deserializer=msgspec.json.decode)
    except (ArgumentError, ImportError) as exc:
        raise SettingError(
            "HEADWATER_OUTBOX_URL cannot be used: pass e.g. postgresql+psycopg://user:password@host/database or "
            f"sqlite:////path/of.db ({exc})"
        ) from exc
