"""The lag of every group as Prometheus metrics.

Samples are made at each scrape from the last look at the brokers, so a group that is gone has no series any more; a
client library's gauges would keep its last value for ever.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from faust.types import TP
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headwater_ops.lag.reading import GroupLag, PartitionLag, read_lag
from headwater_ops.lag.status import Observation, judge
from headwater_schemas.clock import Clock, SystemClock
from headwater_schemas.errors import HeadwaterError
from headwater_streams.deadletters.audit import Ledger
from headwater_streams.deadletters.standing import SUFFIX, Standing, standing
from headwater_streams.transport.log import Log

__all__ = ["LagCollector", "MetricName"]

logger = logging.getLogger(__name__)

MetricName = Literal[
    "headwater_consumer_lag_records",  # committed -> end, of topics themselves: nobody has tried these records yet
    "headwater_consumer_lag_seconds",  # age of the first unread record
    "headwater_consumer_committed_offset",
    "headwater_consumer_group_status",  # 0 ok, 1 warn, 2 stop, 3 stall, 4 rewind; see ``status``
    "headwater_consumer_group_members",
    "headwater_consumer_group_state",  # 1 for the state that the group is in; label: state
    "headwater_consumer_records_expired_total",  # deleted before they were read: lost to the group
    "headwater_records_parked",  # records that wait in retry tiers and parking logs; label: kind=retry|parked
    "headwater_retry_overdue_seconds",  # how long the first record of a retry tier is past its due time
    "headwater_dead_letters",  # open ones: neither redriven nor edited; labels: topic (the dead-letter topic), group
    "headwater_dead_letter_oldest_seconds",  # since the oldest of them died; absent when there is none
    "headwater_topic_start_offset",
    "headwater_topic_end_offset",
    "headwater_lag_collector_last_success_timestamp_seconds",  # 0 before the first
    "headwater_lag_collector_errors_total",  # looks that failed, wholly or for a group or topic
]

_PARTITION = ["group", "topic", "partition"]


class LagCollector(Collector):
    """Looks at the brokers when told to (``look``) and shows what it saw last.

    Args:
        log: the brokers.
        ledger: what operators did to dead letters; ``None`` leaves dead letters out.
        groups: only groups that fit one of these shell patterns, and their dead letters.
        looks: how many looks make the window of ``judge``.
        clock: for ages; only tests pass another than the system's.
    """

    def __init__(
        self,
        log: Log,
        ledger: Ledger | None = None,
        *,
        groups: Sequence[str] = ("*",),
        looks: int = 30,
        clock: Clock | None = None,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._patterns = groups
        self._looks = looks
        self._clock = clock or SystemClock()
        self._groups: list[GroupLag] = []
        self._dead: list[Standing] = []
        self._windows: dict[tuple[str, TP], deque[Observation]] = {}
        self._expired = _Expired()
        self._errors = 0
        self._succeeded_at: float | None = None

    @property
    def succeeded_at(self) -> float | None:
        """When the brokers last answered, by the clock's wall time."""
        return self._succeeded_at

    def look(self) -> list[GroupLag]:
        """Ask the brokers once. Blocks.

        A failure is counted and logged. What was seen before is shown on; a group or topic that alone could not be read
        has no figures that need it.
        """
        failed: list[HeadwaterError] = []
        try:
            self._remember(read_lag(self._log, patterns=self._patterns, clock=self._clock, failed=failed))
            self._succeeded_at = self._clock.time()
            if self._ledger is not None:  # afterwards: it needs the registry, and lag is known without
                self._ledger.refresh()
                self._dead = standing(self._log, self._ledger, groups=self._patterns, failed=failed)
        except HeadwaterError as exc:
            failed.append(exc)
        self._errors += len(failed)
        for error in failed:
            logger.warning("%s", error)
        return self._groups

    def _remember(self, groups: list[GroupLag]) -> None:
        windows: dict[tuple[str, TP], deque[Observation]] = {}
        for group in groups:
            for lag in group.partitions:
                key = (group.group, TP(lag.topic, lag.partition))
                window = windows[key] = self._windows.get(key) or deque(maxlen=self._looks)
                window.append(Observation(lag.committed, lag.committed + lag.records))
                self._expired.add(*key, lag)
        self._windows = windows
        self._expired.keep(windows)
        self._groups = groups

    def describe(self) -> Iterable[Metric]:
        """Nothing before the first look: the names are in ``MetricName``."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The samples of the last look."""
        yield from self._lags()
        yield from self._waits()
        yield from self._dead_letters()
        yield from self._members()
        yield from self._own()

    def _lags(self) -> Iterator[Metric]:
        records = _gauge("headwater_consumer_lag_records", "Records that the group has not read.", _PARTITION)
        seconds = _gauge("headwater_consumer_lag_seconds", "Age of the first unread record.", _PARTITION)
        committed = _gauge("headwater_consumer_committed_offset", "The next offset to read.", _PARTITION)
        status = _gauge("headwater_consumer_group_status", "0 ok, 1 warn, 2 stop, 3 stall, 4 rewind.", _PARTITION)
        expired = _counter("headwater_consumer_records_expired_total", "Deleted before they were read.", _PARTITION)
        for group, lag, names in self._rows():
            committed.add_metric(names, lag.committed)
            expired.add_metric(names, self._expired.total(group.group, TP(lag.topic, lag.partition)))
            if lag.kind == "backlog":
                records.add_metric(names, lag.records)
                if lag.seconds is not None:
                    seconds.add_metric(names, lag.seconds)
                window = list(self._windows[group.group, TP(lag.topic, lag.partition)])
                status.add_metric(names, judge(window, self._looks, owned=lag.owned))
        yield from (records, seconds, committed, status, expired)

    def _waits(self) -> Iterator[Metric]:
        parked = _gauge("headwater_records_parked", "Waiting in retry tiers and parking logs.", [*_PARTITION, "kind"])
        overdue = _gauge("headwater_retry_overdue_seconds", "The first record is past its due time.", _PARTITION)
        for _, lag, names in self._rows():
            if lag.kind != "backlog":
                parked.add_metric([*names, lag.kind], lag.records)
            if lag.kind == "retry" and lag.seconds is not None:
                overdue.add_metric(names, lag.seconds)
        yield from (parked, overdue)

    def _dead_letters(self) -> Iterator[Metric]:
        labels = ["topic", "group"]
        count = _gauge("headwater_dead_letters", "Dead letters that nobody has sent back.", labels)
        oldest = _gauge("headwater_dead_letter_oldest_seconds", "Since the oldest of them died.", labels)
        known = sorted((group.group for group in self._groups), key=len)
        for found in self._dead:
            # An empty topic does not say whose it is; its name does, the longest group that fits.
            group = found.group or next((g for g in reversed(known) if found.topic.endswith(f".{g}{SUFFIX}")), "")
            count.add_metric([found.topic, group], found.open)
            if found.oldest is not None:
                oldest.add_metric([found.topic, group], max(0.0, self._clock.time() - found.oldest))
        yield from (count, oldest)

    def _members(self) -> Iterator[Metric]:
        members = _gauge("headwater_consumer_group_members", "Members of the group.", ["group"])
        state = _gauge("headwater_consumer_group_state", "1 for the state of the group.", ["group", "state"])
        start = _gauge("headwater_topic_start_offset", "First offset on the log.", ["topic", "partition"])
        end = _gauge("headwater_topic_end_offset", "Offset of the next record.", ["topic", "partition"])
        for group in self._groups:
            members.add_metric([group.group], group.members)
            state.add_metric([group.group, group.state], 1)
        for tp, lag in {(lag.topic, str(lag.partition)): lag for _, lag, _ in self._rows()}.items():
            start.add_metric(tp, lag.start)
            end.add_metric(tp, lag.end)
        yield from (members, state, start, end)

    def _own(self) -> Iterator[Metric]:
        errors = _counter("headwater_lag_collector_errors_total", "Looks at the brokers that failed.", [])
        errors.add_metric([], self._errors)
        name: MetricName = "headwater_lag_collector_last_success_timestamp_seconds"
        success = _gauge(name, "When the brokers last answered; 0 before that.", [])
        success.add_metric([], self._succeeded_at or 0.0)  # a series that is not there would raise no alert
        yield from (errors, success)

    def _rows(self) -> Iterator[tuple[GroupLag, PartitionLag, list[str]]]:
        for group in self._groups:
            for lag in group.partitions:
                yield group, lag, [group.group, lag.topic, str(lag.partition)]


class _Expired:
    """Counts each record that was deleted unread once, though the gap stands until the group commits again."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, TP], int] = {}  # up to which offset
        self._totals: dict[tuple[str, TP], int] = {}

    def add(self, group: str, tp: TP, lag: PartitionLag) -> None:
        """What is missing between the committed offset and the start of the log, and was not counted before."""
        key = (group, tp)
        self._totals[key] = self.total(group, tp) + max(0, lag.start - max(lag.committed, self._counted.get(key, 0)))
        self._counted[key] = lag.start

    def total(self, group: str, tp: TP) -> int:
        """Records lost so far."""
        return self._totals.get((group, tp), 0)

    def keep(self, known: Iterable[tuple[str, TP]]) -> None:
        """Forget all others."""
        self._counted = {key: self._counted[key] for key in known if key in self._counted}
        self._totals = {key: self._totals[key] for key in self._counted}


def _gauge(name: MetricName, text: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _counter(name: MetricName, text: str, labels: list[str]) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)
