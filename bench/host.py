"""How fast the machine itself is from moment to moment, beside a bench that measures waits.

Virtual machines are slowed down by their hosts without being told: no CPU time is marked as stolen, yet for a tenth
of a second everything takes several times as long. A process of its own does the same small piece of work every twenty
milliseconds and notes the CPU time of it, which waiting for other processes does not lengthen. (Gil Tene's jHiccup
asks the same of a JVM by sleeping; that also counts waits that a bench causes itself and must answer for.)

    python bench/host.py    until its input ends; then one JSON list of [monotonic time, CPU seconds]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from types import TracebackType

__all__ = ["HostSpeed"]

_EVERY = 0.02  # seconds
_WORK = 20_000  # additions: a quarter of a millisecond
_SLOW = 2.0  # times the median
_AFTER = 0.1  # seconds in which what waited meanwhile is worked off


class HostSpeed:
    """Watches while the ``with`` block runs; answers after it."""

    def __init__(self) -> None:
        self._probes: list[tuple[float, float]] = []

    def __enter__(self) -> HostSpeed:
        self._child = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told, _ = self._child.communicate()
        self._probes = [(at, took) for at, took in json.loads(told)]
        usual = statistics.median(took for _, took in self._probes)
        self._slow = [at for at, took in self._probes if took > _SLOW * usual]

    def slow_percent(self, start: float, end: float) -> float:
        """At how many of the moments from ``start`` to ``end`` (monotonic) the machine took twice its usual time."""
        moments = [at for at, _ in self._probes if start <= at < end]
        return 100 * self._slow_between(start, end) / len(moments) if moments else 0.0

    def steady(self, start: float, end: float) -> bool:
        """Whether no such moment fell between, nor just before ``start``."""
        return not self._slow_between(start - _AFTER, end)

    def _slow_between(self, start: float, end: float) -> int:
        return bisect_left(self._slow, end) - bisect_left(self._slow, start)


def _probe() -> None:
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    probes: list[tuple[float, float]] = []
    while not ended.wait(_EVERY):
        before = time.thread_time()
        sum(range(_WORK))
        probes.append((time.monotonic(), time.thread_time() - before))
    print(json.dumps(probes))


if __name__ == "__main__":
    _probe()
