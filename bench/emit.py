"""What `emit` costs on top of the bare loop: events per second until all are acknowledged, side by side in one run.

    python bench/emit.py [--runs 7] [--records 20000] [--json]

The bare loop is the least that sends an Avro event and learns of its delivery: fastavro, ``produce`` with a callback,
``poll`` every 100 records, ``flush``; no headers, no check of the value, nobody to wait for a single event. The second
bare loop sends the same six CloudEvents headers as ``emit`` does. In each run every contender sends the same events
once, in turn, to the same topic; the ratio is taken within a run, and its median over the runs is reported. All are
idempotent (acks=all), linger 5 ms and compress with lz4. The second ratio is of processor time of the calling thread,
which a busy machine disturbs less.

Without ``HEADWATER_KAFKA_BOOTSTRAP`` an embedded stack is started on free ports and removed afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from faststream.kafka import KafkaBroker

from headwater_ops.stack import Stack
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.registry import Registry
from headwater_schemas.settings import Environment, RegistrySettings

TOPIC = "bench.emitted"
KEYS = [f"flight-{number}" for number in range(1000)]
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Emitted",
    "namespace": "headwater.bench",
    "fields": [
        {"name": "flight_id", "type": "string"},
        {"name": "carrier", "type": "string"},
        {"name": "origin", "type": "string"},
        {"name": "destination", "type": "string"},
        {"name": "tail_number", "type": ["null", "string"]},
        {"name": "departed_at", "type": "long"},
        {"name": "delay_minutes", "type": ["null", "double"]},
        {"name": "remarks", "type": "string"},
    ],
}
EVENTS: list[dict[str, Any]] = [
    {
        "flight_id": f"2013-01-01-UA-{number:04}-EWR",
        "carrier": "UA",
        "origin": "EWR",
        "destination": "IAH",
        "tail_number": "N14228",
        "departed_at": 1_357_034_220_000_000 + number,
        "delay_minutes": 2.0,
        "remarks": "r" * 110,
    }
    for number in range(1000)
]
HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"6cf0cca950a1abaf3a6b-1000000"),
    ("ce_source", b"bench"),
    ("ce_type", TOPIC.encode()),
    ("ce_time", b"2026-11-24T09:30:00.250Z"),
    ("content-type", b"application/avro"),
]

Contender = Callable[[int], None]
"""Sends so many events and returns when all are acknowledged."""


def librdkafka_config(env: Environment) -> dict[str, Any]:
    return ProducerSettings.from_env(env).client_config() | {"log_level": 0}


def confluent_loop(env: Environment, encode: Callable[[Any], bytes | None], headers: list[Any] | None) -> Contender:
    producer = Producer(librdkafka_config(env))
    keys = [key.encode() for key in KEYS]

    def send(records: int) -> None:
        acked = 0

        def delivered(error: object, _message: object) -> None:
            nonlocal acked
            assert error is None, error
            acked += 1

        for number in range(records):
            value = encode(EVENTS[number % 1000])
            while True:
                try:
                    producer.produce(TOPIC, value, keys[number % 1000], on_delivery=delivered, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.01)
            if not number % 100:
                producer.poll(0)
        producer.flush()
        assert acked == records

    return send


def bare(env: Environment, headers: list[Any] | None = None) -> Contender:
    parsed = fastavro.parse_schema(SCHEMA)
    prefix = b"\0\0\0\0\1"

    def encode(event: dict[str, Any]) -> bytes:
        buffer = BytesIO()
        buffer.write(prefix)
        fastavro.schemaless_writer(buffer, parsed, event)
        return buffer.getvalue()

    return confluent_loop(env, encode, headers)


def avro_serializer(env: Environment) -> Contender:
    registry = SchemaRegistryClient({"url": RegistrySettings.from_env(env).url})
    serializer = AvroSerializer(registry, json.dumps(SCHEMA))
    context = SerializationContext(TOPIC, MessageField.VALUE)
    return confluent_loop(env, lambda event: serializer(event, context), None)


def headwater(env: Environment, stack: ExitStack) -> Contender:
    catalogue = Catalogue.of(topics=[TopicSpec(TOPIC, "Emitted")], schemas=[SCHEMA])
    registry = Registry(RegistrySettings.from_env(env))
    producer = EventProducer(ProducerSettings.from_env(env), catalogue, registry, source="bench")
    stack.enter_context(producer)

    def send(records: int) -> None:
        for number in range(records):
            delivery = producer.emit(TOPIC, EVENTS[number % 1000], key=KEYS[number % 1000])
        producer.flush()
        assert delivery.state == "acked"

    return send


Send = Callable[[bytes, bytes], Awaitable[Awaitable[object]]]
"""Hands over a value and its key; what it gives is awaited for the acknowledgement."""

Stop = Callable[[], Coroutine[Any, Any, object]]


def aiokafka(env: Environment, stack: ExitStack) -> Contender:
    async def start() -> tuple[Send, Stop]:
        producer = AIOKafkaProducer(bootstrap_servers=env.text("HEADWATER_KAFKA_BOOTSTRAP"), **AIOKAFKA)
        await producer.start()
        return partial(producer.send, TOPIC), producer.stop

    return asyncio_contender(stack, start)


def faststream(env: Environment, stack: ExitStack) -> Contender:
    """Its aiokafka broker, without waiting for each event alone (``no_confirm``)."""
    logging.getLogger("faststream").setLevel(logging.WARNING)

    async def start() -> tuple[Send, Stop]:
        broker = KafkaBroker(env.text("HEADWATER_KAFKA_BOOTSTRAP"), **AIOKAFKA)
        await broker.start()
        return lambda value, key: broker.publish(value, TOPIC, key=key, no_confirm=True), broker.stop

    return asyncio_contender(stack, start)


AIOKAFKA: dict[str, Any] = {
    "enable_idempotence": True,
    "linger_ms": 5,
    "compression_type": "lz4",
    "max_batch_size": 1_000_000,
}


def asyncio_contender(stack: ExitStack, start: Callable[[], Coroutine[Any, Any, tuple[Send, Stop]]]) -> Contender:
    """One on a loop of its own: hands over every event, then waits for all acknowledgements."""
    parsed = fastavro.parse_schema(SCHEMA)
    keys = [key.encode() for key in KEYS]
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    send, stop = loop.run_until_complete(start())
    stack.callback(lambda: loop.run_until_complete(stop()))

    async def work(records: int) -> None:
        sent = []
        for number in range(records):
            buffer = BytesIO()
            buffer.write(b"\0\0\0\0\1")
            fastavro.schemaless_writer(buffer, parsed, EVENTS[number % 1000])
            sent.append(await send(buffer.getvalue(), keys[number % 1000]))
        await asyncio.gather(*sent)

    return lambda records: loop.run_until_complete(work(records))


@dataclass
class Measured:
    """Events per second of wall clock, and of processor time of the calling thread; one entry per run."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(contenders: dict[str, Contender], runs: int, records: int) -> dict[str, Measured]:
    """Every contender in every run; one warm-up round is thrown away."""
    measured = {name: Measured() for name in contenders}
    names = list(contenders)
    for run in range(-1, runs):
        for name in names[run % len(names) :] + names[: run % len(names)]:
            wall, cpu = time.perf_counter(), time.thread_time()
            contenders[name](records)
            if run >= 0:
                measured[name].wall.append(records / (time.perf_counter() - wall))
                measured[name].cpu.append(records / (time.thread_time() - cpu))
    return measured


def ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


@contextmanager
def servers() -> Iterator[Environment]:
    """Settings of the servers: those of the environment, or of a stack of our own."""
    if os.environ.get("HEADWATER_KAFKA_BOOTSTRAP"):
        yield Environment()
        return
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        stack = Stack(Path(folder), ports="free")
        try:
            yield Environment(stack.up().settings())
        finally:
            stack.down(wipe=True)


def make_topic(env: Environment) -> None:
    admin = AdminClient({"bootstrap.servers": env.text("HEADWATER_KAFKA_BOOTSTRAP")})
    kept = {"retention.bytes": "50000000", "segment.bytes": "50000000"}
    for created in admin.create_topics([NewTopic(TOPIC, 4, 1, config=kept)]).values():
        created.result(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    with servers() as env, ExitStack() as stack:
        make_topic(env)
        contenders = {
            "bare loop": bare(env),
            "bare loop, same headers": bare(env, HEADERS),
            "headwater emit": headwater(env, stack),
            "confluent AvroSerializer": avro_serializer(env),
            "aiokafka": aiokafka(env, stack),
            "FastStream": faststream(env, stack),
        }
        measured = measure(contenders, options.runs, options.records)

    bare_loop, emit = measured["bare loop"], measured["headwater emit"]
    print(f"{options.runs} runs of {options.records} events on {sys.platform}, all acknowledged; events/s")
    for name, one in measured.items():
        print(
            f"{name:26} {statistics.median(one.wall):>9,.0f}  {ratio(one.wall, bare_loop.wall):.2f} x bare, "
            f"{ratio(one.cpu, bare_loop.cpu):.2f} by processor time; {min(one.wall):,.0f} – {max(one.wall):,.0f}"
        )
    if options.json:
        result: dict[str, object] = {
            "events_per_second": round(statistics.median(emit.wall)),
            "ratio_to_bare_loop": round(ratio(emit.wall, bare_loop.wall), 3),
            "cpu_ratio_to_bare_loop": round(ratio(emit.cpu, bare_loop.cpu), 3),
            "runs": options.runs,
            "records": options.records,
        }
        for name in ("bare loop, same headers", "confluent AvroSerializer", "aiokafka", "FastStream"):
            label = name.replace(",", "").replace(" ", "_").lower()
            result[f"ratio_to_{label}"] = round(ratio(emit.wall, measured[name].wall), 3)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
