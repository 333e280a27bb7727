"""Removing dead letters, audited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaException, TopicPartition
from faust.types import TP

from headwater_schemas.events import ActedRecord
from headwater_streams.deadletters.act import Act
from headwater_streams.deadletters.audit import Ledger
from headwater_streams.transport.errors import kafka_error, translate
from headwater_streams.transport.log import Log

__all__ = ["PurgeReport", "What", "carry_out", "survey"]

What = Literal["handled", "all"] | float
"""handled: up to the first open letter of each partition; a time (seconds since the epoch): what died before it."""

_ANSWER = 15.0


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge deletes: everything before ``before[partition]``; ``open`` of the ``count`` were not handled."""

    topic: str
    dry_run: bool
    before: dict[int, int]
    count: int
    open: int


def survey(log: Log, ledger: Ledger, topic: str, what: What, *, dry_run: bool) -> PurgeReport:
    """What would go. Changes nothing."""
    partitions = log.partitions(topic)
    starts = log.starts(partitions)
    cuts = _cuts(log, ledger, starts, what)
    handled = sum(ledger.count(tp, starts[tp], cut) for tp, cut in cuts.items())
    count = sum(cut - starts[tp] for tp, cut in cuts.items())
    before = {tp.partition: cut for tp, cut in cuts.items() if cut > starts[tp]}
    return PurgeReport(topic, dry_run, before, count, count - handled)


def _cuts(log: Log, ledger: Ledger, starts: Mapping[TP, int], what: What) -> dict[TP, int]:
    if isinstance(what, int | float):
        return {tp: max(starts[tp], offset) for tp, offset in log.at(starts, what).items()}
    ends = log.ends(starts)
    if what == "all":
        return ends
    return {tp: ledger.first_open(tp, starts[tp], ends[tp]) for tp in starts}


def carry_out(act: Act, report: PurgeReport) -> None:
    """Tell the audit, then delete. When deleting fails, the entry stands as what was intended; run it again.

    Raises:
        NotPermitted: no right to delete records.
        BrokerUnavailable: not known to be deleted.
    """
    if not report.before:
        return
    act.tell(report.topic, [ActedRecord(partition=number, offset=cut) for number, cut in report.before.items()])
    wanted = [TopicPartition(report.topic, number, cut) for number, cut in report.before.items()]
    for position, answer in act.desk.log.admin.delete_records(wanted, request_timeout=_ANSWER).items():
        try:
            answer.result(_ANSWER + 1)
        except KafkaException as exc:
            raise translate(kafka_error(exc), f"deleting records of {report.topic}[{position.partition}]") from exc
