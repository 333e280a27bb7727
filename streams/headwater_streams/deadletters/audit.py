"""The audit topic: what operators did, and so what need not be done again."""

from __future__ import annotations

from time import monotonic, sleep

from faust.types import TP

from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BrokerUnavailable
from headwater_schemas.events import OperatorAction
from headwater_schemas.registry import SchemaRegistry
from headwater_streams.deadletters.letter import LetterId
from headwater_streams.transport.log import Log

__all__ = ["AUDIT_TOPIC", "EDIT", "PURGE", "REDRIVE", "RELEASE", "Ledger"]

AUDIT_TOPIC = "headwater.audit"
REDRIVE = "dead-letters.redrive"
EDIT = "dead-letters.edit"
PURGE = "dead-letters.purge"
RELEASE = "dead-letters.release"

_OPEN_TRANSACTIONS = 30.0  # seconds; twice what a transaction of ours may stay open


class Ledger:
    """Which dead letters were redriven, edited or released, read back from the audit topic.

    Args:
        log: the brokers.
        registry: has the schemas of the entries.

    Attributes:
        codec: reads and writes entries. Their contract is ours: it need not be in the catalogue of the letters' topics.
    """

    def __init__(self, log: Log, registry: SchemaRegistry) -> None:
        self.codec = Codec(Catalogue.load(PACKAGE_FOLDER), registry)
        self._log = log
        self._decode = self.codec.decoder(AUDIT_TOPIC, OperatorAction)
        self._read: dict[TP, int] = {}
        self._handled: dict[TP, set[int]] = {}

    def refresh(self) -> None:
        """Read what was added since the last time, up to now. Blocks.

        An entry is written in one transaction with the records it tells of, so neither is there without the other.
        While another redrive's transaction is open, later entries cannot be seen: it is waited for.

        Raises:
            BrokerUnavailable: the topic could not be read to its end.
            Unavailable: the registry does not answer.
        """
        if AUDIT_TOPIC not in self._log.topics():
            return
        partitions = self._log.partitions(AUDIT_TOPIC)
        ends = self._log.ends(partitions)
        deadline = monotonic() + _OPEN_TRANSACTIONS
        while any(self._log.ends(partitions, committed=True)[tp] < end for tp, end in ends.items()):
            if monotonic() > deadline:
                raise BrokerUnavailable(f"a transaction on {AUDIT_TOPIC} stays open: wait for it and try again")
            sleep(0.2)
        for message in self._log.read({tp: (self._read.get(tp, 0), end) for tp, end in ends.items()}):
            entry = self._decode(message.value())
            if entry is not None:
                self._add(entry)
        self._read = ends

    def _add(self, entry: OperatorAction) -> None:
        if entry.action in (REDRIVE, EDIT, RELEASE):
            for record in entry.records:
                self._handled.setdefault(TP(entry.topic, record.partition), set()).add(record.offset)

    def is_handled(self, letter: LetterId) -> bool:
        """Whether it was redriven, edited or released."""
        return letter.offset in self._handled.get(TP(letter.topic, letter.partition), ())

    def count(self, tp: TP, start: int, end: int) -> int:
        """How many letters of a span of offsets were."""
        return sum(start <= offset < end for offset in self._handled.get(tp, ()))

    def first_open(self, tp: TP, start: int, end: int) -> int:
        """The first offset of a span that was not; ``end`` when all were."""
        handled = self._handled.get(tp, ())
        return next((offset for offset in range(start, end) if offset not in handled), end)
