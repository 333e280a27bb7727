"""Sending the year: references first, then the events in the order of time, poison among them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.entities import AIRLINE, AIRPORT, PLANE, Entities
from headwater_ops.demo.events import count_events, references, replay
from headwater_ops.demo.poison import POISON_RECORDS, Poison, Poisoner
from headwater_ops.demo.topics import FLIGHT_TOPICS
from headwater_ops.demo.visibility import Visibility
from headwater_producers import EventProducer
from headwater_schemas.wire import change_topic

__all__ = ["Sending", "send_references"]

_LOOK_EVERY: Final = 64
_OUTSTANDING: Final = 10_000
"""Events that may be invisible yet before sending pauses."""


def send_references(data: Dataset, producer: EventProducer, entities: Entities) -> int:
    """Put all aircraft, airports and airlines on their change topics; gives their number. Blocks until acknowledged."""
    known = references(data)
    count = 0
    for entity, values in ((PLANE, known.planes), (AIRPORT, known.airports), (AIRLINE, known.airlines)):
        topic = change_topic(entity)
        for key, value in values.items():
            producer.emit(topic, entities.change(entity, key, 1, value), key=key)
            count += 1
    producer.flush()
    return count


class Sending:
    """One replay.

    Args:
        visibility: told of every event. Without a ``rate`` it also sets the pace: sending pauses while 10,000 events
            are not visible yet, so the replay goes as fast as the pipeline follows, and nothing piles up.
        rate: events per second instead; what the pipeline cannot follow piles up on the log.
    """

    def __init__(
        self,
        data: Dataset,
        producer: EventProducer,
        poisoner: Poisoner,
        visibility: Visibility,
        *,
        rate: float | None = None,
    ) -> None:
        self._data = data
        self._producer = producer
        self._poisoner = poisoner
        self._visibility = visibility
        self._rate = rate
        self.total = count_events(data)
        self.sent = 0
        self.planted: list[Poison] = []
        self.started = 0.0

    @property
    def per_second(self) -> float:
        """Events sent per second so far."""
        return self.sent / max(time.monotonic() - self.started, 1e-9)

    def run(self, watch: Callable[[], None]) -> None:
        """Send everything and return when it is acknowledged. ``watch`` is called now and then; it may raise."""
        self.started = time.monotonic()
        emit, emitted = self._producer.emit, self._visibility.emitted
        for event in replay(self._data):
            if self.sent >= self._next_poison and event.topic in FLIGHT_TOPICS:
                record = self._poisoner.make(len(self.planted), event)
                self._producer.emit_raw(record.topic, record.value, record.key)
                self.planted.append(record)
            emit(event.topic, event.value, key=event.key)
            emitted(event)
            self.sent += 1
            if self.sent % _LOOK_EVERY == 0:
                self._keep_pace()
                watch()
        self._producer.flush()

    @property
    def _next_poison(self) -> float:
        """After how many events the next poison is due; never again once all is planted."""
        planted = len(self.planted)
        return (planted + 0.5) * self.total / POISON_RECORDS if planted < POISON_RECORDS else float("inf")

    def _keep_pace(self) -> None:
        self._visibility.look()
        if self._rate is None:
            while self._visibility.outstanding > _OUTSTANDING:
                time.sleep(0.005)
                self._visibility.look()
        else:
            while (ahead := self.started + self.sent / self._rate - time.monotonic()) > 0:
                time.sleep(min(ahead, 0.005))
                self._visibility.look()
