"""From the row to the topic: how long it takes at a steady rate, and how fast one relay drains what has piled up.

    python bench/outbox.py [--rate 2000] [--seconds 15] [--drain 50000] [--json]

*Latency*: the four threads of a process commit transactions of five events each, at the rate; a relay process sends
them; this process consumes the topic. An event's latency is from its insert (before the commit) to its arrival here, so
it includes the commit, the notification, the relay, the broker and the fetch. The first 400 events, at a tenth of the
rate, are not counted: they connect everybody. *Drain*: rows are committed with no relay
running; then one relay works until the outbox is empty. PostgreSQL runs with fsync on, on free ports, and is removed
afterwards; without ``HEADWATER_KAFKA_BOOTSTRAP`` so does an embedded Kafka.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import sqlalchemy
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy import create_engine

from emit import EVENTS, KEYS, SCHEMA, TOPIC, make_topic, servers
from headwater_producers import ProducerSettings
from headwater_producers.outbox import Outbox, OutboxEvent, Relay, RelaySettings, create_outbox
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment, KafkaSettings
from producers.postgres import binaries, postgres

TOGETHER = 5
THREADS = 4
PARTITIONS = 4
WARM_UP = 400


class Rows:
    """What ``Outbox.add`` would add to a session, a thousand of them: encoded before the clock runs."""

    _COLUMNS = ("aggregatetype", "aggregateid", "type", "payload", "headers", "lane")

    def __init__(self) -> None:
        self._events: list[dict[str, object]] = []
        catalogue = Catalogue.of(topics=[TopicSpec(TOPIC, "Emitted")], schemas=[SCHEMA])
        outbox = Outbox(catalogue, LocalRegistry(), source="bench")
        for event, key in zip(EVENTS, KEYS, strict=True):
            outbox.add(self, TOPIC, event, key)

    def add(self, instance: object) -> None:
        self._events.append({name: getattr(instance, name) for name in self._COLUMNS})

    def __call__(self, first: int, last: int) -> list[dict[str, object]]:
        return [self._events[number % 1000] | {"id": str(number)} for number in range(first, last)]


def insert(url: str, rows: int, rate: float | None, together: int) -> None:
    """Commit so many events; at ``rate`` events a second, or as fast as it goes."""
    engine, events = create_engine(url), Rows()
    started = time.perf_counter()
    for first in range(0, rows, together):
        if rate is not None:
            time.sleep(max(0.0, started + first / rate - time.perf_counter()))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.insert(OutboxEvent), events(first, min(first + together, rows)))
    engine.dispose()


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process, killed at the end."""
    started = subprocess.Popen([sys.executable, "-c", code, *arguments])
    try:
        yield started
    finally:
        started.kill()
        started.wait()


RELAY = """
import sys, threading
from headwater_producers import ProducerSettings
from headwater_producers.outbox import Relay, RelaySettings
from headwater_schemas.settings import KafkaSettings
Relay(RelaySettings(sys.argv[1]), ProducerSettings(KafkaSettings(sys.argv[2]))).run(threading.Event())
"""

WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
from outbox import THREADS, TOGETHER, insert
rows, rate = int(sys.argv[3]) // THREADS, float(sys.argv[4]) / THREADS
with ThreadPoolExecutor(THREADS) as pool:
    for done in [pool.submit(insert, sys.argv[2], rows, rate, TOGETHER) for _ in range(THREADS)]:
        done.result()
"""


def latencies(url: str, bootstrap: str, rows: int, rate: float) -> tuple[list[float], float]:
    """Seconds from insert to arrival of each event, and events per second that were inserted."""
    config = {"bootstrap.servers": bootstrap, "group.id": "bench-outbox", "fetch.wait.max.ms": 5}
    seen: list[float] = []
    with closing(Consumer(config)) as consumer:
        consumer.assign([TopicPartition(TOPIC, number, _end(consumer, number)) for number in range(PARTITIONS)])
        with process(RELAY, url, bootstrap) as relay:
            time.sleep(2.0)  # it has looked, found nothing, and listens
            insert(url, WARM_UP, rate / 10, TOGETHER)
            assert sum(1 for _ in arrivals(consumer, WARM_UP)) == WARM_UP, f"no warm-up (relay: {relay.poll()})"
            with process(WRITER, sys.path[0], url, str(rows), str(rate)) as writer:
                first = last = 0.0
                for last, created in arrivals(consumer, rows):
                    first = first or last
                    seen.append(last - created)
                ended = f"(relay: {relay.poll()}, writer: {writer.poll()})"
                assert len(seen) >= rows, f"{len(seen)} of {rows} events arrived {ended}"
    return sorted(seen), len(seen) / (last - first)


def arrivals(consumer: Consumer, count: int) -> Iterator[tuple[float, float]]:
    """When each event arrived and when it was created, until so many came or none did for half a minute."""
    came, quiet_since = 0, time.monotonic()
    while came < count and time.monotonic() - quiet_since < 30:
        message = consumer.poll(0.1)  # one at a time: ``consume`` waits for more
        if message is not None:
            assert message.error() is None, message.error()
            yield time.time(), message.timestamp()[1] / 1000
            came, quiet_since = came + 1, time.monotonic()


def _end(consumer: Consumer, number: int) -> int:
    low_and_high = consumer.get_watermark_offsets(TopicPartition(TOPIC, number), timeout=30)
    assert low_and_high is not None
    return low_and_high[1]


def drained(url: str, bootstrap: str, rows: int) -> float:
    """Rows per second that one relay takes out."""
    insert(url, rows, None, 1000)
    with closing(Relay(RelaySettings(url), ProducerSettings(KafkaSettings(bootstrap)))) as relay:
        started, done = time.perf_counter(), 0
        while done < rows:
            done += relay.relay_once()
        return rows / (time.perf_counter() - started)


def measured(env: Environment, options: argparse.Namespace) -> dict[str, float]:
    programs = binaries()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    bootstrap = env.text("HEADWATER_KAFKA_BOOTSTRAP")
    make_topic(env)
    with postgres(programs, fsync="on") as url:
        engine = create_engine(url)
        create_outbox(engine)
        engine.dispose()
        rows = round(options.rate * options.seconds) // THREADS * THREADS
        took, rate = latencies(url, bootstrap, rows, options.rate)
        return {
            "rows_per_second": round(rate),
            "p50_ms": round(took[len(took) // 2] * 1000, 1),
            "p99_ms": round(took[len(took) * 99 // 100] * 1000, 1),
            "max_ms": round(took[-1] * 1000, 1),
            "drained_per_second": round(drained(url, bootstrap, options.drain)),
            "rows": rows,
            "drained_rows": options.drain,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=2000.0, help="rows per second")
    parser.add_argument("--seconds", type=float, default=15.0, help="for so long")
    parser.add_argument("--drain", type=int, default=50_000, help="rows that have piled up")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    with servers() as env:
        result = measured(env, options)
    print(
        f"row to topic at {result['rows_per_second']:,}/s: p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms, "
        f"most {result['max_ms']} ms; one relay drains {result['drained_per_second']:,} rows/s"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
