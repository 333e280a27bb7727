"""Chaos for producers: processes, broker, relays and PostgreSQL are killed and frozen while events are accepted.

    python tests/producers/chaos.py [--seeds 5] [--first 1] [--seconds 25] [--json]

Each seed decides when what is hit. Two services emit at the same time, on topics of their own:

- one by a producer with a spool. It writes down each event once its delivery has resolved: from then on the event is
  promised;
- one by an outbox in PostgreSQL, with two relays. What a transaction holds is promised once its commit has returned.

The services are killed with SIGKILL and started again; so are the relays, PostgreSQL and the broker, which is also
frozen. In the end everything is up, spool and outbox drain, and kafka-python, which shares no code with the producer,
reads the topics:

- *lost*: promised, and not on the log;
- *order violations*: an event that stands on the log (for the first time) behind a later one of its key;
- *duplicates*: further copies of an event, which at-least-once allows.

Exits with 1 when anything is lost or out of order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from headwater_ops.stack import Stack
from producers.broker import Broker
from producers.chaos_outbox import RELAYS, OutboxService, outbox_service
from producers.orders import create_topic, read_all

KEYS = 20
EMITTER = Path(__file__).with_name("chaos_emitter.py")

EventId = tuple[int, int]
"""Which run of the emitter, which event of that run; they compare in the order of the emits."""


@dataclass
class Verdict:
    """What the reader saw, of one seed or of all."""

    accepted: int = 0
    spooled: int = 0
    committed: int = 0
    emitter_kills: int = 0
    writer_kills: int = 0
    relay_kills: int = 0
    postgres_kills: int = 0
    broker_kills: int = 0
    broker_freezes: int = 0
    lost: int = 0
    order_violations: int = 0
    duplicates: int = 0

    def add(self, other: Verdict) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class Emitter:
    """The process under test, and the journals of what its runs were promised."""

    def __init__(self, folder: Path, bootstrap: str, topic: str) -> None:
        self._folder = folder
        self._arguments = [bootstrap, topic]
        self._process: subprocess.Popen[bytes] | None = None
        self.runs = 0

    def start(self, *, until_drained: bool = False) -> None:
        self.runs += 1
        arguments = [
            *self._arguments,
            str(self._folder),
            str(self.runs),
            str(KEYS),
            "drain" if until_drained else "emit",
        ]
        with (self._folder / f"{self.runs}.err").open("wb") as errors:
            self._process = subprocess.Popen([sys.executable, EMITTER, *arguments], stderr=errors)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait(self, timeout: float) -> None:
        assert self._process is not None
        try:
            code = self._process.wait(timeout)
        finally:
            self.kill()
        if code:
            raise SystemExit(f"the emitter failed:\n{(self._folder / f'{self.runs}.err').read_text()[-4000:]}")

    def promised(self) -> Iterator[tuple[EventId, str]]:
        """Each event that was accepted, and how."""
        for run in range(1, self.runs + 1):
            journal = self._folder / f"{run}.accepted"
            for line in journal.read_text().splitlines() if journal.exists() else ():
                number, state = line.split()
                yield (run, int(number)), state


Fault = Literal["kill emitter", "kill broker", "freeze broker", "kill writer", "kill relay", "kill postgres"]
_EACH: tuple[Fault, ...] = get_args(Fault)
_OFTEN: tuple[Fault, ...] = ("kill emitter", "freeze broker", "kill relay", "kill postgres")


def plan(dice: random.Random, seconds: float) -> list[tuple[float, Fault, float]]:
    """When, what, and for how long (seconds from the start). Every fault at least once."""
    faults = [*_EACH, *dice.choices(_OFTEN, k=3)]
    dice.shuffle(faults)
    moments = sorted(dice.uniform(1.0, seconds) for _ in faults)
    return [(moment, fault, dice.uniform(0.2, 4.0)) for moment, fault in zip(moments, faults, strict=True)]


class Stage:
    """Everything that can be hit, and the faults."""

    def __init__(self, emitter: Emitter, service: OutboxService, broker: Broker, dice: random.Random) -> None:
        self.emitter = emitter
        self.service = service
        self.broker = broker
        self._dice = dice

    def strike(self, fault: Fault, pause: float) -> None:
        """One fault. Half of those that hit a server hit one of its clients as well before it is back."""
        match fault:
            case "kill emitter":
                self._again(self.emitter.kill, self.emitter.start)
            case "kill writer":
                self._again(self.service.kill_writer, self.service.start_writer)
            case "kill relay":
                self.service.kill_relay(self._dice.randrange(RELAYS))
            case "kill postgres":
                self._away(self.service.database.kill, self.service.database.start, pause, self._hit_relay)
            case "kill broker":
                self._away(self.broker.kill, self.broker.start, pause, self._hit_emitter)
            case "freeze broker":
                self._away(self.broker.freeze, self.broker.thaw, pause, self._hit_emitter)

    def _away(self, hit: Callable[[], None], back: Callable[[], None], pause: float, also: Callable[[], None]) -> None:
        hit()
        time.sleep(pause)
        if self._dice.random() < 0.5:
            also()
            time.sleep(self._dice.uniform(0.0, 2.0))
        back()

    def _hit_emitter(self) -> None:
        self._again(self.emitter.kill, self.emitter.start)

    def _hit_relay(self) -> None:
        self.service.kill_relay(self._dice.randrange(RELAYS))

    @staticmethod
    def _again(kill: Callable[[], None], start: Callable[[], None]) -> None:
        kill()
        start()


def run(seed: int, seconds: float, broker: Broker, folder: Path) -> Verdict:
    dice = random.Random(seed)
    topic = f"chaos.seed-{seed}"
    for name in (topic, f"{topic}.outbox"):
        create_topic(broker.bootstrap, name)
    emitter = Emitter(folder, broker.bootstrap, topic)
    faults = plan(dice, seconds)
    with outbox_service(folder, broker.bootstrap, f"{topic}.outbox", KEYS) as service:
        stage = Stage(emitter, service, broker, dice)
        started = time.monotonic()
        emitter.start()
        service.start()
        for moment, fault, pause in faults:
            time.sleep(max(0.0, moment - (time.monotonic() - started)))
            stage.strike(fault, pause)
        time.sleep(2.0)
        emitter.kill()
        emitter.start(until_drained=True)
        emitter.wait(120.0)
        service.finish(120.0)
    verdict = judge(broker.bootstrap, topic, dict(emitter.promised()))
    verdict.add(judge(broker.bootstrap, f"{topic}.outbox", dict(service.promised())))
    hits = Counter(fault for _, fault, _ in faults)
    verdict.emitter_kills = emitter.runs - 1
    verdict.writer_kills = service.runs - 1
    verdict.relay_kills = service.relay_kills
    verdict.postgres_kills = hits["kill postgres"]
    verdict.broker_kills = hits["kill broker"]
    verdict.broker_freezes = hits["freeze broker"]
    return verdict


def judge(bootstrap: str, topic: str, promised: dict[EventId, str]) -> Verdict:
    seen: set[EventId] = set()
    last: dict[bytes, EventId] = {}
    states = Counter(promised.values())
    verdict = Verdict(accepted=len(promised), spooled=states["spooled"], committed=states["committed"])
    for record in read_all(bootstrap, topic):
        run, _, number = dict(record.headers)["ce_id"].decode().partition("-")
        event = (int(run), int(number))
        if event in seen:
            verdict.duplicates += 1
            continue
        seen.add(event)
        if event < last.get(record.key, (0, 0)):
            verdict.order_violations += 1
        last[record.key] = max(event, last.get(record.key, (0, 0)))
    verdict.lost = len(promised.keys() - seen)
    return verdict


@contextmanager
def one_broker(folder: Path) -> Iterator[Broker]:
    stack = Stack(folder, ports="free")
    try:
        yield Broker(stack)
    finally:
        stack.down(wipe=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seconds", type=float, default=25.0, help="how long faults go on, per seed")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    total = Verdict()
    with tempfile.TemporaryDirectory(prefix="headwater-chaos-") as root, one_broker(Path(root) / "stack") as broker:
        for seed in range(options.first, options.first + options.seeds):
            folder = Path(root) / f"seed-{seed}"
            folder.mkdir()
            verdict = run(seed, options.seconds, broker, folder)
            print(f"seed {seed}: {json.dumps(asdict(verdict))}", flush=True)
            total.add(verdict)
    if options.json:
        print(json.dumps({"seeds": options.seeds, **asdict(total)}))
    if total.lost or total.order_violations or not total.accepted:
        sys.exit(1)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    main()
