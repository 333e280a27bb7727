"""The demo's path, end to end: emit -> handler -> change event -> cache sync -> a reader of Redis sees it.

    python bench/path.py [--runs 5] [--events 60000] [--rate 2000] [--seconds 8] [--json]

Two contenders take turns in every run, each with its worker in a process of its own and the same topics, keys and Avro
contracts; the sender and the reader are this process:

- *headwater*: ``EventProducer.emit``, a batch handler that emits change events, ``sync_cache``, ``EntityCache``; every
  promise on (idempotent, acks=all, schemas checked, versioned applies, offsets committed after all of it).
- *bare*: what one would write by hand, without the promises: fastavro and a producer, a ``consume(500)`` loop that
  produces change events, another that pipelines SETs; offsets committed every second, whatever happened to the rest.

Throughput is the events over the time from the first emit until the last state of every key is visible. Latency is
open loop: events are due at fixed times whether the pipeline keeps up or not, and a sample's time runs from when it was
due until a reader, who looks every millisecond, sees it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import fastavro
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_cache import AvroValues, EntityCache, RedisSettings
from headwater_ops.demo.catalogue import demo_catalogue
from headwater_ops.stack import Endpoints, Stack
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment

PARTITIONS = 4
KEYS = 5_000
EVERY = 40
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def key_of(number: int) -> str:
    """Events go round the keys."""
    return f"2013-01-01-UA-{number % KEYS}-EWR"


def event_of(number: int) -> dict[str, Any]:
    """A flights.departed event; its delay is its number."""
    return {
        "flight_id": key_of(number),
        "carrier": "UA",
        "flight_number": number % KEYS,
        "origin": "EWR",
        "destination": "IAH",
        "scheduled_departure": NOW,
        "departed_at": NOW,
        "delay_minutes": number,
    }


def change_of(key: str, version: int, schema_id: int, payload: bytes) -> dict[str, Any]:
    """A change event that puts ``payload``."""
    return {
        "entity": "flight",
        "key": key,
        "version": version,
        "op": "UPSERT",
        "schema_id": schema_id,
        "value": payload,
        "source": "bench",
        "occurred_at": NOW,
    }


class Names:
    """The topics of one contender in one run, and their codec, the same in every process."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.entity = f"flight-{run}"
        self.events = f"departed.{run}"
        self.changes = f"{self.entity}.changes"
        known = demo_catalogue()
        schemas = [known.schema(name) for name in ("FlightDeparted", "ChangeEvent")]
        topics = [
            TopicSpec(self.events, "FlightDeparted", partitions=PARTITIONS),
            TopicSpec(self.changes, "ChangeEvent", partitions=PARTITIONS),
        ]
        self.catalogue = Catalogue.of(topics=topics, schemas=schemas)
        self.codec = Codec(self.catalogue, LocalRegistry())
        for topic in (self.events, self.changes):  # ids are given in this order, everywhere
            self.codec.encoder(topic)

    def values(self) -> AvroValues:
        """States of flights: the event itself."""
        return AvroValues(self.codec.encoder(self.events), self.codec.decoder(self.events))


# -- the workers -----------------------------------------------------------------------------------------------------


def headwater_worker(bootstrap: str, redis_url: str, run: str) -> None:
    """Until SIGTERM."""
    import uvloop

    from headwater_ops.worker import run as run_app
    from headwater_streams import RecordBatch, StreamApp
    from headwater_streams.cache_sync import sync_cache

    names = Names(run)
    values = names.values()
    env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, "HEADWATER_WORKER_HTTP": "127.0.0.1:0"})
    app = StreamApp(f"bench-{run}", env=env, catalogue=names.catalogue, codec=names.codec)

    @app.batch_handler(names.events, max_records=500)
    async def fold(batch: RecordBatch) -> None:
        for key, offset, event in zip(batch.keys, batch.offsets, batch.values, strict=True):
            assert key is not None
            batch.emit(names.changes, change_of(key, offset + 1, *values.encode(event)), key=key)

    sync_cache(app, EntityCache[bytes](names.entity, RedisSettings(url=redis_url)))
    uvloop.install()
    run_app(app, "error")


