"""A no-op handler with every promise on, against the bare loop and other frameworks: events per second in one run.

    python bench/handler.py [--runs 5] [--records 200000] [--json]
    python bench/handler.py --io        a handler of 5 ms of asynchronous I/O, 1,000 keys, in order

Every contender reads the same topic from its beginning (4 partitions, Avro events of 174 bytes) in a process of its own
and reports the time from its first event to its last, and the processor time of that span. The bare loop is
``consume(1000)`` and fastavro, and commits nothing. Contenders take turns; ratios are taken within a run, and their
median over the runs is reported with the spread. The ratio of processor time is what a busy machine disturbs least.
Faust as shipped reads a tenth of the events, since it is that much slower. Quix Streams and Arroyo take part when the
environment of ``handler_peers.py`` is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from handler_event import PARSED, SCHEMA, Span, decode
from handler_peers import PEERS, interpreter
from headwater_ops.stack import Stack
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry

PARTITIONS = 4
KEYS = 1000
IO_SECONDS = 0.005


def order(number: int) -> dict[str, Any]:
    """One event."""
    return {
        "order_id": f"o-{number}",
        "customer": f"c-{number % KEYS}",
        "amount": number * 1.5,
        "quantity": number % 7,
        "placed_at": number,
        "note": "n" * 130,
    }


def codec_for(topic: str) -> Codec:
    catalogue = Catalogue.of(topics=[TopicSpec(topic, "Order")], schemas=[SCHEMA])
    codec = Codec(catalogue, LocalRegistry())
    codec.encoder(topic)
    return codec


def bare(bootstrap: str, topic: str, records: int) -> None:
    """The least that reads Avro events."""
    span = Span(records)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bare-{uuid.uuid4().hex}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    while span.seen < records:
        for message in consumer.consume(1000, 1.0):
            if message.error() is None:
                value: Any = message.value()
                fastavro.schemaless_reader(BytesIO(value[5:]), PARSED, None)  # without even a call of ``decode``
                span.hit()
    span.report()
    consumer.close()


def headwater(bootstrap: str, topic: str, records: int) -> None:
    """A handler that does nothing."""
    _headwater(bootstrap, topic, records, io=False)


def headwater_io(bootstrap: str, topic: str, records: int) -> None:
    """A handler that waits 5 ms, as for a database."""
    _headwater(bootstrap, topic, records, io=True)


def _headwater(bootstrap: str, topic: str, records: int, *, io: bool) -> None:
    import uvloop

    from headwater_schemas.settings import Environment
    from headwater_streams import StreamApp

    span = Span(records)
    codec = codec_for(topic)

    async def main() -> None:
        env = Environment({"HEADWATER_KAFKA_BOOTSTRAP": bootstrap})
        app = StreamApp(
            f"ours-{uuid.uuid4().hex}",
            env=env,
            catalogue=codec.catalogue,
            codec=codec,
            faust_settings={"web_enabled": False},
        )
        finished = asyncio.Event()
        span.done = finished.set

        if io:

            @app.handler(topic, concurrency=500)
            async def wait(order: dict[str, Any]) -> None:
                await asyncio.sleep(IO_SECONDS)
                span.hit()
        else:

            @app.handler(topic)
            async def nothing(order: dict[str, Any]) -> None:
                span.hit()

        await app.start()
        await finished.wait()
        await app.stop()

    uvloop.run(main())
    span.report()


def faust_as_shipped(bootstrap: str, topic: str, records: int) -> None:
    """An agent on Faust's own aiokafka driver."""
    import faust

    span = Span(records)

    async def main() -> None:
        app = faust.App(
            f"faust-{uuid.uuid4().hex}",
            broker=f"kafka://{bootstrap}",
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            topic_replication_factor=1,
            datadir=tempfile.mkdtemp(),
        )
        finished = asyncio.Event()
        span.done = finished.set

        @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"))
        async def nothing(stream: Any) -> None:
            async for value in stream:
                decode(value)
                if span.seen < records:
                    span.hit()

        app.finalize()
        await app.start()
        await finished.wait()
        span.report()
        sys.stdout.flush()
        os._exit(0)  # Faust takes half a minute to leave its group

    asyncio.run(main())


