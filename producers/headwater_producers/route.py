"""A topic on its way to the broker: its contract, and what has become of its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError

from headwater_producers.border import translate
from headwater_producers.contract import Contract
from headwater_producers.metrics import ACK_SECONDS, RECORDS, RecordOutcome
from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.errors import HeadwaterError

if TYPE_CHECKING:
    from headwater_producers.client import Client

__all__ = ["Route"]


class Route(Contract):
    """One topic of one client. ``acked`` and ``last_acked`` are written by deliveries, emptied after each poll.

    ``orphaned``: this is a forked child, and the client that knew of its deliveries stayed in the parent.
    """

    __slots__ = (
        "_ack_seconds",
        "_acked_total",
        "_failed_total",
        "acked",
        "client",
        "failed_so_far",
        "failures",
        "last_acked",
        "orphaned",
    )

    def __init__(self, client: Client, spec: TopicSpec, codec: Codec) -> None:
        super().__init__(spec, codec)
        self.client = client
        self.orphaned = False
        self.acked = 0
        self.failed_so_far = 0
        self.failures: list[HeadwaterError] = []
        self.last_acked: Any = None
        acked: RecordOutcome = "acked"
        failed: RecordOutcome = "failed"
        self._acked_total = RECORDS.labels(spec.name, acked)
        self._failed_total = RECORDS.labels(spec.name, failed)
        self._ack_seconds = ACK_SECONDS.labels(spec.name)

    def failed(self, error: KafkaError) -> HeadwaterError:
        """The error of a record that failed, taken down for the next ``report``."""
        failure = translate(error, self.topic, last=self.client.last_error)
        self.failures.append(failure)
        self.failed_so_far += 1
        return failure

    def report(self) -> list[HeadwaterError]:
        """Move what happened since the last call into the metrics; gives the failures among it."""
        failures = self.failures
        if self.last_acked is not None:
            self._ack_seconds.observe(self.last_acked.latency())
            self._acked_total.inc(self.acked)
            self.acked = 0
            self.last_acked = None
        if failures:
            self._failed_total.inc(len(failures))
            self.failures = []
        return failures
