"""What a worker counts, task by task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headwater_streams.metrics import Histogram

__all__ = ["TaskMetrics", "TypeCounters"]


class TypeCounters:
    """The counters of one type."""

    __slots__ = ("finished", "queued", "ran")

    def __init__(self) -> None:
        self.finished: dict[str, int] = {}
        self.ran = Histogram()
        self.queued = Histogram()


class TaskMetrics(Collector):
    """The counters of this process's workers. Plain attributes that become samples when scraped: prometheus-client's
    own take a lock and a search per observation."""

    def __init__(self) -> None:
        self._types: dict[str, TypeCounters] = {}

    @classmethod
    @cache
    def shared(cls) -> TaskMetrics:
        """The process's, as Prometheus sees them."""
        made = cls()
        REGISTRY.register(made)
        return made

    def of(self, type_: str) -> TypeCounters:
        """The counters of a type that the worker runs."""
        found = self._types.get(type_)
        if found is None:
            found = self._types[type_] = TypeCounters()
        return found

    def describe(self) -> Iterable[Metric]:
        """Nothing to describe before the first scrape: the names are in ``MetricName``."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The samples, made now."""
        finished = CounterMetricFamily(
            "headwater_tasks_finished", "Tasks that ended, by outcome.", labels=["type", "outcome"]
        )
        ran = HistogramMetricFamily("headwater_task_seconds", "One attempt.", labels=["type"])
        queued = HistogramMetricFamily("headwater_task_queue_seconds", "From due to started.", labels=["type"])
        for type_, counters in self._types.items():
            for outcome, count in counters.finished.items():
                finished.add_metric([type_, outcome], count)
            ran.add_metric([type_], counters.ran.buckets(), counters.ran.total)
            queued.add_metric([type_], counters.queued.buckets(), counters.queued.total)
        yield from (finished, ran, queued)
