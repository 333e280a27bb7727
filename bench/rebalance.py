"""How long partitions stand still when a group changes, and how soon a restarted worker works again.

    python bench/rebalance.py [--rounds 5] [--restarts 3] [--rate 1000] [--settle 8] [--json]

Four worker processes of one group share a topic of 12 partitions with steady traffic, evenly spread.

*Rounds*: a fifth worker joins; when it works, one leaves by SIGTERM. Of every partition and every change: the longest
time between two records handled for the first time, beyond the sending interval, from the change until ``--settle``
seconds after it. The bar is a 99th percentile below 3 s over all partitions, those included that stay where they are.

*Restarts*: one of the four is stopped by SIGTERM or by SIGKILL, its records wait for ``--away`` seconds, and it is
started again, as a dynamic member and with static membership (``HEADWATER_WORKER_ID``).
``restart_to_first_event_seconds`` runs from the start of the process until its first record is handled (bar: below
3 s); ``stopped_partitions_seconds`` from the stop until every partition has moved on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from os import getpid
from pathlib import Path
from typing import Any, Literal

from fleet import Fleet, Journal, Traffic, create_topic, quantile, say
from handler import codec_for
from headwater_ops.stack import Stack
from headwater_ops.worker import run as run_app
from headwater_streams import EventContext, StreamApp

PARTITIONS = 12
WORKERS = 4
BAR_SECONDS = 3.0
PATIENCE = 120.0  # seconds; a killed member is given up after 45
SIGNALS = {"sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}
Change = Literal["join", "leave"]


def worker(group: str, topic: str, journal: str) -> None:
    """Until SIGTERM: tells of each record, with times of the clock that all processes of a machine share."""
    codec = codec_for(topic)
    app = StreamApp(group, catalogue=codec.catalogue, codec=codec)
    tell = Journal.writer(journal)
    pid = getpid()

    @app.handler(topic, name="tell")
    async def handle(order: dict[str, Any], event: EventContext) -> None:
        tell(f"{pid} {event.partition} {event.offset} {time.monotonic():.6f}")

    run_app(app, "error")


@dataclass(frozen=True, slots=True)
class Pause:
    """The longest standstill of a partition around one change of the group."""

    change: Change
    partition: int
    seconds: float


class Group:
    """One consumer group under traffic."""

    def __init__(self, bootstrap: str, folder: Path, options: argparse.Namespace, *, static: bool) -> None:
        self.topic = f"orders.{uuid.uuid4().hex[:8]}"
        self.name = f"rebalance-{uuid.uuid4().hex[:8]}"
        self.static = static
        self._path = folder / f"{self.name}.handled"
        self._members: dict[int, str | None] = {}
        self._interval = PARTITIONS / options.rate
        self.journal = Journal(self._path)
        self.fleet = Fleet(__file__, bootstrap)
        create_topic(bootstrap, self.topic, PARTITIONS)
        self.traffic = Traffic(bootstrap, self.topic, options.rate, self._place)

    @staticmethod
    def _place(number: int) -> tuple[str, int]:
        turn, partition = divmod(number, PARTITIONS)
        return f"k-{partition}-{turn % 100}", partition

    @contextmanager
    def working(self) -> Iterator[Group]:
        """Inside the block four workers handle what comes."""
        try:
            with self.traffic.flowing():
                for number in range(WORKERS):
                    self.start(f"w{number}")
                for process in list(self.fleet.running):
                    self.await_event(process.pid, time.monotonic())
                yield self
        finally:
            self.fleet.close()

    def start(self, member: str) -> int:
        """One more worker; its pid."""
        process = self.fleet.start(self.name, self.topic, str(self._path), member=member if self.static else None)
        self._members[process.pid] = member
        return process.pid

    def stop_oldest(self, number: signal.Signals = signal.SIGTERM) -> str:
        """The worker that runs longest; its name."""
        process = self.fleet.running[0]
        self.fleet.stop(process, number)
        member = self._members[process.pid]
        assert member is not None
        return member

    def await_event(self, pid: int, since: float) -> float:
        """When this process handled its first record after ``since``."""
        what = f"a record handled by worker {pid}"
        self.journal.wait(lambda told: any(_is_of(line, pid, since) for line in reversed(told)), PATIENCE, what)
        return next(float(line[3]) for line in self.journal.lines if _is_of(line, pid, since))

    def await_progress(self, since: float) -> float:
        """When the last partition handled its first new record after ``since``."""

        def moved(told: list[list[str]]) -> bool:
            return all(any(at > since for at in times) for times in first_times(told).values())

        self.journal.wait(moved, PATIENCE, "every partition moves on")
        return max(next(at for at in times if at > since) for times in first_times(self.journal.lines).values())

    def pauses(self, change: Change, begin: float, end: float) -> list[Pause]:
        """Of every partition."""
        return [
            Pause(change, partition, longest_gap(times, begin, end) - self._interval)
            for partition, times in sorted(first_times(self.journal.look()).items())
        ]


def _is_of(line: list[str], pid: int, since: float) -> bool:
    return line[0] == str(pid) and float(line[3]) > since


def first_times(told: Iterable[list[str]]) -> dict[int, list[float]]:
    """By partition, in order, when each record was handled for the first time: repetitions are no progress."""
    first: dict[int, dict[str, float]] = {partition: {} for partition in range(PARTITIONS)}
    for _, partition, offset, at in told:
        first[int(partition)].setdefault(offset, float(at))
    return {partition: sorted(times.values()) for partition, times in first.items()}


def longest_gap(times: list[float], begin: float, end: float) -> float:
    """The longest time between two, of those that end after ``begin`` and begin before ``end``."""
    gaps = (after - before for before, after in pairwise(times) if after > begin and before < end)
    return max(gaps, default=end - begin)


def rounds(group: Group, options: argparse.Namespace) -> list[Pause]:
    """Join and leave, so many times."""
    found: list[Pause] = []
    for number in range(options.rounds):
        for change in ("join", "leave"):
            begin = time.monotonic()
            if change == "join":
                group.await_event(group.start(f"joined-{number}"), begin)
            else:
                group.stop_oldest()
            time.sleep(options.settle)
            pauses = group.pauses(change, begin, time.monotonic())
            found += pauses
            longest = max(pauses, key=lambda pause: pause.seconds)
            say(f"round {number + 1}: {change:5} longest pause {longest.seconds:.2f} s, partition {longest.partition}")
    return found


def restarts(group: Group, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """By signal: seconds to the first event of the restarted worker, and until every partition moved on."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(options.restarts):
        for name, number in SIGNALS.items():
            stopped = time.monotonic()
            member = group.stop_oldest(number)
            time.sleep(options.away)
            started = time.monotonic()
            first = group.await_event(group.start(member), started) - started
            still = group.await_progress(max(stopped, started)) - stopped
            found[name].append((first, still))
            kind = "static" if group.static else "dynamic"
            say(f"{name} of a {kind} member: first event {first:.2f} s after its start; all move on in {still:.2f} s")
            time.sleep(options.settle)
    return found


