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

    def kill_broker(self) -> None: ...

    def start_broker(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """A name and what it does; ``needs_brokers`` is how many the cluster must have."""

    name: str
    strike: Callable[[World], None]


def _sigkill(world: World) -> None:
    world.signal_worker(signal.SIGKILL)
    time.sleep(world.random.uniform(0, 1))
    world.start_worker()


def _sigterm(world: World) -> None:
    world.signal_worker(signal.SIGTERM)
    world.start_worker()


def _zombie(world: World) -> None:
    """Longer than the session: the group gives its partitions away while it sleeps."""
    pid = world.signal_worker(signal.SIGSTOP)
    time.sleep(world.random.uniform(8, 12))
    world.resume_worker(pid)


def _storm(world: World) -> None:
    for workers in (3, 1, 2):
        world.scale(workers)
        time.sleep(world.random.uniform(0.5, 2.5))


def _broker(world: World) -> None:
    world.kill_broker()
    time.sleep(world.random.uniform(0.5, 3))
    world.start_broker()


FAULTS = (
    Fault("worker-sigkill", _sigkill),
    Fault("worker-sigterm", _sigterm),
    Fault("worker-zombie", _zombie),
    Fault("rebalance-storm", _storm),
    Fault("broker-sigkill", _broker),
)


def draw(rng: random.Random, count: int, only: tuple[str, ...] = ()) -> list[Fault]:
    """``count`` faults, any of them or those named ``only``."""
    choice = [fault for fault in FAULTS if not only or fault.name in only]
    return [rng.choice(choice) for _ in range(count)]
