"""Bytes of Redis memory per entry: `make bench-cache-memory ARGS=--json`.

The same records as plain keys and as entries of the cache, each in a fresh server: what ``used_memory`` grew by, over
the number of records. A plain key has no version, no expiries and no schema id, so it is what the promises cost.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import redis

from cache.redis_server import RedisServer
from headwater_cache import Change, EntityCache, log_version

BATCH = 500
SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Flight",
        "fields": [
            {"name": "flight_id", "type": "string"},
            {"name": "carrier", "type": "string"},
            {"name": "origin", "type": "string"},
            {"name": "destination", "type": "string"},
            {"name": "scheduled", "type": "long"},
            {"name": "departed", "type": ["null", "long"]},
            {"name": "delay", "type": ["null", "int"]},
            {"name": "tail", "type": ["null", "string"]},
            {"name": "distance", "type": "int"},
            {"name": "status", "type": {"type": "enum", "name": "Status", "symbols": ["SCHEDULED", "DEPARTED"]}},
        ],
    }
)


def record(number: int) -> dict[str, Any]:
    """A flight, as the demo has 336,776 of them."""
    return {
        "flight_id": f"2013-{1 + number % 12:02d}-{1 + number % 28:02d}-UA-{number:04d}-EWR",
        "carrier": "UA",
        "origin": "EWR",
        "destination": "IAH",
        "scheduled": 1_357_000_000_000 + number * 60_000,
        "departed": 1_357_000_120_000 + number * 60_000,
        "delay": number % 90,
        "tail": f"N{10_000 + number % 4000}",
        "distance": 1400,
        "status": "DEPARTED",
    }


def avro(of: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, of)
    return out.getvalue()


ENCODINGS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "JSON": lambda of: json.dumps(of).encode(),
    "msgpack": msgspec.msgpack.encode,
    "Avro": avro,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    found = [
        {"encoding": encoding, "payload": _payload(encoding, arguments.entries), **_both(encoding, arguments.entries)}
        for encoding in ENCODINGS
    ]
    if arguments.json:
        print(json.dumps({"bench": "cache-memory", "entries": arguments.entries, "bytes": found}))
        return
    print(f"{'':>10}  {'payload':>8}  {'plain key':>10}  {'cache entry':>12}  bytes, {arguments.entries} records")
    for of in found:
        print(f"{of['encoding']:>10}  {of['payload']:>8}  {of['plain']:>10}  {of['entry']:>12}")


def _payload(encoding: str, count: int) -> float:
    return round(sum(len(ENCODINGS[encoding](record(number))) for number in range(count)) / count, 1)


def _both(encoding: str, count: int) -> dict[str, float]:
    return {"plain": _grown(encoding, count, _plain), "entry": _grown(encoding, count, _cached)}


def _grown(encoding: str, count: int, fill: Callable[[str, Iterator[list[tuple[str, bytes]]]], None]) -> float:
    with tempfile.TemporaryDirectory(prefix="headwater-memory-") as folder:
        server = RedisServer(Path(folder))
        try:
            with server.client() as client:
                before = client.info("memory")["used_memory"]
                fill(server.url, _batches(encoding, count))
                grown: int = client.info("memory")["used_memory"] - before
                return round(grown / count, 1)
        finally:
            server.kill()


def _batches(encoding: str, count: int) -> Iterator[list[tuple[str, bytes]]]:
    encode = ENCODINGS[encoding]
    for start in range(0, count, BATCH):
        yield [(of["flight_id"], encode(of)) for of in map(record, range(start, min(start + BATCH, count)))]


def _plain(url: str, batches: Iterator[list[tuple[str, bytes]]]) -> None:
    with redis.Redis.from_url(url) as client:
        for batch in batches:
            with client.pipeline(transaction=False) as pipe:
                for key, payload in batch:
                    pipe.set(f"flight:{key}", payload)
                pipe.execute()


def _cached(url: str, batches: Iterator[list[tuple[str, bytes]]]) -> None:
    with EntityCache[Any]("flight", url) as cache:
        for number, batch in enumerate(batches):
            cache.apply_many([Change(key, log_version(0, number), payload) for key, payload in batch], positions={})


if __name__ == "__main__":
    main()
