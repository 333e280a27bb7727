"""The faults: each is one thing that happens to a worker, a broker or the network between, drawn from a seed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from headwater_ops.testing.world import World
from headwater_schemas.errors import UsageError

__all__ = ["FAULTS", "Fault", "draw", "named"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A name and what it does.

    Attributes:
        brokers: how many of them must be ours to kill.
        network: whether the workers must reach them through proxies.
    """

    name: str
    strike: Callable[[World], None]
    brokers: int = 0
    network: bool = False

    def possible(self, brokers: int, network: bool) -> bool:
        return self.brokers <= brokers and (network or not self.network)


def _sigkill(world: World) -> None:
    world.signal_worker(signal.SIGKILL)
    time.sleep(world.random.uniform(0, 1))
    world.start_worker()


def _sigterm(world: World) -> None:
    world.signal_worker(signal.SIGTERM)
    world.start_worker()


def _zombie(world: World) -> None:
    """Asleep until its partitions are somebody else's, and then some: it wakes up amidst what is not its own."""
    worker = world.signal_worker(signal.SIGSTOP)
    world.await_takeover([worker])
    time.sleep(world.random.uniform(1, 4))
    worker.process.send_signal(signal.SIGCONT)


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


def _latency(world: World) -> None:
    """Every answer of the brokers takes longer, for some of the workers."""
    way, _ = world.pick_way()
    world.network.slow(way, world.random.uniform(0.05, 0.5))
    time.sleep(world.random.uniform(2, 5))
    world.network.slow(way, 0)


def _blackhole(world: World) -> None:
    """Silence: for a moment, or until the partitions are somebody else's while the worker goes on with what it has."""
    way, workers = world.pick_way()
    world.network.cut(way)
    try:
        if world.random.random() < 0.5:
            world.await_takeover(workers)
        time.sleep(world.random.uniform(1, 4))
    finally:
        world.network.mend(way)


def _reset(world: World) -> None:
    way, _ = world.pick_way()
    for _ in range(world.random.randint(2, 6)):
        world.network.reset(way)
        time.sleep(world.random.uniform(0.1, 1))


FAULTS = (
    Fault("worker-sigkill", _sigkill),
    Fault("worker-sigterm", _sigterm),
    Fault("worker-zombie", _zombie),
    Fault("rebalance-storm", _storm),
    Fault("broker-sigkill", _broker, brokers=1),
    Fault("leader-sigkill", _leader, brokers=3),
    Fault("network-latency", _latency, network=True),
    Fault("network-blackhole", _blackhole, network=True),
    Fault("network-reset", _reset, network=True),
)


def draw(
    rng: random.Random, count: int, only: tuple[str, ...] = (), brokers: int = 1, network: bool = False
) -> list[Fault]:
    """``count`` faults, any that can be had with so many brokers, or those of them named ``only``."""
    choice = [fault for fault in FAULTS if fault.possible(brokers, network) and (not only or fault.name in only)]
    return [rng.choice(choice) for _ in range(count)]


def named(name: str) -> Fault:
    """The fault of this name.

    Raises:
        UsageError: there is none.
    """
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise UsageError(f"there is no fault {name!r}: pass one of {', '.join(fault.name for fault in FAULTS)}")
