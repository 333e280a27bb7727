"""Run seeds of faults: ``make chaos ARGS="--seeds 5 --start 1 --json"``. Exit code 1 if any is lost or out of order.

One seed: two workers, a producer that keeps sending numbered events of 40 keys, 1 % poison, 5 % failing, 1 % hopeless,
three faults drawn from the seed; with ``--brokers 3`` also changes of a partition's leader. Then everything must
settle; a file of effects and the log are judged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from chaos.faults import FAULTS, draw
from chaos.verdict import Event, Verdict, judge, read_dead, read_effects
from chaos.worker import codec_for, failures_of
from headwater_ops.stack import Stack

__all__ = ["main", "run_seed"]

KEYS = 40
PARTITIONS = 4
SETTLE_SECONDS = 120.0
BROKER = {"group.consumer.session.timeout.ms": "5000"}  # so that a frozen worker is soon given up


class Seed:
    """One seed's world: topic, workers, producer, faults."""

    def __init__(
        self, seed: int, stack: Stack, folder: Path, *, events: int, faults: int, only: tuple[str, ...]
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.stack = stack
        self.bootstrap = stack.up("kafka").bootstrap
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})
        self.brokers = sum(part.name.startswith("broker") for part in stack.status())
        self.name = f"chaos-{seed}-{uuid.uuid4().hex[:6]}"
        self.topic = f"{self.name}.steps"
        self.folder = folder
        self.effects = folder / f"{self.name}.effects"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.faults = draw(self.random, faults, only, self.brokers)
        self.verdict = Verdict(seed, [fault.name for fault in self.faults])
        self._members: dict[int, str] = {}
        self.events = events
        self.sent: list[Event] = []
        self.poison: set[Event] = set()
        self.struck: list[float] = []
        self._started = 0

    # -- the world that faults act on -----------------------------------------------------------------------------

    def start_worker(self) -> None:
        """One more worker, with a static identity of its own."""
        self._started += 1
        member = f"{self.name}-w{self._started}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
            "HEADWATER_KAFKA_BOOTSTRAP": self.bootstrap,
            "HEADWATER_WORKER_ID": member,
            "HEADWATER_WORKER_DRAIN": "5s",
            "HEADWATER_WORKER_COMMIT_INTERVAL": "200ms",
        }
        log = (self.folder / f"{member}.log").open("wb")
        command = [sys.executable, "-m", "chaos.worker", self.name, self.topic, str(self.effects), str(self.seed)]
        with log:
            self.workers.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parent.parent)
            )
        self._members[self.workers[-1].pid] = member

    def signal_worker(self, number: int) -> int:
        worker = self.random.choice(self.workers)
        worker.send_signal(number)
        if number != signal.SIGSTOP:
            self.workers.remove(worker)
            if number == signal.SIGTERM:
                threading.Thread(target=worker.wait, daemon=True).start()
            else:
                worker.wait()
        return worker.pid

    def resume_worker(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def await_takeover(self, pid: int, seconds: float = 40.0) -> None:
        """Wait until the group has given every partition to others than this worker; the verdict counts it."""
        frozen = self._members[pid]
        if len(self.workers) < 2:
            self.start_worker()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            held = self._assignment()
            if frozen not in held and sum(held.values()) == PARTITIONS:
                self.verdict.takeovers += 1
                return
            time.sleep(0.5)
        self.verdict.without_effect += 1
        self.verdict.violations.append(f"nobody took the partitions of {frozen} over within {seconds:.0f} s")

    def _assignment(self) -> dict[str, int]:
        """Partitions of the topic by member, as the group's coordinator tells it."""
        described = self.admin.describe_consumer_groups([self.name])[self.name].result(timeout=10)
        return {
            member.client_id: sum(tp.topic == self.topic for tp in member.assignment.topic_partitions)
            for member in described.members
        }

    def scale(self, workers: int) -> None:
        while len(self.workers) > workers:
            self.signal_worker(signal.SIGTERM)
        while len(self.workers) < workers:
            self.start_worker()

    def kill_broker(self) -> str:
        broker = f"broker-{self.random.randint(1, self.brokers)}"
        self.stack.kill(broker, signal.SIGKILL)
        return broker

    def start_broker(self, name: str) -> None:
        self.stack.start(name)

    def kill_leader(self, seconds: float = 30.0) -> str:
        """Kill the leader of a partition of the topic and wait until another leads; the verdict counts it."""
        partition = self.random.randrange(PARTITIONS)
        leader = self._leader(partition)
        broker = f"broker-{leader}"
        self.stack.kill(broker, signal.SIGKILL)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._leader(partition) not in (leader, -1):
                self.verdict.leader_changes += 1
                return broker
            time.sleep(0.2)
        self.verdict.without_effect += 1
        self.verdict.violations.append(f"nobody led partition {partition} after {broker} within {seconds:.0f} s")
        return broker

    def _leader(self, partition: int) -> int:
        try:
            leader: int = self.admin.list_topics(self.topic, timeout=10).topics[self.topic].partitions[partition].leader
        except KafkaException:
            return -1
        return leader

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Verdict:
        self.admin.create_topics([NewTopic(self.topic, PARTITIONS, min(3, self.brokers))])[self.topic].result()
        sending = threading.Thread(target=self._send)
        try:
            self.start_worker()
            self.start_worker()
            sending.start()
            self._await_effects(1)
            for fault in self.faults:
                self.struck.append(time.time())
                fault.strike(self)
                time.sleep(self.random.uniform(1, 3))
            sending.join()
            self._settle()
        finally:
            sending.join()
            self._stop_workers()
        dead = set(map(self._event, read_dead(self.bootstrap, f"{self.topic}.{self.name}.dlt")))
        doomed = {event for event in self.sent if failures_of(self.seed, *event) == 99} | self.poison
        return judge(self.verdict, self.sent, read_effects(self.effects), dead, doomed, self.struck)

    def _send(self) -> None:
        """Send at a steady pace until the faults are over; only what the broker acknowledged counts."""
        rng = random.Random(self.seed + 1)
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "acks": "all", "linger.ms": 5}
        )
        encode = codec_for(self.topic).encoder(self.topic)
        numbers = dict.fromkeys((f"k{number}" for number in range(KEYS)), 0)
        acked: list[Event] = []
        for place in range(self.events):
            key = f"k{rng.randrange(KEYS)}"
            number = numbers[key]
            numbers[key] += 1
            event = (key, number)
            value = encode({"key": key, "number": number})
            if rng.random() < 0.01:
                self.poison.add(event)
                value = b"\x07" + f"{key} {number}".encode()
            producer.produce(self.topic, value, key.encode(), on_delivery=_noting(event, acked))
            producer.poll(0)
            if place % 20 == 0:
                time.sleep(20 / 600)
        producer.flush(60)
        self.sent = acked

    def _event(self, record: tuple[bytes | None, dict[str, bytes]]) -> Event:
        value, _ = record
        assert value is not None
        if value[:1] == b"\x07":
            key, number = value[1:].decode().split()
            return key, int(number)
        decoded: dict[str, Any] = codec_for(self.topic).decoder(self.topic)(value)
        return decoded["key"], decoded["number"]

    def _await_effects(self, count: int, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.effects.exists() and len(self.effects.read_bytes().splitlines()) >= count:
                return
            time.sleep(0.1)
        raise TimeoutError(f"seed {self.seed}: no effects within {seconds} s; see the logs in {self.folder}")

    def _settle(self) -> None:
        """Wait until every event that can have an effect has it, and the dead letters stand still."""
        expected = {event for event in self.sent if failures_of(self.seed, *event) != 99} - self.poison
        end = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < end:
            done = {effect.event for effect in read_effects(self.effects)}
            if expected <= done:
                time.sleep(4)  # the last hopeless ones take both delays
                return
            time.sleep(0.5)

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _noting(event: Event, acked: list[Event]) -> Any:
    """A delivery callback that notes what the broker has."""

    def delivered(error: Any, _: Any) -> None:
        if error is None:
            acked.append(event)

    return delivered


def run_seed(
    seed: int, stack: Stack, folder: Path, *, events: int = 6000, faults: int = 3, only: tuple[str, ...] = ()
) -> Verdict:
    """One seed on a running stack."""
    return Seed(seed, stack, folder, events=events, faults=faults, only=only).run()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--events", type=int, default=6000)
    parser.add_argument("--faults", type=int, default=3)
    parser.add_argument("--brokers", type=int, default=1, choices=[1, 3])
    parser.add_argument("--only", action="append", default=[], choices=[fault.name for fault in FAULTS])
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--keep", type=Path, help="keep effects and logs in this folder")
    options = parser.parse_args()
    verdicts = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stack = Stack(folder / "stack", ports="free", brokers=options.brokers, broker_properties=BROKER)
        try:
            for seed in range(options.start, options.start + options.seeds):
                verdict = run_seed(
                    seed, stack, folder, events=options.events, faults=options.faults, only=tuple(options.only)
                )
                verdicts.append(verdict)
                _show(verdict)
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
        f"longest pause {verdict.recovery_seconds:.1f} s "
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
