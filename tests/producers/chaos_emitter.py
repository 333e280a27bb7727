"""The emitter of the chaos: emits without end, or drains the spool and ends; writes down what it was promised.

python chaos_emitter.py BOOTSTRAP TOPIC FOLDER RUN KEYS emit|drain
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path

from headwater_producers import Delivery, EventProducer, Spool
from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.errors import Unavailable
from headwater_schemas.registry import LocalRegistry
from producers.orders import catalogue_of, order, settings_for

BATCH = 20
PAUSE = 0.01


def write_down(journal: int, waiting: deque[tuple[int, Delivery]]) -> None:
    """Put the events whose delivery has resolved into the journal, which a killed process leaves whole."""
    lines = []
    while waiting and waiting[0][1].done():
        number, delivery = waiting.popleft()
        if delivery.state != "failed":
            lines.append(f"{number} {delivery.state}\n")
    if lines:
        os.write(journal, "".join(lines).encode())


def emit(producer: EventProducer, topic: str, run: int, keys: int, journal: int) -> None:
    waiting: deque[tuple[int, Delivery]] = deque()
    number = 0
    while True:
        for _ in range(BATCH):
            number += 1
            try:
                delivery = producer.emit(topic, order(number), key=f"k-{number % keys}", id=f"{run}-{number}")
            except Unavailable:
                continue
            waiting.append((number, delivery))
        write_down(journal, waiting)
        time.sleep(PAUSE)


def drain(producer: EventProducer, folder: Path) -> None:
    while any(folder.rglob("*.log")):
        time.sleep(0.05)
    producer.close()


def main() -> None:
    bootstrap, topic, folder, run, keys, what = sys.argv[1:]
    spool = Path(folder) / "spool"
    journal = os.open(Path(folder) / f"{run}.accepted", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    producer = EventProducer(
        settings_for(bootstrap, back_pressure=Spool(spool, after=0.5)),
        catalogue_of(TopicSpec(topic, "Order")),
        LocalRegistry(),
        source="chaos",
    )
    if what == "drain":
        drain(producer, spool)
    else:
        emit(producer, topic, int(run), int(keys), journal)


if __name__ == "__main__":
    main()
