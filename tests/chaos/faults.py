"""The faults: each is one thing that happens to one worker or broker, drawn from a seed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FAULTS", "Fault", "World", "draw"]


class World(Protocol):
    """What faults act on."""

    random: random.Random

    def signal_worker(self, number: int) -> int: ...

    def start_worker(self) -> None: ...

    def resume_worker(self, pid: int) -> None: ...

    def scale(self, workers: int) -> None: ...

    def kill_broker(self) -> str: ...

    def start_broker(self, name: str) -> None: ...

    def await_takeover(self, pid: int) -> None: ...

    def kill_leader(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """A name and what it does; ``brokers`` is how many the cluster must have."""

    name: str
    strike: Callable[[World], None]
    brokers: int = 1


def _sigkill(world: World) -> None:
    world.signal_worker(signal.SIGKILL)
    time.sleep(world.random.uniform(0, 1))
    world.start_worker()


def _sigterm(world: World) -> None:
    world.signal_worker(signal.SIGTERM)
    world.start_worker()


def _zombie(world: World) -> None:
    """Asleep until its partitions are somebody else's, and then some: it wakes up amidst what is not its own."""
    pid = world.signal_worker(signal.SIGSTOP)
    world.await_takeover(pid)
    time.sleep(world.random.uniform(1, 4))
    world.resume_worker(pid)


def _storm(world: World) -> None:
    for workers in (3, 1, 2):
        world.scale(workers)
        time.sleep(world.random.uniform(0.5, 2.5))


def _broker(world: World) -> None:
    broker = world.kill_broker()
    time.sleep(world.random.uniform(0.5, 3))
    world.start_broker(broker)


def _leader(world: World) -> None:
    """The leader of a partition dies and the others go on without it, for a while."""
    broker = world.kill_leader()
    time.sleep(world.random.uniform(2, 6))
    world.start_broker(broker)


FAULTS = (
    Fault("worker-sigkill", _sigkill),
    Fault("worker-sigterm", _sigterm),
    Fault("worker-zombie", _zombie),
    Fault("rebalance-storm", _storm),
    Fault("broker-sigkill", _broker),
    Fault("leader-sigkill", _leader, brokers=3),
)


def draw(rng: random.Random, count: int, only: tuple[str, ...] = (), brokers: int = 1) -> list[Fault]:
    """``count`` faults, any that a cluster of so many brokers can have, or those of them named ``only``."""
    choice = [fault for fault in FAULTS if fault.brokers <= brokers and (not only or fault.name in only)]
    return [rng.choice(choice) for _ in range(count)]
