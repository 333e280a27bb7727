"""The metrics of this package. Counted in plain attributes and arrays, and turned into samples only when scraped.

A prometheus-client histogram takes a lock and a search per observation, about as long as all the rest of a record's
path; these take a bisection in a tuple.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, Protocol, get_args

from faust.types import TP
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headwater_schemas.metrics import BUCKETS
from headwater_schemas.wire import REASONS, Outcome, Reason

__all__ = ["QUICK", "HandlerMetrics", "Histogram", "MetricName", "WorkerMetrics"]

MetricName = Literal[
    "headwater_events_consumed_total",  # records given to a handler's runner
    "headwater_events_settled_total",  # by outcome: done, retry, dead
    "headwater_events_failed_total",  # dead letters by reason
    "headwater_event_processing_seconds",  # one call of the handler
    "headwater_events_in_flight",  # with the handler or waiting in a lane
    "headwater_keys_fenced",  # keys whose older records wait on Kafka
    "headwater_keys_held",  # keys that wait for an operator's decision on a dead letter
    "headwater_records_parked_total",  # records put behind older ones of their key
    "headwater_stale_retries_total",  # retries written by a worker that had lost the partition, dropped
    "headwater_retry_delay_error_seconds",  # due -> run
    "headwater_partitions_stopped",  # partitions that wait for a topic that refuses records
    "headwater_dead_floods_total",  # too many records died, and the partition stopped for a while
    "headwater_breaker_state",  # of a dependency of handlers: 0 closed, 1 half open, 2 open
    "headwater_commit_gap_records",  # read minus settled, the oldest unsettled record holds it
    "headwater_partitions_assigned",
    "headwater_rebalances_total",
    "headwater_rebalance_seconds",
]

QUICK = BUCKETS[0]

_STATES = {"closed": 0, "half-open": 1, "open": 2}


class Histogram:
    """Counts by bucket (seconds, 1 ms to 5 min). One writer; a reader sees a value that was true a moment ago."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def add_quick(self, count: int, seconds: float) -> None:
        """``count`` observations of at most ``QUICK`` each, ``seconds`` in all."""
        self.counts[0] += count
        self.total += seconds

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as the exposition format wants them."""
        running, result = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


class HandlerMetrics:
    """One handler on one topic."""

    __slots__ = (
        "_failed",
        "_settled",
        "consumed",
        "dead_floods",
        "delays",
        "done",
        "handler",
        "observe",
        "parked",
        "processing",
        "stale_retries",
        "stopped",
        "topic",
    )

    def __init__(self, handler: str, topic: str) -> None:
        self.handler = handler
        self.topic = topic
        self.consumed = 0
        self.processing = Histogram()
        self.observe = self.processing.observe
        self.done = 0
        self._settled: dict[Outcome, int] = {"done": 0, "retry": 0, "dead": 0}
        # All from the start: Prometheus sees no increase in a counter that begins with its first failures.
        self._failed: dict[Reason, int] = dict.fromkeys(REASONS, 0)
        self.parked = 0
        self.stale_retries = 0
        self.dead_floods = 0
        self.delays: dict[str, Histogram] = {}
        self.stopped: set[TP] = set()

    def settled(self, outcome: Outcome, count: int = 1) -> None:
        """Records left their place with this outcome."""
        self._settled[outcome] += count

    def settled_by(self, outcome: Outcome) -> int:
        """How many did."""
        return self._settled[outcome] + (self.done if outcome == "done" else 0)

    def failed(self, reason: Reason) -> None:
        """A record died of this."""
        self._failed[reason] += 1

    def failures(self) -> dict[Reason, int]:
        """How many died of what."""
        return dict(self._failed)

    def delay_error(self, tier: str, seconds: float) -> None:
        """A retry ran this long after it was due."""
        self.delays.setdefault(tier, Histogram()).observe(max(0.0, seconds))


class Watched(Protocol):
    """A runner, as far as its figures go."""

    metrics: HandlerMetrics

    @property
    def in_flight(self) -> int: ...

    @property
    def fenced_keys(self) -> int: ...

    @property
    def held_keys(self) -> int: ...


class Breaking(Protocol):
    """A circuit breaker, as far as its state goes."""

    @property
    def state(self) -> Literal["closed", "half-open", "open"]: ...


class WorkerMetrics(Collector):
    """Every handler of one worker, as Prometheus samples.

    Args:
        handlers: the runners, with their counters and live readings.
        gaps: reads the records between read and settled, by partition.
        breakers: of what the handlers depend on, by name; there is one from its first use on.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self.handlers: list[Watched] = []
        self.gaps: Callable[[], Iterable[tuple[TP, int]]] = tuple
        self.assigned: Callable[[], int] = int
        self.breakers: Mapping[str, Breaking] = {}
        self.rebalances = 0
        self.rebalance_seconds = Histogram()

    def watch(self, runner: Watched) -> None:
        """Show this runner's figures from now on."""
        self.handlers.append(runner)

    def describe(self) -> Iterable[Metric]:
        """Nothing to describe before the first scrape: the names are in ``MetricName``."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The samples, made now."""
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        labels = ["topic", "handler"]
        consumed = _counter("headwater_events_consumed_total", "Records given to a handler.", labels)
        settled = _counter("headwater_events_settled_total", "Records settled.", [*labels, "outcome"])
        failed = _counter("headwater_events_failed_total", "Dead letters.", [*labels, "reason"])
        parked = _counter("headwater_records_parked_total", "Records put behind older ones of their key.", labels)
        stale = _counter("headwater_stale_retries_total", "Retries of a worker that had lost its partition.", labels)
        floods = _counter("headwater_dead_floods_total", "Stops because too many records died.", labels)
        for runner in self.handlers:
            handler = runner.metrics
            names = [handler.topic, handler.handler]
            consumed.add_metric(names, handler.consumed)
            for outcome in get_args(Outcome):
                settled.add_metric([*names, outcome], handler.settled_by(outcome))
            for reason, count in handler.failures().items():
                failed.add_metric([*names, reason], count)
            parked.add_metric(names, handler.parked)
            stale.add_metric(names, handler.stale_retries)
            floods.add_metric(names, handler.dead_floods)
        rebalances = _counter("headwater_rebalances_total", "Assignments changed.", ["group"])
        rebalances.add_metric([self._group], self.rebalances)
        yield from (consumed, settled, failed, parked, stale, floods, rebalances)

    def _histograms(self) -> Iterator[Metric]:
        processing = _histogram("headwater_event_processing_seconds", "One call of the handler.", ["topic", "handler"])
        delays = _histogram("headwater_retry_delay_error_seconds", "How long after its due time a retry ran.", ["tier"])
        for runner in self.handlers:
            handler = runner.metrics
            histogram = handler.processing
            processing.add_metric([handler.topic, handler.handler], histogram.buckets(), histogram.total)
            for tier, errors in handler.delays.items():
                delays.add_metric([tier], errors.buckets(), errors.total)
        pauses = _histogram("headwater_rebalance_seconds", "Assigned until consuming.", ["group"])
        pauses.add_metric([self._group], self.rebalance_seconds.buckets(), self.rebalance_seconds.total)
        yield from (processing, delays, pauses)

    def _gauges(self) -> Iterator[Metric]:
        labels = ["topic", "handler"]
        flight = _gauge("headwater_events_in_flight", "With the handler or waiting in a lane.", labels)
        fenced = _gauge("headwater_keys_fenced", "Keys whose older records wait on Kafka.", labels)
        held = _gauge("headwater_keys_held", "Keys that wait for an operator's decision on a dead letter.", labels)
        stopped = _gauge("headwater_partitions_stopped", "Partitions that wait for a refusing topic.", labels)
        for runner in self.handlers:
            handler = runner.metrics
            names = [handler.topic, handler.handler]
            flight.add_metric(names, runner.in_flight)
            fenced.add_metric(names, runner.fenced_keys)
            held.add_metric(names, runner.held_keys)
            stopped.add_metric(names, len(handler.stopped))
        gap = _gauge("headwater_commit_gap_records", "Read minus settled.", ["group", "topic", "partition"])
        for tp, records in self.gaps():
            gap.add_metric([self._group, tp.topic, str(tp.partition)], records)
        assigned = _gauge("headwater_partitions_assigned", "Partitions of this worker.", ["group"])
        assigned.add_metric([self._group], self.assigned())
        breakers = _gauge("headwater_breaker_state", "Breaker: 0 closed, 1 half open, 2 open.", ["dependency"])
        for name, breaker in list(self.breakers.items()):
            breakers.add_metric([name], _STATES[breaker.state])
        yield from (flight, fenced, held, stopped, gap, assigned, breakers)


def _counter(name: MetricName, text: str, labels: list[str]) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)


def _gauge(name: MetricName, text: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _histogram(name: MetricName, text: str, labels: list[str]) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, labels=labels)
