"""What the benches of running workers have in common: their processes, steady traffic, what they tell, quantiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from handler import codec_for, order

__all__ = ["Fleet", "Journal", "Traffic", "create_topic", "quantile", "say"]

DRAIN_SECONDS = 40  # a worker drains for 25 s at most


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank: the value that ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def create_topic(bootstrap: str, topic: str, partitions: int, config: dict[str, str] | None = None) -> None:
    """On one broker."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1, config=config or {})])[topic].result()


class Journal:
    """A file to which the workers append lines: one write each, so that lines of several processes stay whole and a
    kill takes none back. Lines are words; what they mean is the bench's business."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.lines: list[list[str]] = []
        path.touch()

    def look(self) -> list[list[str]]:
        """Everything told so far."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]
        self._read += len(whole)
        self.lines += [line.split() for line in whole.decode().splitlines()]
        return self.lines

    def wait(self, found: Callable[[list[list[str]]], bool], seconds: float, what: str) -> None:
        """Until the lines are as wanted.

        Raises:
            SystemExit: they are not within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not found(self.look()):
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.1)

    @staticmethod
    def writer(path: str) -> Callable[[str], None]:
        """For a worker: appends one line."""
        file = os.open(path, os.O_WRONLY | os.O_APPEND)

        def tell(line: str) -> None:
            os.write(file, f"{line}\n".encode())

        return tell


class Fleet:
    """Worker processes of a bench: each runs the script again, with ``--child`` and some arguments."""

    def __init__(self, script: str, bootstrap: str) -> None:
        self._command = [sys.executable, script, "--child"]
        self._bootstrap = bootstrap
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, member: str | None = None) -> subprocess.Popen[bytes]:
        """One more worker. Returns at once.

        Args:
            member: its static member id; ``None`` for a dynamic member.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        environment |= {"HEADWATER_KAFKA_BOOTSTRAP": self._bootstrap, "HEADWATER_WORKER_HTTP": "127.0.0.1:0"}
        environment |= {"PYTHONWARNINGS": "ignore"}
        if member is not None:
            environment["HEADWATER_WORKER_ID"] = member
        self.running.append(subprocess.Popen([*self._command, *arguments], env=environment))
        return self.running[-1]

    def stop(self, worker: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
        """Signal it and wait until it has ended."""
        self.running.remove(worker)
        worker.send_signal(number)
        worker.wait(DRAIN_SECONDS)

    def close(self) -> None:
        """End all of them."""
        for worker in self.running:
            worker.terminate()
        for worker in self.running:
            try:
                worker.wait(DRAIN_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.running.clear()


class Traffic:
    """Orders at a steady rate from a thread of its own. Each is due at a fixed time, whether sending keeps up or not.

    Args:
        rate: events per second.
        place: an order's key and partition by its number; partition -1 lets the key decide.
        change: of an order what differs, by its number.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        rate: float,
        place: Callable[[int], tuple[str, int]],
        change: Callable[[int], dict[str, Any]] = lambda _: {},
    ) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 2, "partitioner": "murmur2_random", "log_level": 0}
        )
        self._topic = topic
        self._rate = rate
        self._place = place
        self._change = change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    @contextmanager
    def flowing(self) -> Iterator[Traffic]:
        """Sends inside the block; everything is on the log after it."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        encode = codec_for(self._topic).encoder(self._topic)
        started = time.monotonic()
        while not self._stop.wait(0.002):
            while started + self.sent / self._rate <= time.monotonic():
                key, partition = self._place(self.sent)
                value = encode(order(self.sent) | self._change(self.sent))
                self._producer.produce(self._topic, value, key.encode(), partition)
                self.sent += 1
            self._producer.poll(0)
        self._producer.flush()
