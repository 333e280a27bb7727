"""The metrics of this package: every name once, as a type, so that a misspelt one does not pass the checker.

Counters move once per poll, not once per record, so they trail the truth by a few milliseconds.
"""

from __future__ import annotations

from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

from headwater_schemas.metrics import BUCKETS

__all__ = [
    "ACK_SECONDS",
    "DEGRADED",
    "OUTBOX_OLDEST",
    "OUTBOX_PARKED",
    "OUTBOX_PENDING",
    "OUTBOX_RELAY_SECONDS",
    "QUEUE_RECORDS",
    "RECORDS",
    "SPOOL_BYTES",
    "SPOOL_LIMIT",
    "SPOOL_OLDEST",
    "SPOOL_RECORDS",
    "SPOOL_REJECTED",
    "MetricName",
    "RecordOutcome",
]

MetricName = Literal[
    # Events that reached an outcome; one that went to the spool counts as spooled, and as acked later. Labels: topic,
    # outcome.
    "headwater_producer_records_total",
    # From emit to the broker's acknowledgement; sampled: the last record of each topic in each poll. Label: topic.
    "headwater_producer_ack_seconds",
    # Records in the queue to the broker or on the way, all producers of the process together.
    "headwater_producer_queue_records",
    # How many producers of the process send by way of the disk, or refuse, because the broker is away: 0 is well.
    "headwater_producer_degraded",
    # Events in the spools of the process: on disk and not acknowledged.
    "headwater_spool_records",
    # Size of the spools on disk.
    "headwater_spool_bytes",
    # How much the spools may take on disk; then events are refused.
    "headwater_spool_limit_bytes",
    # How long the oldest event of the spools has been waiting.
    "headwater_spool_oldest_seconds",
    # Events of a spool that the broker refused for good; kept beside it. Label: topic.
    "headwater_spool_rejected_total",
    # Committed events in the outbox that the relay has yet to send, counted up to 100,000 every few seconds.
    "headwater_outbox_pending",
    # How long the oldest of them has been waiting.
    "headwater_outbox_oldest_seconds",
    # From the insert into the outbox to the broker's acknowledgement. Label: topic.
    "headwater_outbox_relay_seconds",
    # Events that the broker refused for good; they stay in the outbox with the error. Label: topic.
    "headwater_outbox_parked_total",
]

RecordOutcome = Literal["acked", "spooled", "failed"]

_RECORDS: Final[MetricName] = "headwater_producer_records_total"
_ACK_SECONDS: Final[MetricName] = "headwater_producer_ack_seconds"
_QUEUE_RECORDS: Final[MetricName] = "headwater_producer_queue_records"

_DEGRADED: Final[MetricName] = "headwater_producer_degraded"
_SPOOL_RECORDS: Final[MetricName] = "headwater_spool_records"
_SPOOL_BYTES: Final[MetricName] = "headwater_spool_bytes"
_SPOOL_LIMIT: Final[MetricName] = "headwater_spool_limit_bytes"
_SPOOL_OLDEST: Final[MetricName] = "headwater_spool_oldest_seconds"
_SPOOL_REJECTED: Final[MetricName] = "headwater_spool_rejected_total"

_OUTBOX_PENDING: Final[MetricName] = "headwater_outbox_pending"
_OUTBOX_OLDEST: Final[MetricName] = "headwater_outbox_oldest_seconds"
_OUTBOX_RELAY: Final[MetricName] = "headwater_outbox_relay_seconds"
_OUTBOX_PARKED: Final[MetricName] = "headwater_outbox_parked_total"

RECORDS: Final = Counter(_RECORDS, "Events that reached an outcome, by topic.", ["topic", "outcome"])
ACK_SECONDS: Final = Histogram(_ACK_SECONDS, "From emit to acknowledgement (sampled).", ["topic"], buckets=BUCKETS)
QUEUE_RECORDS: Final = Gauge(_QUEUE_RECORDS, "Records queued for the broker or on the way to it.")
DEGRADED: Final = Gauge(_DEGRADED, "Producers that send by way of the disk, or refuse, because the broker is away.")
SPOOL_RECORDS: Final = Gauge(_SPOOL_RECORDS, "Events on disk and not acknowledged.")
SPOOL_BYTES: Final = Gauge(_SPOOL_BYTES, "Size of the spools on disk.")
SPOOL_LIMIT: Final = Gauge(_SPOOL_LIMIT, "How much the spools may take on disk.")
SPOOL_OLDEST: Final = Gauge(_SPOOL_OLDEST, "How long the oldest event of the spools has been waiting.")
SPOOL_REJECTED: Final = Counter(_SPOOL_REJECTED, "Spooled events that the broker refused for good.", ["topic"])
OUTBOX_PENDING: Final = Gauge(_OUTBOX_PENDING, "Events in the outbox that the relay has yet to send.")
OUTBOX_OLDEST: Final = Gauge(_OUTBOX_OLDEST, "How long the oldest event of the outbox has been waiting.")
OUTBOX_RELAY_SECONDS: Final = Histogram(
    _OUTBOX_RELAY, "From the insert into the outbox to the acknowledgement.", ["topic"], buckets=BUCKETS
)
OUTBOX_PARKED: Final = Counter(_OUTBOX_PARKED, "Events of the outbox that the broker refused for good.", ["topic"])
