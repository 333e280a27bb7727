"""The service of the outbox's chaos: commits transactions without end, and writes down those whose commit returned.

python chaos_writer.py URL TOPIC FOLDER RUN KEYS
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from headwater_producers.outbox import Outbox
from headwater_schemas.catalogue import TopicSpec
from headwater_schemas.registry import LocalRegistry
from producers.orders import catalogue_of, order

PAUSE = 0.01
AWAY = 0.2


def commit(engine: Engine, outbox: Outbox, topic: str, run: int, keys: int, numbers: range) -> None:
    with Session(engine) as session, session.begin():
        for number in numbers:
            outbox.add(session, topic, order(number), f"k-{number % keys}", id=f"{run}-{number}")


def main() -> None:
    url, topic, folder, run, keys = sys.argv[1:]
    journal = os.open(Path(folder) / f"{run}.committed", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    engine = create_engine(url, pool_pre_ping=True)
    outbox = Outbox(catalogue_of(TopicSpec(topic, "Order")), LocalRegistry(), source="chaos")
    number = 0
    while True:
        numbers = range(number + 1, number + 1 + random.randrange(1, 20))
        number = numbers[-1]  # also when the commit fails: it may have taken place
        try:
            commit(engine, outbox, topic, int(run), int(keys), numbers)
        except SQLAlchemyError:
            time.sleep(AWAY)
            continue
        os.write(journal, "".join(f"{each}\n" for each in numbers).encode())
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
