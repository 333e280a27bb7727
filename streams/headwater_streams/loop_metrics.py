"""What a process says of itself: which build it is, and how late its event loop runs."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Literal

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["LoopMetrics", "MetricName"]

MetricName = Literal[
    "headwater_event_loop_lag_seconds",  # the latest that a timer fired since the last scrape
    "headwater_build_info",  # always 1; labels: version, python
]

_EVERY = 0.25


class LoopMetrics(Collector):
    """Measures while ``run`` runs. A block shorter than 0.25 s may pass unseen between two timers.

    Two scrapers share the maximum: each sees what came after the other's scrape.
    """

    def __init__(self) -> None:
        self._worst = 0.0
        self._build = (version("headwater-streams"), platform.python_version())

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY
            await asyncio.sleep(_EVERY)
            self._worst = max(self._worst, loop.time() - due)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are in ``MetricName``."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The samples; begins a new maximum."""
        lag: MetricName = "headwater_event_loop_lag_seconds"
        family = GaugeMetricFamily(lag, "The latest that a timer fired since the last scrape.")
        family.add_metric([], self._worst)
        self._worst = 0.0
        yield family
        build: MetricName = "headwater_build_info"
        family = GaugeMetricFamily(build, "Always 1.", labels=["version", "python"])
        family.add_metric(self._build, 1)
        yield family
