"""Whether a worker's memory stays flat over millions of events.

    python bench/soak.py [--events 10000000] [--interval 5] [--json]

One worker process with a handler that emits nothing; one event of a hundred fails once and is tried again a second
later, and later events of its key are parked behind it. Keys are drawn from 50,000. This process keeps the topic
filled, at most 200,000 events ahead of the worker. Kafka drops what is old of it; what the retry topics keep grows by
some tens of bytes per event.

Resident memory is sampled every ``--interval`` seconds against the events settled. The slope is the line of least
squares through the samples after the first tenth of the events, in which caches, pools and librdkafka's queues fill;
over fewer than a million events it says little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from statistics import linear_regression
from typing import Any

import psutil
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fleet import Fleet, Journal, create_topic
from handler import PARTITIONS, codec_for, order
from headwater_ops.stack import Stack
from headwater_ops.worker import run as run_app
from headwater_streams import EventContext, Retry, StreamApp

KEYS = 50_000
AHEAD = 200_000
FAILS, SUCCEEDS = 1, 0  # what an order's quantity says
ONE_IN = 100
WARM_UP = 0.1  # of the events
PATIENCE = 120.0  # seconds without progress
TOPIC = {"retention.bytes": str(100 << 20), "segment.bytes": str(16 << 20), "file.delete.delay.ms": "1000"}
BROKER = {"log.retention.check.interval.ms": "5000"}
MEGABYTE = 1 << 20

Sample = tuple[int, float]
"""Events settled, and megabytes resident."""


def worker(group: str, topic: str, journal: str) -> None:
    """Until SIGTERM: tells every tenth of a second how many events are settled."""
    codec = codec_for(topic)
    app = StreamApp(group, catalogue=codec.catalogue, codec=codec)
    tell = Journal.writer(journal)
    settled = 0

    @app.handler(topic, name="soak", retry=Retry("1s"))
    async def soak(order: dict[str, Any], event: EventContext) -> None:
        nonlocal settled
        if order["quantity"] == FAILS and not event.attempt:
            raise RuntimeError("not yet")
        settled += 1

    async def report() -> None:
        while True:
            await asyncio.sleep(0.1)
            tell(str(settled))

    app.task(report)
    run_app(app, "error")


class Filler:
    """Keeps the topic filled from a thread, never far ahead of what is settled."""

    def __init__(self, bootstrap: str, topic: str, events: int, seed: int) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 20,
                "queue.buffering.max.messages": 2 * AHEAD,
                "partitioner": "murmur2_random",
                "log_level": 0,
            }
        )
        encode = codec_for(topic).encoder(topic)
        self._values = [
            encode(order(number) | {"quantity": SUCCEEDS if number % ONE_IN else FAILS})
            for number in range(10 * ONE_IN)
        ]
        self._keys = [f"k-{number}".encode() for number in range(KEYS)]
        self._topic = topic
        self._events = events
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.settled = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when it has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        sent = 0
        while sent < self._events and not self._stop.is_set():
            if sent - self.settled >= AHEAD:
                self._stop.wait(0.05)
                continue
            for number in range(sent, min(sent + 1000, self._events)):
                key = self._keys[int(self._random.random() * KEYS)]
                self._producer.produce(self._topic, self._values[number % len(self._values)], key)
            sent = min(sent + 1000, self._events)
            self._producer.poll(0)
        self._producer.flush()


def measure(bootstrap: str, folder: Path, options: argparse.Namespace) -> tuple[list[Sample], float]:
    """The samples, and the events per second from the first settled one to the last."""
    topic, group = f"orders.{uuid.uuid4().hex[:8]}", f"soak-{uuid.uuid4().hex[:8]}"
    create_topic(bootstrap, topic, PARTITIONS, TOPIC)
    journal = Journal(folder / "settled")
    fleet = Fleet(__file__, bootstrap)
    process = psutil.Process(fleet.start(group, topic, str(folder / "settled")).pid)
    filler = Filler(bootstrap, topic, options.events, options.seed)
    filler.start()
    samples: list[Sample] = []
    began = moved = sampled = time.monotonic()
    columns = (TextColumn("settled"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rss]} MB"))
    try:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            bar = progress.add_task("", total=options.events, rss="-")
            while filler.settled < options.events:
                time.sleep(0.1)
                settled, now = latest(journal), time.monotonic()
                if settled > filler.settled:
                    began = began if filler.settled else now
                    moved = now
                elif now - moved > PATIENCE:
                    raise SystemExit(f"nothing was settled for {PATIENCE:.0f} s, at {settled:,} events")
                filler.settled = settled
                if (settled and now - sampled >= options.interval) or settled >= options.events:
                    sampled = now
                    samples.append((settled, process.memory_info().rss / MEGABYTE))
                    progress.update(bar, completed=settled, rss=round(samples[-1][1]))
    finally:
        filler.stop()
        fleet.close()
    return samples, samples[-1][0] / (moved - began)


def latest(journal: Journal) -> int:
    """Events settled by now."""
    lines = journal.look()
    del lines[:-1]
    return int(lines[-1][0]) if lines else 0


def summary(samples: list[Sample], rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """Memory at three points and its slope."""

    def at(share: float) -> float:
        return round(next(rss for settled, rss in samples if settled >= share * options.events), 1)

    warm = [(settled / 1e6, rss) for settled, rss in samples if settled >= WARM_UP * options.events]
    if len(warm) < 3:
        raise SystemExit(f"{len(warm)} samples after the warm-up: pass a shorter --interval or more --events")
    slope = linear_regression([millions for millions, _ in warm], [rss for _, rss in warm]).slope
    return {
        "bench": "soak",
        "events": options.events,
        "seed": options.seed,
        "samples": len(samples),
        "rss_at_10_percent_mb": at(0.1),
        "rss_at_50_percent_mb": at(0.5),
        "rss_at_100_percent_mb": at(1.0),
        "rss_max_mb": round(max(rss for _, rss in samples), 1),
        "slope_mb_per_million_events": round(slope, 3),
        "events_per_second": round(rate),
    }


def main() -> None:
    if "--child" in sys.argv:
        worker(*sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="settled in all (default 10,000,000)")
    parser.add_argument("--interval", type=float, default=5, help="seconds between samples (default 5)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9), help="of the keys")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder) / "stack", ports="free", broker_properties=BROKER) as stack,
    ):
        samples, rate = measure(stack.up("kafka").bootstrap, Path(folder), options)
        stack.down(wipe=True)
    result = summary(samples, rate, options)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