def summary(pauses: list[Pause], restarted: dict[str, dict[str, list[tuple[float, float]]]]) -> dict[str, Any]:
    """Quantiles over partitions and changes; of restarts the worst."""
    seconds = [pause.seconds for pause in pauses]
    result: dict[str, Any] = {"bench": "rebalance", "samples": len(pauses)}
    if pauses:
        result |= {
            "pause_p50_seconds": round(quantile(seconds, 0.5), 3),
            "pause_p99_seconds": round(quantile(seconds, 0.99), 3),
            "pause_max_seconds": round(max(seconds), 3),
            "pause_max_by_change": {
                change: round(max(pause.seconds for pause in pauses if pause.change == change), 3)
                for change in ("join", "leave")
            },
        }
    for figure, place in (("restart_to_first_event_seconds", 0), ("stopped_partitions_seconds", 1)):
        result[figure] = {
            f"{name}_{kind}": round(max(one[place] for one in made), 2)
            for kind, by_signal in restarted.items()
            for name, made in by_signal.items()
        }
    firsts = result["restart_to_first_event_seconds"].values()
    result["passed"] = result.get("pause_p99_seconds", 0) < BAR_SECONDS and all(one < BAR_SECONDS for one in firsts)
    return result


def main() -> None:
    if "--child" in sys.argv:
        worker(*sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="one join and one leave each (default 5)")
    parser.add_argument("--restarts", type=int, default=3, help="by each signal and membership (default 3)")
    parser.add_argument("--rate", type=float, default=1000, help="events per second (default 1000)")
    parser.add_argument("--settle", type=float, default=8, help="seconds watched after a change (default 8)")
    parser.add_argument("--away", type=float, default=1, help="seconds from a stop to the restart (default 1)")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    pauses: list[Pause] = []
    restarted: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "stack", ports="free") as stack:
        bootstrap = stack.up("kafka").bootstrap
        for kind in ("dynamic", "static"):
            with Group(bootstrap, Path(folder), options, static=kind == "static").working() as group:
                if kind == "dynamic":
                    pauses = rounds(group, options)
                restarted[kind] = restarts(group, options)
        stack.down(wipe=True)
    result = summary(pauses, restarted)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
