"""What faults act on: the worker processes of one app, the brokers, the ways between them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException

from headwater_ops.stack import Stack
from headwater_ops.testing.network import WAYS, Network
from headwater_ops.testing.verdict import Verdict
from headwater_schemas.admin import Admin
from headwater_schemas.errors import UsageError
from headwater_schemas.settings import KafkaSettings

__all__ = ["Launch", "Worker", "World"]

_GRACE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Launch:
    """How a worker is started.

    Args:
        command: the program and its arguments.
        folder: where each worker's log goes.
        cwd: where it runs.
        env: further variables; ``HEADWATER_*`` names of this process are not passed on. Each worker gets
            ``HEADWATER_KAFKA_BOOTSTRAP`` and a ``HEADWATER_WORKER_ID``, which is its client id in the group.
    """

    command: Sequence[str]
    folder: Path
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def start(self, member: str, bootstrap: str) -> subprocess.Popen[bytes]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        env |= self.env
        env |= {"HEADWATER_KAFKA_BOOTSTRAP": bootstrap, "HEADWATER_WORKER_ID": member, "PYTHONFAULTHANDLER": "1"}
        with (self.folder / f"{member}.log").open("wb") as log:
            return subprocess.Popen(self.command, env=env, stdout=log, stderr=log, cwd=self.cwd)


@dataclass(frozen=True, slots=True)
class Worker:
    """``member`` is its client id; ``way`` the one of the network's by which it reaches the brokers."""

    process: subprocess.Popen[bytes]
    member: str
    way: str


class World:
    """One app's workers and their surroundings.

    Args:
        group: the consumer group, also the stem of the workers' names.
        topic: whose partitions the group has.
        verdict: is told of takeovers, leader changes, and of faults that had no effect.
        stack: the brokers, if they are ours to kill.
        network: the ways to them, if workers are to go through proxies.
    """

    def __init__(
        self,
        launch: Launch,
        group: str,
        topic: str,
        *,
        bootstrap: str,
        rng: random.Random,
        verdict: Verdict,
        stack: Stack | None = None,
        network: Network | None = None,
    ) -> None:
        self.random = rng
        self.workers: list[Worker] = []
        self._launch = launch
        self._group = group
        self._topic = topic
        self._bootstrap = bootstrap
        self._admin = Admin(KafkaSettings(bootstrap))
        self._verdict = verdict
        self._stack = stack
        self._network = network
        self._started = 0
        self._ending: list[Worker] = []  # by SIGTERM

    @property
    def network(self) -> Network:
        if self._network is None:
            raise UsageError("the workers are not behind proxies: there is no network to disturb")
        return self._network

    @property
    def stack(self) -> Stack:
        if self._stack is None:
            raise UsageError("the brokers are not of an embedded stack: they cannot be killed")
        return self._stack

    def start_worker(self) -> None:
        """One more worker, with an identity of its own, on the way that fewer take."""
        self._started += 1
        member = f"{self._group}-w{self._started}"
        way = min(WAYS, key=lambda way: sum(worker.way == way for worker in self.workers))
        bootstrap = self._network.bootstrap(way) if self._network else self._bootstrap
        self.workers.append(Worker(self._launch.start(member, bootstrap), member, way))

    def signal_worker(self, number: int) -> Worker:
        """Send a signal to any worker. Ended ones are no longer among ``workers``; SIGTERM is not waited for."""
        worker = self.random.choice(self.workers)
        worker.process.send_signal(number)
        if number != signal.SIGSTOP:
            self.workers.remove(worker)
            if number == signal.SIGTERM:
                self._ending.append(worker)
            else:
                worker.process.wait()
        return worker

    def scale(self, workers: int) -> None:
        while len(self.workers) > workers:
            self.signal_worker(signal.SIGTERM)
        while len(self.workers) < workers:
            self.start_worker()

    def stop(self) -> None:
        """End every worker, gently first. One that does not end keeps its partitions for ever: the verdict counts it,
        and its log shows where it stands."""
        for worker in self.workers:
            worker.process.send_signal(signal.SIGCONT)
            worker.process.terminate()
        for worker in (*self._ending, *self.workers):
            try:
                worker.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._verdict.unended += 1
                self._verdict.violations.append(f"{worker.member} did not end by SIGTERM within {_GRACE:.0f} s")
                worker.process.send_signal(signal.SIGABRT)
                worker.process.wait()

    def pick_way(self) -> tuple[str, list[Worker]]:
        """A way that some of the workers take, and these; there are others on another way."""
        while len({worker.way for worker in self.workers}) < len(WAYS):
            self.start_worker()
        way = self.random.choice(WAYS)
        return way, [worker for worker in self.workers if worker.way == way]

    def await_takeover(self, workers: Iterable[Worker], seconds: float = 40.0) -> None:
        """Wait until the group has given every partition to others than these; the verdict counts it."""
        away = {worker.member for worker in workers}
        if away.issuperset(worker.member for worker in self.workers):
            self.start_worker()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            held = self._assignment()
            if away.isdisjoint(held) and 0 < sum(held.values()) == len(self._leaders()):
                self._verdict.takeovers += 1
                return
            time.sleep(0.5)
        self._without_effect(f"nobody took the partitions of {', '.join(sorted(away))} over within {seconds:.0f} s")

    def kill_broker(self) -> str:
        brokers = [part.name for part in self.stack.status() if part.name.startswith("broker-")]
        broker = self.random.choice(brokers)
        self.stack.kill(broker, signal.SIGKILL)
        return broker

    def start_broker(self, name: str) -> None:
        self.stack.start(name)

    def kill_leader(self, seconds: float = 30.0) -> str:
        """Kill the leader of a partition of the topic and wait until another leads; the verdict counts it."""
        leaders = self._leaders()
        partition = self.random.choice(sorted(leaders))
        leader = leaders[partition]
        broker = f"broker-{leader}"
        self.stack.kill(broker, signal.SIGKILL)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._leaders().get(partition, -1) not in (leader, -1):
                self._verdict.leader_changes += 1
                return broker
            time.sleep(0.2)
        self._without_effect(f"nobody led partition {partition} after {broker} within {seconds:.0f} s")
        return broker

    def _without_effect(self, what: str) -> None:
        self._verdict.without_effect += 1
        self._verdict.violations.append(what)

    def _assignment(self) -> dict[str, int]:
        """Partitions of the topic by member, as the group's coordinator tells it; empty while none tells."""
        try:
            described = self._admin.groups([self._group])[self._group].result(timeout=10)
        except KafkaException:  # a broker that has just come back is no coordinator yet, or no longer
            return {}
        return {
            member.client_id: sum(tp.topic == self._topic for tp in member.assignment.topic_partitions)
            for member in described.members
        }

    def _leaders(self) -> dict[int, int]:
        """Leader by partition; empty while no broker tells."""
        try:
            partitions = self._admin.list_topics(self._topic, timeout=10).topics[self._topic].partitions
        except KafkaException:
            return {}
        return {number: partition.leader for number, partition in partitions.items()}