def bare_worker(bootstrap: str, redis_url: str, run: str) -> None:
    """Two loops by hand, in two threads, until SIGTERM."""
    names = Names(run)
    event_schema = fastavro.parse_schema(dict(names.catalogue.schema("FlightDeparted")))
    change_schema = fastavro.parse_schema(dict(names.catalogue.schema("ChangeEvent")))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    def consumer(topic: str) -> Consumer:
        made = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{topic}-bare", "auto.offset.reset": "earliest"})
        made.subscribe([topic])
        return made

    def fold() -> None:
        source = consumer(names.events)
        producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "compression.type": "lz4"})
        while not stopping.is_set():
            for message in source.consume(500, 0.005):
                value: Any = message.value()
                event = fastavro.schemaless_reader(BytesIO(value[5:]), event_schema, None)
                state, change = BytesIO(), BytesIO()
                fastavro.schemaless_writer(state, event_schema, event)
                key: Any = message.key()
                offset: Any = message.offset()
                record = change_of(key.decode(), offset + 1, 1, state.getvalue())
                fastavro.schemaless_writer(change, change_schema, record)
                producer.produce(names.changes, b"\0\0\0\0\2" + change.getvalue(), key=key)
            producer.poll(0)
        source.close()

    def sync() -> None:
        source = consumer(names.changes)
        with redis.Redis.from_url(redis_url) as client:
            while not stopping.is_set():
                if messages := source.consume(500, 0.005):
                    pipeline = client.pipeline(transaction=False)
                    for message in messages:
                        value: Any = message.value()
                        change: Any = fastavro.schemaless_reader(BytesIO(value[5:]), change_schema, None)
                        pipeline.set(f"{names.entity}:{change['key']}", change["value"])
                    pipeline.execute()
        source.close()

    threads = [threading.Thread(target=loop) for loop in (fold, sync)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- the sender and the reader ---------------------------------------------------------------------------------------


class Client(Protocol):
    """One contender as this process uses it."""

    def emit(self, number: int) -> None:
        """Send one event; may return before it is on the log."""

    def flush(self) -> None:
        """Until everything is on the log."""

    def visible(self, keys: Sequence[str]) -> dict[str, int]:
        """The number of the newest event that a reader sees, by key."""


class HeadwaterClient:
    """The product."""

    def __init__(self, names: Names, endpoints: Endpoints, stack: ExitStack) -> None:
        settings = ProducerSettings.from_env(Environment({"HEADWATER_KAFKA_BOOTSTRAP": endpoints.bootstrap}))
        self._producer = stack.enter_context(EventProducer(settings, names.catalogue, names.codec, source="bench"))
        self._view: EntityCache[Any] = stack.enter_context(
            EntityCache(names.entity, RedisSettings(url=endpoints.redis_url), values=names.values(), cold="miss")
        )
        self._topic = names.events

    def emit(self, number: int) -> None:
        self._producer.emit(self._topic, event_of(number), key=key_of(number))

    def flush(self) -> None:
        self._producer.flush()

    def visible(self, keys: Sequence[str]) -> dict[str, int]:
        return {key: state["delay_minutes"] for key, state in self._view.get_many(keys).items()}


class BareClient:
    """The same by hand."""

    def __init__(self, names: Names, endpoints: Endpoints, stack: ExitStack) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": endpoints.bootstrap,
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._schema = fastavro.parse_schema(dict(names.catalogue.schema("FlightDeparted")))
        self._redis = stack.enter_context(redis.Redis.from_url(endpoints.redis_url))
        self._names = names

    def emit(self, number: int) -> None:
        buffer = BytesIO()
        fastavro.schemaless_writer(buffer, self._schema, event_of(number))
        self._producer.produce(self._names.events, b"\0\0\0\0\1" + buffer.getvalue(), key=key_of(number).encode())
        self._producer.poll(0)

    def flush(self) -> None:
        self._producer.flush()

    def visible(self, keys: Sequence[str]) -> dict[str, int]:
        found: Any = self._redis.mget([f"{self._names.entity}:{key}" for key in keys])
        states = {key: value for key, value in zip(keys, found, strict=True) if value is not None}
        return {key: self._read(value)["delay_minutes"] for key, value in states.items()}

    def _read(self, value: bytes) -> Any:
        return fastavro.schemaless_reader(BytesIO(value), self._schema, None)


CLIENTS: dict[str, Callable[[Names, Endpoints, ExitStack], Client]] = {
    "headwater": HeadwaterClient,
    "bare": BareClient,
}
WORKERS = {"headwater": headwater_worker, "bare": bare_worker}


def throughput(client: Client, first: int, events: int) -> float:
    """Events per second, from the first emit until the last state of every key is visible."""
    started = time.perf_counter()
    for number in range(first, first + events):
        client.emit(number)
    client.flush()
    await_all(client, first + events)
    return events / (time.perf_counter() - started)


def await_all(client: Client, end: int) -> None:
    """Until a reader sees the last event of every key; fails after two minutes."""
    wanted = {key_of(number): number for number in range(max(0, end - KEYS), end)}
    deadline = time.monotonic() + 120
    while wanted:
        keys = list(wanted)[:500]
        for key, number in client.visible(keys).items():
            if number >= wanted[key]:
                del wanted[key]
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(wanted)} keys are not visible after two minutes")
        if len(wanted) >= len(keys):
            time.sleep(0.002)


