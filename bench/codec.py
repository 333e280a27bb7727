"""What the codec costs on top of bare fastavro: ratios of rates, measured in one process, side by side.

    python bench/codec.py [--runs 15] [--records 5000] [--json]

Each run times every subject once, in turn, in seconds of processor time, so that a slow moment of the machine hits all
of them alike; the ratio is taken within a run, and the median over the runs is reported with its spread. A ratio of 1
is bare fastavro. The subject is one flights.departed event. Encoding includes the check of every field, which bare
fastavro does not do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import fastavro
import msgspec
from fastavro import schemaless_reader, schemaless_writer

from headwater_ops.demo.catalogue import demo_catalogue
from headwater_schemas.codec import Codec
from headwater_schemas.registry import LocalRegistry

TOPIC = "flights.departed"
EVENT: dict[str, Any] = {
    "flight_id": "2013-01-01-UA-1545-EWR",
    "carrier": "UA",
    "flight_number": 1545,
    "origin": "EWR",
    "destination": "IAH",
    "scheduled_departure": datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
    "departed_at": datetime(2013, 1, 1, 10, 17, tzinfo=UTC),
    "delay_minutes": 2,
}


class Flight(msgspec.Struct):
    """The same event, typed."""

    flight_id: str
    carrier: str
    flight_number: int
    origin: str
    destination: str
    scheduled_departure: datetime
    departed_at: datetime
    delay_minutes: int


def subjects() -> dict[str, tuple[Callable[[Any], object], object]]:
    """What is timed: a function and its argument; ``bare …`` are the denominators."""
    codec = Codec(demo_catalogue(), LocalRegistry())
    parsed = fastavro.parse_schema(codec.catalogue.schema("FlightDeparted"))
    encode, decode, decode_typed = codec.encoder(TOPIC), codec.decoder(TOPIC), codec.decoder(TOPIC, Flight)
    framed = encode(EVENT)
    payload, flight = framed[5:], msgspec.convert(EVENT, Flight)

    def bare_encode(event: dict[str, Any]) -> bytes:
        buffer = BytesIO()
        schemaless_writer(buffer, parsed, event)
        return buffer.getvalue()

    def bare_decode(data: bytes) -> object:
        return schemaless_reader(BytesIO(data), parsed, None)

    assert bare_encode(EVENT) == payload, "the codec writes other bytes than fastavro"
    assert decode(framed) == EVENT, "the codec reads other values than it wrote"
    return {
        "bare encode": (bare_encode, EVENT),
        "encode": (encode, EVENT),
        "encode struct": (encode, flight),
        "bare decode": (bare_decode, payload),
        "decode": (decode, framed),
        "decode struct": (decode_typed, framed),
    }


def measure(runs: int, records: int) -> dict[str, list[float]]:
    """Records per second of each subject, one figure per run."""
    timed = subjects()
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for run in range(runs + 1):
        for name, (function, argument) in timed.items():
            start = time.process_time()
            for _ in range(records):
                function(argument)
            if run:  # the first run warms up
                rates[name].append(records / (time.process_time() - start))
    return rates


def summarise(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median rate, and the median, least and greatest ratio to bare fastavro."""
    summary = {}
    for name, figures in rates.items():
        bare = rates["bare encode" if "encode" in name else "bare decode"]
        ratios = [ours / theirs for ours, theirs in zip(figures, bare, strict=True)]
        summary[name] = {
            "per_second": round(statistics.median(figures)),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_min": round(min(ratios), 3),
            "ratio_max": round(max(ratios), 3),
        }
    return summary


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The codec against bare fastavro.")
    parser.add_argument("--runs", type=int, default=15, help="timed runs (default 15)")
    parser.add_argument("--records", type=int, default=5000, help="records per subject and run (default 5000)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    summary = summarise(measure(options.runs, options.records))
    if options.json:
        print(json.dumps(summary, indent=2))
        return
    print(f"{'':<16}{'records/s':>12}{'ratio':>8}{'min':>8}{'max':>8}")
    for name, row in summary.items():
        print(f"{name:<16}{row['per_second']:>12,}{row['ratio']:>8}{row['ratio_min']:>8}{row['ratio_max']:>8}")


if __name__ == "__main__":
    main()