CONTENDERS = {"bare": bare, "headwater": headwater, "headwater_io": headwater_io, "faust": faust_as_shipped}


def fill(bootstrap: str, topic: str, records: int) -> None:
    """Write the events."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result()
    encode = codec_for(topic).encoder(topic)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    for number in range(records):
        producer.produce(topic, encode(order(number)), key=f"k-{number % KEYS}".encode())
        if number % 10_000 == 0:
            producer.poll(0)
    producer.flush()


def command(name: str) -> list[str]:
    """How a contender is started; its arguments follow."""
    if name in PEERS:
        return [str(interpreter()), str(Path(__file__).with_name("handler_peers.py"))]
    return [sys.executable, __file__, "--child"]


def run(name: str, bootstrap: str, topic: str, records: int) -> dict[str, float]:
    """One contender, once, in a process of its own."""
    arguments = [name, bootstrap, topic, str(records)]
    done = subprocess.run([*command(name), *arguments], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        "rate": figures["events"] / figures["wall"],
        "cpu": figures["cpu"] / figures["events"] * 1e6,
    }


def measure(bootstrap: str, records: int, runs: int, names: dict[str, int]) -> dict[str, list[dict[str, float]]]:
    """Every contender in every run, in turn; a first round warms the broker's page cache and is thrown away."""
    topic = "bench.orders"
    fill(bootstrap, topic, records)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(-1, runs):
        for name, share in names.items():
            figures = run(name, bootstrap, topic, records // share)
            if number >= 0:
                measured[name].append(figures)
                line = f"run {number + 1}: {name:13} {figures['rate']:10,.0f} events/s {figures['cpu']:8.2f} us each"
                print(line, file=sys.stderr, flush=True)
    return measured


def ratios(measured: dict[str, list[dict[str, float]]], ours: str, theirs: str, figure: str) -> list[float]:
    """Ours over theirs, run by run."""
    pairs = zip(measured[ours], measured[theirs], strict=True)
    return [one[figure] / other[figure] for one, other in pairs]


def summary(measured: dict[str, list[dict[str, float]]], ours: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "runs": len(measured[ours]),
        "events_per_second": round(statistics.median(one["rate"] for one in measured[ours])),
    }
    for theirs in measured:
        if theirs != ours:
            label = "bare_loop" if theirs == "bare" else theirs
            found = ratios(measured, ours, theirs, "rate")
            cpu = ratios(measured, theirs, ours, "cpu")
            result[f"{label}_events_per_second"] = round(statistics.median(one["rate"] for one in measured[theirs]))
            result[f"ratio_to_{label}"] = round(statistics.median(found), 3)
            result[f"ratio_to_{label}_spread"] = [round(min(found), 3), round(max(found), 3)]
            result[f"processor_ratio_to_{label}"] = round(statistics.median(cpu), 3)
    return result


def main() -> None:
    if "--child" in sys.argv:
        name, bootstrap, topic, records = sys.argv[sys.argv.index("--child") + 1 :]
        CONTENDERS[name](bootstrap, topic, int(records))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--io", action="store_true", help="5 ms of asynchronous I/O per event")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    ours = "headwater_io" if options.io else "headwater"
    names = {"headwater_io": 1} if options.io else {"bare": 1, "headwater": 1, "faust": 10}
    if not options.io and interpreter() is not None:
        names |= dict.fromkeys(PEERS, 1)
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "stack", ports="free") as stack:
        endpoints = stack.up("kafka")
        result = summary(measure(endpoints.bootstrap, options.records, options.runs, names), ours)
        stack.down(wipe=True)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
