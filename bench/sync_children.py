"""The processes of the cache sync's bench, Headwater's and the same by hand: who follows a change topic into Redis, and
who sends it events when they are due.

    python bench/sync_children.py NAME ARGUMENTS

A follower that is told how many events are wanted says when it has them all and what that took; it goes on until
SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import fastavro
import redis
from confluent_kafka import Consumer, Producer

from change_events import change_of, codec_for, key_of, topic_of
from headwater_cache import ApplyResult, Change, EntityCache, TopicPartition
from headwater_schemas.catalogue import Catalogue
from headwater_schemas.settings import Environment

__all__ = ["bare_name", "child", "stop"]

LINGER_MS = 3
FETCH_MIN_BYTES = 32_768
FETCH_WAIT_MS = 8
SETTINGS = {
    "HEADWATER_PRODUCER_LINGER": f"{LINGER_MS}ms",
    "HEADWATER_WORKER_LINGER": "1ms",
    "HEADWATER_WORKER_FETCH_MIN_BYTES": str(FETCH_MIN_BYTES),
    "HEADWATER_WORKER_FETCH_WAIT": f"{FETCH_WAIT_MS}ms",
}


def child(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start one of the processes below."""
    command = [sys.executable, __file__, name, *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}, **options)


def stop(follower: subprocess.Popen[str]) -> None:
    follower.send_signal(signal.SIGTERM)
    follower.wait(40)


def bare_name(entity: str, key: str) -> str:
    """Where the follower by hand puts a value."""
    return f"bare:{entity}:{key}"


# -- followers -------------------------------------------------------------------------------------------------------


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
    """A worker with the cache sync."""
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
    """The same by hand: a blind SET of what comes. It commits nothing, so that the next run reads it all again."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    schema = fastavro.parse_schema(dict(Catalogue.load().schema("ChangeEvent")))
    source = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{entity}-bare",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.min.bytes": FETCH_MIN_BYTES,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
        }
    )
    source.subscribe([topic_of(entity)])
    seen, wall, cpu = 0, 0.0, 0.0
    with redis.Redis.from_url(redis_url) as client:
        while not stopping.is_set():
            messages = source.consume(500, 0.005)
            if not messages:
                continue
            if not seen:
                wall, cpu = time.perf_counter(), time.process_time()
            pipeline = client.pipeline(transaction=False)
            for message in messages:
                value: Any = message.value()
                change: Any = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
                pipeline.set(bare_name(entity, change["key"]), change["value"])
            pipeline.execute()
            seen += len(messages)
            if seen >= int(wanted) > 0:
                report(seen, wall, cpu)
                break
    source.close()


# -- senders ---------------------------------------------------------------------------------------------------------


def headwater_sender(bootstrap: str, entity: str, rate: str, seconds: str, start: str) -> None:
    """Emits events when they are due."""
    from headwater_producers import EventProducer, ProducerSettings

    codec, topic = codec_for(entity), topic_of(entity)
    settings = ProducerSettings.from_env(Environment({"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, **SETTINGS}))
    with EventProducer(settings, codec.catalogue, codec, source="bench") as producer:
        for numbers in _due(float(rate), float(seconds), float(start)):
            for number in numbers:
                producer.emit(topic, change_of(entity, number), key=key_of(number))


def bare_sender(bootstrap: str, entity: str, rate: str, seconds: str, start: str) -> None:
    """The same by hand: nobody is told whether an event arrived."""
    schema, topic = fastavro.parse_schema(dict(Catalogue.load().schema("ChangeEvent"))), topic_of(entity)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": LINGER_MS, "partitioner": "murmur2_random"})
    for numbers in _due(float(rate), float(seconds), float(start)):
        for number in numbers:
            out = BytesIO(b"\0\0\0\0\1")
            out.seek(5)
            fastavro.schemaless_writer(out, schema, change_of(entity, number))
            producer.produce(topic, out.getvalue(), key_of(number))
        producer.poll(0)
    producer.flush(30)


def _due(rate: float, seconds: float, start: float) -> Iterator[range]:
    """The numbers that have become due, looked at every two milliseconds."""
    sent, total = 0, int(rate * seconds)
    while sent < total:
        due = min(total, int((time.monotonic() - start) * rate))
        if due > sent:
            yield range(sent, due)
            sent = due
        time.sleep(0.002)


CHILDREN: dict[str, Callable[..., None]] = {
    "headwater": headwater,
    "bare": bare,
    "headwater-sender": headwater_sender,
    "bare-sender": bare_sender,
}

if __name__ == "__main__":
    CHILDREN[sys.argv[1]](*sys.argv[2:])
