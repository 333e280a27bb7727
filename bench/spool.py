"""What a producer with a spool accepts while the broker is away, and how fast the spool drains when it is back.

    python bench/spool.py [--records 100000] [--runs 3] [--json]

Accepted means that the delivery resolved: the event is on disk, fsynced. The broker that is away is a port where nobody
listens. Then a second producer on the same folder, with the real broker, sends everything. The spool is made in the
temporary folder of the system: name another disk with TMPDIR. Without ``HEADWATER_KAFKA_BOOTSTRAP`` an embedded stack
is started on free ports and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from emit import EVENTS, KEYS, SCHEMA, TOPIC, make_topic, servers
from headwater_producers import EventProducer, ProducerSettings, Spool
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.registry import LocalRegistry
from headwater_schemas.settings import KafkaSettings

NOWHERE = "127.0.0.1:1"


def producer(bootstrap: str, folder: Path) -> EventProducer:
    settings = ProducerSettings(KafkaSettings(bootstrap), back_pressure=Spool(folder, after=0.2))
    catalogue = Catalogue.of(topics=[TopicSpec(TOPIC, "Emitted")], schemas=[SCHEMA])
    return EventProducer(settings, catalogue, LocalRegistry(), source="bench")


def accept(folder: Path, records: int) -> tuple[float, float]:
    """Events accepted per second of wall clock, and per second of processor time of the process."""
    with producer(NOWHERE, folder) as spooling:
        spooling.emit(TOPIC, EVENTS[0]).result()
        started, cpu = time.perf_counter(), time.process_time()
        for number in range(records):
            delivery = spooling.emit(TOPIC, EVENTS[number % 1000], key=KEYS[number % 1000])
        spooling.flush()
        assert delivery.state == "spooled"
        return records / (time.perf_counter() - started), records / (time.process_time() - cpu)


def drain(bootstrap: str, folder: Path, records: int) -> float:
    started = time.perf_counter()
    with producer(bootstrap, folder):
        _until(lambda: not any(folder.rglob("*.log")))
        return records / (time.perf_counter() - started)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    accepted, by_cpu, drained = [], [], []
    with servers() as env:
        make_topic(env)
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory(prefix="headwater-spool-") as folder:
                wall, cpu = accept(Path(folder), options.records)
                accepted.append(wall)
                by_cpu.append(cpu)
                drained.append(drain(env.text("HEADWATER_KAFKA_BOOTSTRAP"), Path(folder), options.records))
    result = {
        "accepted_per_second": round(statistics.median(accepted)),
        "accepted_per_cpu_second": round(statistics.median(by_cpu)),
        "drained_per_second": round(statistics.median(drained)),
        "runs": options.runs,
        "records": options.records,
    }
    print(
        f"{result['accepted_per_second']:,} events/s accepted on disk ({result['accepted_per_cpu_second']:,} by "
        f"processor time), {result['drained_per_second']:,}/s drained"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
