"""The cache sync: change events into Redis, and how long one takes from its emit to a reader: `make bench-cache-sync`.

    python bench/cache_sync.py [--runs 5] [--events 200000] [--rate 10000] [--seconds 10] [--json]

- *drain*: a topic full of change events (4 partitions, 10,000 keys, payloads of 160 bytes), read to its end by one
  worker process with ``sync_cache``. Its time runs from the first batch to the return of the last apply: everything
  is then in Redis and may be committed. Beside it, in turn, the same by hand and without the promises:
  ``consume(500)``, fastavro, a pipeline of SETs. Ratios are taken within a run.
- *visible*: events are due at fixed times, 10,000 a second, whether anybody keeps up or not; another process emits them
  with ``EventProducer`` (acks=all), the worker applies them, and this process looks every two milliseconds whether a
  sample of one event in fifty shows. A sample's time runs from when it was due. The settings are those of a user who
  wants a short tail: waiting some milliseconds for fuller requests costs the median one and saves a third of the
  processors' time, which then is there when many events wait. Virtual machines stand almost still now and then, and
  the p99 shows it, so a probe (``host.py``) tells for how much of the time, and the p99 of the samples that met no
  such moment stands beside.

Bars: 30,000 events a second and worker; visible p99 below 50 ms.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fleet import quantile
from headwater_cache import ApplyResult, Change, EntityCache, MsgpackValues, TopicPartition
from headwater_ops.stack import Endpoints, Stack
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.partitioner import partition_for
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import Environment
from host import HostSpeed

PARTITIONS = 4
KEYS = 10_000
EVERY = 50
LOOK = 0.002
WARM_UP = 5  # seconds: the broker compiles itself meanwhile
NOTE = "x" * 140
BARS = {"events_per_second": 30_000, "visible_p99_ms": 50}
SETTINGS = {
    "HEADWATER_PRODUCER_LINGER": "3ms",
    "HEADWATER_WORKER_LINGER": "1ms",
    "HEADWATER_WORKER_FETCH_MIN_BYTES": "32768",
    "HEADWATER_WORKER_FETCH_WAIT": "8ms",
}
_VALUES = MsgpackValues[Any]()


def key_of(number: int) -> str:
    """Events go round the keys."""
    return f"2013-01-01-UA-{number % KEYS}-EWR"


def change_of(entity: str, number: int) -> dict[str, Any]:
    """A change event whose value holds its number."""
    return {
        "entity": entity,
        "key": key_of(number),
        "version": 0,
        "op": "UPSERT",
        "schema_id": None,
        "value": _VALUES.encode({"number": number, "note": NOTE})[1],
        "source": "bench",
        "occurred_at": datetime.now(UTC),
    }


def topic_of(entity: str) -> str:
    return f"{entity}.changes"


def codec_for(entity: str) -> Codec:
    """The same in every process."""
    topic = TopicSpec(topic_of(entity), "ChangeEvent", partitions=PARTITIONS)
    codec = Codec(Catalogue.of(topics=[topic], schemas=[Catalogue.load().schema("ChangeEvent")]), LocalRegistry())
    codec.encoder(topic.name)
    return codec


# -- the processes ---------------------------------------------------------------------------------------------------


class Counted(EntityCache[Any]):
    """Tells when it has applied so many events, and what that cost; 0 = never."""

    def __init__(self, entity: str, redis_url: str, wanted: int) -> None:
        super().__init__(entity, redis_url)
        self._wanted = wanted
        self._reached: dict[TopicPartition, int] = {}

    async def aapply_many(
        self, changes: Sequence[Change], *, positions: Mapping[TopicPartition, int] | None = None
    ) -> list[ApplyResult]:
        if not self._reached:
            self._wall, self._cpu = time.perf_counter(), time.process_time()
        results = await super().aapply_many(changes, positions=positions)
        if self._wanted:
            self._reached.update(positions or {})  # what was read twice counts once
            if sum(self._reached.values()) >= self._wanted:
                report(self._wanted, self._wall, self._cpu)
                self._wanted = 0
        return results


def report(events: int, wall: float, cpu: float) -> None:
    """For the parent process."""
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"rate": events / wall, "cpu_us": cpu / events * 1e6}), flush=True)


def headwater(bootstrap: str, redis_url: str, entity: str, wanted: str) -> None:
    """A worker with the cache sync, until SIGTERM."""
    import uvloop

    from headwater_ops.worker import run as run_app
    from headwater_streams import StreamApp
    from headwater_streams.cache_sync import sync_cache

    codec = codec_for(entity)
    env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, "HEADWATER_WORKER_HTTP": "127.0.0.1:0", **SETTINGS})
    app = StreamApp(f"{entity}-sync", env=env, catalogue=codec.catalogue, codec=codec)
    sync_cache(app, Counted(entity, redis_url, int(wanted)))
    uvloop.install()
    run_app(app, "error")


def bare(bootstrap: str, redis_url: str, entity: str, wanted: str) -> None:
    """The same by hand: a blind SET of what comes."""
    schema = fastavro.parse_schema(dict(Catalogue.load().schema("ChangeEvent")))
    settings = {"group.id": f"{entity}-bare", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    source = Consumer({"bootstrap.servers": bootstrap, **settings})  # commits nothing: the next run reads it all again
    source.subscribe([topic_of(entity)])
    seen, wall, cpu = 0, 0.0, 0.0
    with redis.Redis.from_url(redis_url) as client:
        while seen < int(wanted):
            messages = source.consume(500, 1.0)
            if messages and not seen:
                wall, cpu = time.perf_counter(), time.process_time()
            pipeline = client.pipeline(transaction=False)
            for message in messages:
                value: Any = message.value()
                change: Any = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
                pipeline.set(f"bare:{entity}:{change['key']}", change["value"])
            pipeline.execute()
            seen += len(messages)
    report(seen, wall, cpu)
    source.close()


def sender(bootstrap: str, entity: str, rate: str, seconds: str, start: str) -> None:
    """Emits events when they are due."""
    from headwater_producers import EventProducer, ProducerSettings

    codec, topic = codec_for(entity), topic_of(entity)
    settings = ProducerSettings.from_env(Environment({"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, **SETTINGS}))
    with EventProducer(settings, codec.catalogue, codec, source="bench") as producer:
        began, each, total = float(start), float(rate), int(float(rate) * float(seconds))
        sent = 0
        while sent < total:
            due = min(total, int((time.monotonic() - began) * each))
            for number in range(sent, due):
                producer.emit(topic, change_of(entity, number), key=key_of(number))
            sent = max(sent, due)
            time.sleep(0.001)


CHILDREN: dict[str, Callable[..., None]] = {"headwater": headwater, "bare": bare, "sender": sender}


def child(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", name, *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}, **options)


def stop(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGTERM)
    worker.wait(40)


# -- measuring -------------------------------------------------------------------------------------------------------


def made_topic(bootstrap: str) -> str:
    """An entity whose topic is there and empty."""
    entity = f"flight-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic_of(entity), PARTITIONS, 1)])[topic_of(entity)].result()
    return entity


def fill(bootstrap: str, entity: str, events: int) -> None:
    """Write the events."""
    encode = codec_for(entity).encoder(topic_of(entity))
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for number in range(events):
        producer.produce(topic_of(entity), encode(change_of(entity, number)), key=key_of(number).encode())
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise SystemExit("the broker did not take the events")


def drain(name: str, endpoints: Endpoints, entity: str, events: int) -> dict[str, float]:
    """One contender reads the topic to its end, in a process of its own and an empty Redis."""
    with redis.Redis.from_url(endpoints.redis_url) as client:
        client.flushall()
    worker = child(name, endpoints.bootstrap, endpoints.redis_url, entity, events, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    line = worker.stdout.readline()
    stop(worker)
    if not line:
        raise SystemExit(f"{name} gave no figures")
    if name == "headwater":
        check(endpoints.redis_url, entity, events)
    figures: dict[str, float] = json.loads(line)
    return figures


def check(redis_url: str, entity: str, events: int) -> None:
    """Every key must hold its last event."""
    with EntityCache[Any](entity, redis_url, cold="miss") as view:
        for start in range(max(0, events - KEYS), events, 1000):
            numbers = range(start, min(start + 1000, events))
            found = view.get_many([key_of(number) for number in numbers])
            wrong = [number for number in numbers if found.get(key_of(number), {}).get("number") != number]
            if wrong:
                raise SystemExit(f"{len(wrong)} keys are wrong after the sync, such as that of event {wrong[0]}")


def visible(endpoints: Endpoints, rate: float, seconds: float) -> dict[str, float]:
    """Milliseconds from due to visible. The first seconds warm everything up and do not count."""
    entity = made_topic(endpoints.bootstrap)
    fill(endpoints.bootstrap, entity, PARTITIONS)
    worker = child("headwater", endpoints.bootstrap, endpoints.redis_url, entity, 0, stdout=subprocess.DEVNULL)
    try:
        with EntityCache[Any](entity, endpoints.redis_url, cold="miss") as view:
            deadline = time.monotonic() + 60
            while view.get(key_of(0)) is None:  # it has its partitions
                if time.monotonic() > deadline:
                    raise SystemExit("the worker applied nothing within a minute")
                time.sleep(0.05)
            start = time.monotonic() + 3
            with HostSpeed() as host:
                source = child("sender", endpoints.bootstrap, entity, rate, seconds + WARM_UP, start)
                spans = _watch(view, start, rate, seconds + WARM_UP)
            if source.wait(30):
                raise SystemExit("the sender failed")
    finally:
        stop(worker)
    times = [(seen - due) * 1000 for due, seen in spans]
    steady = [(seen - due) * 1000 for due, seen in spans if host.steady(due, seen)]
    return {
        "visible_p50_ms": quantile(times, 0.5),
        "visible_p99_ms": quantile(times, 0.99),
        "visible_max_ms": max(times),
        "samples": len(times),
        "host_slow_percent": host.slow_percent(start + WARM_UP, start + WARM_UP + seconds),
        "steady_p99_ms": quantile(steady, 0.99) if steady else math.nan,
        "steady_samples": len(steady),
    }


def _watch(view: EntityCache[Any], start: float, rate: float, seconds: float) -> list[tuple[float, float]]:
    """When each sample was due and when it was seen, without those of the warm-up.

    Looks at the first sample that is due of each partition alone, since they show in order: so that a look costs the
    same however late they are.
    """
    samples = deque(range(EVERY, int(rate * seconds), EVERY))
    waiting: list[deque[int]] = [deque() for _ in range(PARTITIONS)]
    found: list[tuple[float, float]] = []
    while samples or any(waiting):
        now = time.monotonic()
        while samples and now >= start + samples[0] / rate:
            number = samples.popleft()
            waiting[partition_for(key_of(number).encode(), PARTITIONS)].append(number)
        heads = [numbers[0] for numbers in waiting if numbers]
        states = view.get_many([key_of(number) for number in heads]) if heads else {}
        now = time.monotonic()
        seen = {number for number in heads if states.get(key_of(number), {}).get("number", -1) >= number}
        found += [(start + number / rate, now) for number in seen if number >= WARM_UP * rate]
        for numbers in waiting:
            if numbers and numbers[0] in seen:
                numbers.popleft()
        if heads and now > start + seconds + 60:
            raise SystemExit(f"{len(heads)} partitions show not all a minute after the last event")
        if not seen:
            time.sleep(LOOK)
    return found


def measure(endpoints: Endpoints, options: argparse.Namespace) -> dict[str, Any]:
    """Both parts in every run; a first drain warms the broker's page cache and is thrown away."""
    entity = made_topic(endpoints.bootstrap)
    fill(endpoints.bootstrap, entity, options.events)
    drains: dict[str, list[dict[str, float]]] = {"bare": [], "headwater": []}
    shown: list[dict[str, float]] = []
    for number in range(-1, options.runs):
        for name, figures in drains.items():
            drained = drain(name, endpoints, entity, options.events)
            tell(number, name, drained)
            if number >= 0:
                figures.append(drained)
        if number >= 0:
            shown.append(visible(endpoints, options.rate, options.seconds))
            tell(number, "visible", shown[-1])
    pairs = list(zip(drains["headwater"], drains["bare"], strict=True))
    ratios = [ours["rate"] / theirs["rate"] for ours, theirs in pairs]
    return {
        "bench": "cache-sync",
        "runs": options.runs,
        "events": options.events,
        "events_per_second": round(_median(drains["headwater"], "rate")),
        "worker_us_per_event": round(_median(drains["headwater"], "cpu_us"), 2),
        "bare_events_per_second": round(_median(drains["bare"], "rate")),
        "bare_us_per_event": round(_median(drains["bare"], "cpu_us"), 2),
        "ratio_to_bare_loop": round(statistics.median(ratios), 3),
        "ratio_to_bare_loop_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "rate": options.rate,
        **{figure: round(_median(shown, figure), 1) for figure in shown[0]},
        "bars": BARS,
    }


def tell(number: int, name: str, figures: dict[str, float]) -> None:
    line = ", ".join(f"{figure} {value:,.1f}" for figure, value in figures.items())
    print(f"run {number + 1}: {name:10} {line}", file=sys.stderr, flush=True)


def _median(runs: list[dict[str, float]], figure: str) -> float:
    return statistics.median(one[figure] for one in runs)


def main() -> None:
    """Run and print; exit code 1 if a bar is missed."""
    if "--child" in sys.argv:
        name, *arguments = sys.argv[sys.argv.index("--child") + 1 :]
        CHILDREN[name](*arguments)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--events", type=int, default=200_000, help="of the drain")
    parser.add_argument("--rate", type=float, default=10_000, help="events per second of the visible part")
    parser.add_argument("--seconds", type=float, default=10, help="of the visible part")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "stack", ports="free") as stack:
        result = measure(stack.up("kafka", "redis"), options)
        stack.down(wipe=True)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    slow = result["events_per_second"] < BARS["events_per_second"]
    sys.exit(1 if slow or result["visible_p99_ms"] >= BARS["visible_p99_ms"] else 0)


if __name__ == "__main__":
    main()
