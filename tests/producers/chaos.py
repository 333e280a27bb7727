"""Chaos for producers with a spool: the process and the broker are killed and frozen while events are accepted.

    python tests/producers/chaos.py [--seeds 5] [--first 1] [--seconds 25] [--json]

Each seed decides when what is hit. An emitter process writes down each event once its delivery has resolved: from then
on the event is promised. It is killed with SIGKILL and started again; so is the broker, which is also frozen. In the
end the broker is up, a last emitter drains the spool, and kafka-python, which shares no code with the producer, reads
the topic:

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from headwater_ops.stack import Stack
from producers.broker import Broker
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
    emitter_kills: int = 0
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


def plan(dice: random.Random, seconds: float) -> list[tuple[float, str, float]]:
    """When, what, and for how long (seconds from the start)."""
    faults = ["kill emitter", "kill broker", "freeze broker", *dice.choices(["kill emitter", "freeze broker"], k=2)]
    dice.shuffle(faults)
    moments = sorted(dice.uniform(1.0, seconds) for _ in faults)
    return [(moment, fault, dice.uniform(0.2, 4.0)) for moment, fault in zip(moments, faults, strict=True)]


def strike(fault: str, pause: float, emitter: Emitter, broker: Broker, dice: random.Random) -> None:
    """One fault; half of those that hit the broker kill the emitter as well before the broker is back."""
    if fault == "kill emitter":
        emitter.kill()
        emitter.start()
        return
    broker.kill() if fault == "kill broker" else broker.freeze()
    time.sleep(pause)
    if dice.random() < 0.5:
        emitter.kill()
        emitter.start()
        time.sleep(dice.uniform(0.0, 2.0))
    broker.start() if fault == "kill broker" else broker.thaw()


def run(seed: int, seconds: float, broker: Broker, folder: Path) -> Verdict:
    dice = random.Random(seed)
    topic = f"chaos.seed-{seed}"
    create_topic(broker.bootstrap, topic)
    emitter = Emitter(folder, broker.bootstrap, topic)
    faults = plan(dice, seconds)
    started = time.monotonic()
    emitter.start()
    for moment, fault, pause in faults:
        time.sleep(max(0.0, moment - (time.monotonic() - started)))
        strike(fault, pause, emitter, broker, dice)
    time.sleep(2.0)
    emitter.kill()
    emitter.start(until_drained=True)
    emitter.wait(120.0)
    verdict = judge(broker.bootstrap, topic, dict(emitter.promised()))
    verdict.emitter_kills = emitter.runs - 1
    verdict.broker_kills = sum(fault == "kill broker" for _, fault, _ in faults)
    verdict.broker_freezes = sum(fault == "freeze broker" for _, fault, _ in faults)
    return verdict


def judge(bootstrap: str, topic: str, promised: dict[EventId, str]) -> Verdict:
    seen: set[EventId] = set()
    last: dict[bytes, EventId] = {}
    verdict = Verdict(accepted=len(promised), spooled=sum(state == "spooled" for state in promised.values()))
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
