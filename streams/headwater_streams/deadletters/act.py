"""One act of an operator: the only writer of each topic it touches, and an audit entry with everything it writes."""

from __future__ import annotations

import getpass
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from headwater_producers.envelope import Envelope
from headwater_schemas import wire
from headwater_schemas.clock import Clock
from headwater_schemas.events import ActedRecord, OperatorAction
from headwater_schemas.settings import KafkaSettings
from headwater_schemas.topics import apply, plan
from headwater_streams.deadletters.audit import AUDIT_TOPIC, Ledger
from headwater_streams.deadletters.letter import DeadLetter
from headwater_streams.deadletters.mover import Move, Mover
from headwater_streams.handlers.message import Headers
from headwater_streams.transport.log import Log

__all__ = ["Act", "Desk", "default_actor"]


@dataclass(frozen=True, slots=True)
class Desk:
    """What all acts share.

    Args:
        ledger: what was done before.
        actor: who acts.
    """

    kafka: KafkaSettings
    log: Log
    ledger: Ledger
    clock: Clock
    actor: str


@dataclass(slots=True)
class Act:
    """Use it in a ``with`` block: at its end, open transactions are given up.

    Args:
        action: one of those of ``audit``.
        selection: what was asked for, in words.
        changed: of an edit, the fields that differ.
    """

    desk: Desk
    action: str
    selection: str
    note: str | None = None
    changed: Sequence[str] = ()
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _movers: dict[str, Mover] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mover in self._movers.values():
            mover.close()

    def take(self, topic: str) -> None:
        """Become the only writer for a dead-letter topic, and then learn what was done there before. Idempotent.

        Raises:
            NotPermitted: no right to the transactional id, or to create the audit topic.
            Unavailable: brokers or registry do not answer.
        """
        if topic in self._movers:
            return
        desk = self.desk
        if not self._movers and AUDIT_TOPIC not in desk.log.topics():
            apply(plan([desk.ledger.codec.catalogue.topic(AUDIT_TOPIC)], desk.log.admin), desk.log.admin)
        self._movers[topic] = Mover(desk.kafka, topic)
        desk.ledger.refresh()

    def send(self, letters: Sequence[DeadLetter], moves: Sequence[Move]) -> list[int]:
        """Write letters of one topic to where they go, and the entry; gives their offsets there. ``take`` it first."""
        first = letters[0]

        def entry(offsets: list[int]) -> Move:
            records = [
                ActedRecord(partition=letter.id.partition, offset=letter.id.offset, target_offset=offset)
                for letter, offset in zip(letters, offsets, strict=True)
            ]
            return self._entry(first.id.topic, first.group, moves[0].topic, records)

        return self._movers[first.id.topic].move(moves, entry)

    def tell(self, topic: str, records: list[ActedRecord]) -> None:
        """Write an entry alone. ``take`` the topic first."""
        self._movers[topic].move([], lambda _: self._entry(topic, None, None, records))

    def _entry(self, topic: str, group: str | None, target: str | None, records: list[ActedRecord]) -> Move:
        desk = self.desk
        entry = OperatorAction(
            at=datetime.fromtimestamp(desk.clock.time(), UTC),
            actor=desk.actor,
            run=self.run,
            action=self.action,
            topic=topic,
            group=group,
            target=target,
            selection=self.selection,
            note=self.note,
            changed=list(self.changed),
            records=records,
        )
        return Move(AUDIT_TOPIC, 0, topic.encode(), desk.ledger.codec.encoder(AUDIT_TOPIC)(entry), self._headers())

    def _headers(self) -> Headers:
        envelope = Envelope(f"headwater-dlq/{self.desk.actor}", self.desk.clock)
        made = envelope.headers(envelope.new_id(1), (wire.CE_TYPE, AUDIT_TOPIC))
        return [(name, value.encode() if isinstance(value, str) else value or b"") for name, value in made]


def default_actor() -> str:
    """Who runs this process: ``user@host``."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
