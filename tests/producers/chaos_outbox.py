"""The outbox under chaos: a service that commits transactions, two relays, and a PostgreSQL; all of them get killed.

The service writes down which events were in a transaction whose commit returned: those are promised. A transaction that
is under way when something dies may be committed or not; its events are neither promised nor lost.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from headwater_producers.outbox import OutboxEvent, create_outbox
from producers.postgres import Postgres, binaries, server

__all__ = ["RELAYS", "OutboxService", "outbox_service"]

RELAYS = 2
HERE = Path(__file__).parent

RELAY = """
import sys, threading
from headwater_producers.outbox import Relay, RelaySettings
from producers.orders import settings_for
Relay(RelaySettings(sys.argv[1], batch=50, poll=0.2), settings_for(sys.argv[2])).run(threading.Event())
"""


class OutboxService:
    """The processes, and the journals of what the service was promised."""

    def __init__(self, folder: Path, bootstrap: str, topic: str, keys: int, database: Postgres) -> None:
        self.database = database
        self.runs = 0
        self.relay_kills = 0
        self._folder = folder
        self._bootstrap = bootstrap
        self._topic = topic
        self._keys = keys
        self._writer: subprocess.Popen[bytes] | None = None
        self._relays: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for number in range(RELAYS):
            self._relays.append(self._relay(number))
        self.start_writer()

    def start_writer(self) -> None:
        self.runs += 1
        arguments = [self.database.url, self._topic, str(self._folder), str(self.runs), str(self._keys)]
        self._writer = self._process(f"writer-{self.runs}", str(HERE / "chaos_writer.py"), *arguments)

    def kill_writer(self) -> None:
        assert self._writer is not None
        self._writer.kill()
        self._writer.wait()

    def kill_relay(self, number: int) -> None:
        """Kill one relay and start another in its place."""
        self.relay_kills += 1
        self._relays[number].kill()
        self._relays[number].wait()
        self._relays[number] = self._relay(number)

    def finish(self, timeout: float) -> None:
        """Write no more, and wait until the outbox is empty."""
        self.kill_writer()
        engine = create_engine(self.database.url)
        deadline = time.monotonic() + timeout
        with Session(engine) as session:
            while waiting := session.scalar(select(func.count()).select_from(OutboxEvent)):
                if time.monotonic() > deadline:
                    errors = [path.read_text()[-2000:] for path in self._folder.glob("relay-*.err")]
                    raise SystemExit(f"{waiting} events stay in the outbox:\n" + "\n".join(errors))
                session.rollback()
                time.sleep(0.1)
        engine.dispose()

    def close(self) -> None:
        for process in (self._writer, *self._relays):
            if process is not None:
                process.kill()
                process.wait()

    def promised(self) -> Iterator[tuple[tuple[int, int], str]]:
        """Each event whose commit returned."""
        for run in range(1, self.runs + 1):
            journal = self._folder / f"{run}.committed"
            for line in journal.read_text().splitlines() if journal.exists() else ():
                yield (run, int(line)), "committed"

    def _relay(self, number: int) -> subprocess.Popen[bytes]:
        return self._process(f"relay-{number}", "-c", RELAY, self.database.url, self._bootstrap)

    def _process(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.err").open("ab") as errors:
            return subprocess.Popen([sys.executable, *arguments], stderr=errors)


@contextmanager
def outbox_service(folder: Path, bootstrap: str, topic: str, keys: int) -> Iterator[OutboxService]:
    """A service with a database of its own, not started yet; everything is gone at the end."""
    programs = binaries()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    with server(programs) as database:
        engine = create_engine(database.url)
        create_outbox(engine)
        engine.dispose()
        service = OutboxService(folder, bootstrap, topic, keys, database)
        try:
            yield service
        finally:
            service.close()
