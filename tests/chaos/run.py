"""Run seeds of faults: ``make chaos ARGS="--seeds 5 --start 1 --json"``. Exit code 1 if any is lost or out of order.

One seed: two workers, a producer that keeps sending numbered events of 40 keys, 1 % poison, 5 % failing, 1 % hopeless,
three faults drawn from the seed; with ``--brokers 3`` also changes of a partition's leader. Then everything must
settle; a file of effects and the log are judged. ``--engine faust`` does the same to a plain Faust app.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from chaos.events import HEALTHY, HOPELESS, codec_for, event_of, failures_of, is_poison, value_of
from chaos.letters import read_dead
from headwater_ops.stack import Stack
from headwater_ops.testing.faults import FAULTS, draw
from headwater_ops.testing.network import Network
from headwater_ops.testing.verdict import Event, Verdict, judge, read_effects
from headwater_ops.testing.world import Launch, World

__all__ = ["Plan", "main", "run_seed"]

KEYS = 40
PARTITIONS = 4
RATE = 600  # events per second
QUIET_SECONDS = 90.0  # without a new effect: what has none by then is lost
BROKER = {"group.consumer.session.timeout.ms": "5000"}  # so that a frozen worker is soon given up


@dataclass(frozen=True, slots=True)
class Plan:
    """What every seed of a run has in common.

    Args:
        events: at least so many are sent; sending goes on until the faults are over.
        only: names of faults; empty means any.
        healthy: no poison, and no handler fails.
        engine: ``headwater`` or ``faust``, the latter with so many streams of an agent at once.
    """

    events: int = 6000
    faults: int = 3
    only: tuple[str, ...] = ()
    healthy: bool = False
    engine: str = "headwater"
    concurrency: int = 1

    def command(self, group: str, topic: str, failures: int) -> list[str]:
        arguments = [group, topic, str(failures)]
        if self.engine == "faust":
            return [sys.executable, "-m", "chaos.faust_worker", *arguments, str(self.concurrency)]
        return [sys.executable, "-m", "chaos.worker", *arguments]


class Seed:
    """One seed: topic, sender, faults, verdict."""

    def __init__(self, seed: int, plan: Plan, stack: Stack, folder: Path, network: Network | None) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.plan = plan
        self.bootstrap = stack.up("kafka").bootstrap
        self.brokers = sum(part.name.startswith("broker") for part in stack.status())
        self.name = f"chaos-{seed}-{uuid.uuid4().hex[:6]}"
        self.topic = f"{self.name}.steps"
        self.codec = codec_for(self.topic)
        self.folder = folder
        self.effects = folder / f"{self.name}.effects"
        self.failures = HEALTHY if plan.healthy else seed
        self.faults = draw(rng, plan.faults, plan.only, self.brokers, network is not None)
        self.verdict = Verdict(seed, [fault.name for fault in self.faults])
        self.sent: dict[Event, int] = {}
        self.struck: list[float] = []
        self._over = threading.Event()
        launch = Launch(
            plan.command(self.name, self.topic, self.failures),
            folder,
            Path(__file__).parent.parent,
            {
                "HEADWATER_TEST_EFFECTS": str(self.effects),
                "HEADWATER_WORKER_DRAIN": "5s",
                "HEADWATER_WORKER_COMMIT_INTERVAL": "200ms",
            },
        )
        self.world = World(
            launch,
            self.name,
            self.topic,
            bootstrap=self.bootstrap,
            rng=rng,
            verdict=self.verdict,
            stack=stack,
            network=network,
        )

    def run(self) -> Verdict:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, min(3, self.brokers))])[self.topic].result()
        sending = threading.Thread(target=self._send)
        sending.start()
        try:
            self.world.scale(2)
            self._await_effects()
            for fault in self.faults:
                self.struck.append(time.time())
                fault.strike(self.world)
                time.sleep(self.world.random.uniform(1, 3))
            self._over.set()
            sending.join()
            self._settle()
        finally:
            self._over.set()
            sending.join()
            self.world.stop()
        letters = read_dead(self.bootstrap, f"{self.topic}.{self.name}.dlt")
        dead = {event_of(self.codec, self.topic, value) for value in letters}
        doomed = {event for event in self.sent if self._is_doomed(event)}
        known = doomed if self.plan.engine == "headwater" else None  # Faust has no dead letters
        return judge(self.verdict, self.sent, read_effects(self.effects), dead, known, self.struck)

    def _is_doomed(self, event: Event) -> bool:
        return is_poison(self.failures, *event) or failures_of(self.failures, *event) == HOPELESS

    def _send(self) -> None:
        """Send at a steady pace until the faults are over; only what the broker acknowledged counts."""
        rng = random.Random(self.seed + 1)
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 5}
        )
        numbers = dict.fromkeys((f"k{number}" for number in range(KEYS)), 0)
        place = 0
        while place < self.plan.events or not self._over.is_set():
            key = f"k{rng.randrange(KEYS)}"
            event = (key, numbers[key])
            numbers[key] += 1
            value = value_of(self.codec, self.topic, self.failures, event)
            producer.produce(self.topic, value, key.encode(), on_delivery=_noting(event, self.sent))
            producer.poll(0)
            place += 1
            if place % 20 == 0:
                time.sleep(20 / RATE)
        producer.flush(60)

    def _await_effects(self, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.effects.exists():
                return
            time.sleep(0.1)
        raise TimeoutError(f"seed {self.seed}: no effects within {seconds} s; see the logs in {self.folder}")

    def _settle(self) -> None:
        """Wait until every event that can have an effect has it, and the dead letters stand still."""
        expected = {event for event in self.sent if not self._is_doomed(event)}
        size, changed = -1, time.monotonic()
        while time.monotonic() < changed + QUIET_SECONDS:
            if self.effects.stat().st_size != size:
                size, changed = self.effects.stat().st_size, time.monotonic()
                if expected <= {effect.event for effect in read_effects(self.effects)}:
                    time.sleep(4)  # the last hopeless ones take both delays
                    return
            time.sleep(0.5)


def _noting(event: Event, sent: dict[Event, int]) -> Any:
    """A delivery callback that notes what the broker has."""

    def delivered(error: Any, message: Any) -> None:
        if error is None:
            sent[event] = message.partition()

    return delivered


def run_seed(seed: int, plan: Plan, stack: Stack, folder: Path, network: Network | None = None) -> Verdict:
    """One seed on a running stack; with a network its workers reach the brokers through proxies."""
    return Seed(seed, plan, stack, folder, network).run()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--events", type=int, default=6000, help="at least so many; sent until the faults are over")
    parser.add_argument("--faults", type=int, default=3)
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3])
    parser.add_argument("--only", action="append", default=[], choices=[fault.name for fault in FAULTS])
    parser.add_argument("--healthy", action="store_true", help="no poison, and no handler fails")
    parser.add_argument("--engine", default="headwater", choices=["headwater", "faust"])
    parser.add_argument("--concurrency", type=int, default=1, help="of the agent, with --engine faust")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--keep", type=Path, help="keep effects and logs in this folder")
    options = parser.parse_args()
    plan = Plan(
        options.events, options.faults, tuple(options.only), options.healthy, options.engine, options.concurrency
    )
    verdicts = []
    with tempfile.TemporaryDirectory() as temporary, Network(options.brokers) as network:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stack = Stack(
            folder / "stack",
            ports="free",
            brokers=options.brokers,
            advertised=network.advertised,
            broker_properties=BROKER,
        )
        try:
            stack.up("kafka")
            network.connect(stack)
            for seed in range(options.start, options.start + options.seeds):
                verdicts.append(run_seed(seed, plan, stack, folder, network))
                _show(verdicts[-1])
        finally:
            stack.down(wipe=True)
    if options.json:
        print(json.dumps(_summary(verdicts)))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _show(verdict: Verdict) -> None:
    word = "ok  " if verdict.passed else "FAIL"
    print(
        f"{word} seed {verdict.seed}: {verdict.acked} acked, {verdict.lost} lost, "
        f"{verdict.order_violations} out of order, "
        f"{verdict.duplicates} repeated, {verdict.wrong_deaths} wrong deaths, "
        f"{verdict.takeovers} takeovers, {verdict.leader_changes} leader changes, "
        f"longest pause of a partition {verdict.recovery_seconds:.1f} s "
        f"[{', '.join(verdict.faults)}]",
        file=sys.stderr,
        flush=True,
    )
    for violation in verdict.violations:
        print(f"     {violation}", file=sys.stderr)


def _summary(verdicts: list[Verdict]) -> dict[str, Any]:
    return {
        "seeds": len(verdicts),
        "acked": sum(verdict.acked for verdict in verdicts),
        "lost": sum(verdict.lost for verdict in verdicts),
        "order_violations": sum(verdict.order_violations for verdict in verdicts),
        "duplicates": sum(verdict.duplicates for verdict in verdicts),
        "wrong_deaths": sum(verdict.wrong_deaths for verdict in verdicts),
        "takeovers": sum(verdict.takeovers for verdict in verdicts),
        "leader_changes": sum(verdict.leader_changes for verdict in verdicts),
        "without_effect": sum(verdict.without_effect for verdict in verdicts),
        "recovery_seconds_max": round(max((verdict.recovery_seconds for verdict in verdicts), default=0.0), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
