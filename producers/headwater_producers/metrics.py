"""The metrics of this package: every name once, as a type, so that a misspelt one does not pass the checker.

Counters move once per poll, not once per record, so they trail the truth by a few milliseconds.
"""

from __future__ import annotations

from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["ACK_SECONDS", "QUEUE_RECORDS", "RECORDS", "MetricName", "RecordOutcome"]

MetricName = Literal[
    # Events that reached an outcome. Labels: topic, outcome.
    "headwater_producer_records_total",
    # From emit to the broker's acknowledgement; sampled: the last record of each topic in each poll. Label: topic.
    "headwater_producer_ack_seconds",
    # Records in the queue to the broker or on the way, all producers of the process together.
    "headwater_producer_queue_records",
]

RecordOutcome = Literal["acked", "failed"]

_RECORDS: Final[MetricName] = "headwater_producer_records_total"
_ACK_SECONDS: Final[MetricName] = "headwater_producer_ack_seconds"
_QUEUE_RECORDS: Final[MetricName] = "headwater_producer_queue_records"

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

RECORDS: Final = Counter(_RECORDS, "Events that reached an outcome, by topic.", ["topic", "outcome"])
ACK_SECONDS: Final = Histogram(_ACK_SECONDS, "From emit to acknowledgement (sampled).", ["topic"], buckets=_BUCKETS)
QUEUE_RECORDS: Final = Gauge(_QUEUE_RECORDS, "Records queued for the broker or on the way to it.")