def latencies(client: Client, first: int, rate: float, duration: float) -> list[float]:
    """Milliseconds from due to visible, of every fortieth event."""
    waiting: deque[tuple[str, int, float]] = deque()
    found: list[float] = []
    started = time.perf_counter()
    sent, total = 0, int(rate * duration)
    while sent < total or waiting:
        now = time.perf_counter()
        while sent < total and now >= started + sent / rate:
            client.emit(first + sent)
            if sent % EVERY == 0:
                waiting.append((key_of(first + sent), first + sent, started + sent / rate))
            sent += 1
        if waiting:
            states = client.visible([key for key, _, _ in waiting])
            now = time.perf_counter()
            seen = [sample for sample in waiting if states.get(sample[0], -1) >= sample[1]]
            found.extend((now - due) * 1000 for _, _, due in seen)
            waiting = deque(sample for sample in waiting if sample not in seen)
            if waiting and now > started + duration + 60:
                raise SystemExit(f"{len(waiting)} samples are not visible a minute after the last event")
        time.sleep(0.001)
    return found


def run(name: str, endpoints: Endpoints, options: argparse.Namespace) -> dict[str, float]:
    """One contender, once."""
    names = Names(f"{name}-{uuid.uuid4().hex[:8]}")
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap})
    for future in admin.create_topics([NewTopic(t, PARTITIONS, 1) for t in (names.events, names.changes)]).values():
        future.result()
    command = [sys.executable, __file__, "--child", name, endpoints.bootstrap, endpoints.redis_url, names.run]
    worker = subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    try:
        with ExitStack() as stack:
            client = CLIENTS[name](names, endpoints, stack)
            warm = 2 * KEYS
            throughput(client, 0, warm)  # until the worker has its partitions, and everything is warm
            cpu = processor_seconds(worker.pid)
            rate = throughput(client, warm, options.events)
            cpu = processor_seconds(worker.pid) - cpu
            times = sorted(latencies(client, warm + options.events, options.rate, options.seconds))
    finally:
        worker.terminate()
        worker.wait(40)
    return {
        "rate": rate,
        "worker_us": cpu / options.events * 1e6,
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
    }


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(measured: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians over the runs; ratios within a run."""
    ours, bare = measured["headwater"], measured["bare"]
    ratios = [mine["rate"] / theirs["rate"] for mine, theirs in zip(ours, bare, strict=True)]

    def median(runs: list[dict[str, float]], figure: str) -> float:
        return round(statistics.median(one[figure] for one in runs), 1)

    return {
        "runs": len(ours),
        "events_per_second": median(ours, "rate"),
        "bare_events_per_second": median(bare, "rate"),
        "ratio_to_bare_loop": round(statistics.median(ratios), 3),
        "ratio_to_bare_loop_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "worker_us_per_event": median(ours, "worker_us"),
        "bare_worker_us_per_event": median(bare, "worker_us"),
        "latency_rate": options.rate,
        "emit_to_visible_p50_ms": median(ours, "p50"),
        "emit_to_visible_p99_ms": median(ours, "p99"),
        "bare_emit_to_visible_p50_ms": median(bare, "p50"),
        "bare_emit_to_visible_p99_ms": median(bare, "p99"),
    }


def main() -> None:
    if "--child" in sys.argv:
        name, bootstrap, redis_url, run_name = sys.argv[sys.argv.index("--child") + 1 :]
        WORKERS[name](bootstrap, redis_url, run_name)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--events", type=int, default=60_000, help="of the throughput part")
    parser.add_argument("--rate", type=float, default=2000, help="events per second of the latency part")
    parser.add_argument("--seconds", type=float, default=8, help="of the latency part")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "stack", ports="free") as stack:
        endpoints = stack.up("kafka", "redis")
        for number in range(options.runs):
            for name in CLIENTS:
                figures = run(name, endpoints, options)
                measured[name].append(figures)
                print(
                    f"run {number + 1}: {name:10} {figures['rate']:8,.0f} events/s, "
                    f"worker {figures['worker_us']:.1f} us each; "
                    f"at {options.rate:,.0f}/s visible after {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms",
                    file=sys.stderr,
                    flush=True,
                )
        stack.down(wipe=True)
    result = summary(measured, options)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
