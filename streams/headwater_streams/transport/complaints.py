"""What librdkafka complains of, in the log: each kind at once, then at most every ten seconds, with its number."""

from __future__ import annotations

import logging
import threading
import time

from confluent_kafka import KafkaError

__all__ = ["Complaints"]

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 10.0


class Complaints:
    """A broker that is away is reported by every connection attempt; nobody needs to read each. Thread-safe."""

    def __init__(self, client: str) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self._until: dict[int, float] = {}

    def add(self, error: KafkaError) -> None:
        """Take one down, and say so when it is time."""
        now = time.monotonic()
        code = error.code()
        with self._lock:
            self._counts[code] = self._counts.get(code, 0) + 1
            if now < self._until.get(code, 0.0):
                return
            self._until[code] = now + _QUIET_SECONDS
            count = self._counts.pop(code)
        times = "" if count == 1 else f" ({count} times)"
        logger.warning("Kafka %s: %s (%s)%s", self._client, error.str(), error.name(), times)
