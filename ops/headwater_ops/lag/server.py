"""The lag collector as a process: looks at an interval, serves the figures to Prometheus until a signal comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from prometheus_client import REGISTRY

from headwater_ops import serving
from headwater_ops.lag.collector import LagCollector
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_streams.deadletters.audit import Ledger
from headwater_streams.transport.log import Log

__all__ = ["serve"]

_SETTING = "HEADWATER_LAG_HTTP"
_WINDOW = 300.0  # seconds of history that a group's status is judged by
_LATE = 5  # intervals without an answer after which the process should be restarted


def serve(env: Environment, interval: float, groups: Sequence[str]) -> None:
    """Run until SIGTERM or ^C. One collector is enough for a cluster; two would show everything twice.

    Args:
        env: where Kafka is; ``HEADWATER_LAG_HTTP`` says where to listen.
        interval: seconds from one look to the next.
        groups: only groups that fit one of these shell patterns.

    Raises:
        SettingError: the address cannot be had.
    """
    log = Log(KafkaSettings.from_env(env))
    with Registry.from_env(env) as registry:
        looks = max(3, round(_WINDOW / interval))
        collector = LagCollector(log, Ledger(log, registry), groups=groups, looks=looks)
        serving.serve(
            _Looking(collector, interval),
            env.text(_SETTING),
            setting=_SETTING,
            late=_LATE * interval + 120,
            doing=f"lag of groups {', '.join(groups)} every {interval:g} s",
        )


class _Looking:
    """Looks at an interval; the collector shows what was seen."""

    def __init__(self, collector: LagCollector, interval: float) -> None:
        self._collector = collector
        self._interval = interval
        self.last_turn = time.monotonic()
        self.trouble: str | None = "the brokers have not answered yet"

    def run(self, stop: threading.Event) -> None:
        REGISTRY.register(self._collector)
        try:
            while not stop.is_set():
                self._collector.look()
                self.last_turn = time.monotonic()
                if self._collector.succeeded_at is not None:
                    self.trouble = None
                stop.wait(self._interval)
        finally:
            REGISTRY.unregister(self._collector)
