"""What every contender of ``bench/handler.py`` has in common: the event, how it is decoded, how it is timed.

Imports nothing of Headwater, since peers with other pins run in an interpreter of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import fastavro

__all__ = ["PARSED", "SCHEMA", "Span", "decode"]

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "customer", "type": "string"},
        {"name": "amount", "type": "double"},
        {"name": "quantity", "type": "int"},
        {"name": "placed_at", "type": "long"},
        {"name": "note", "type": "string"},
    ],
}
PARSED = fastavro.parse_schema(SCHEMA)
_HEADER = 5  # bytes: the wire format's 0x00 and schema id


def decode(value: bytes) -> Any:
    """One event, without looking up its schema."""
    return fastavro.schemaless_reader(BytesIO(value[_HEADER:]), PARSED, None)


class Span:
    """From the first event to the last: wall clock and this process's processor time."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.seen = 0
        self.done: Callable[[], None] = lambda: None

    def hit(self) -> None:
        """One event was handled."""
        if not self.seen:
            self.wall, self.cpu = time.perf_counter(), time.process_time()
        self.seen += 1
        if self.seen == self.wanted:
            self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
            self.done()

    def report(self) -> None:
        """For the parent process."""
        print(json.dumps({"events": self.wanted, "wall": self.wall, "cpu": self.cpu}))
