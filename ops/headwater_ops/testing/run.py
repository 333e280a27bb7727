"""One run: events are sent, faults strike, everything settles, the verdict is given."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headwater_ops.testing.faults import Fault, draw
from headwater_ops.testing.servers import Servers
from headwater_ops.testing.verdict import Event, Verdict, event_id, judge, read_effects
from headwater_ops.testing.world import Launch, World
from headwater_schemas.errors import HeadwaterError, UsageError
from headwater_schemas.settings import KafkaSettings
from headwater_schemas.wire import CE_ID
from headwater_streams.transport.log import Log

__all__ = ["FaultRun", "Load", "NoEffect"]

_PARTITIONS = 4  # of a topic that is not there yet
_BURST = 20
_FIRST_EFFECT = 180.0  # seconds that workers may take to start, on a machine that is busy
_LOOK_AGAIN = 2.0  # seconds without an effect after which the dead letters are looked at


class NoEffect(HeadwaterError):
    """The app never began to work: there is nothing to judge."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Args:
        value: the bytes of an event.
        keys: the events' keys.
        events: at least so many are sent; sending goes on until the faults are over.
        rate: events per second.
    """

    value: Callable[[Event], bytes]
    keys: Sequence[str]
    events: int
    rate: float


@dataclass
class FaultRun:
    """A run of one app. The event's id (``KEY/NUMBER``, in the header ``ce_id``) is what its handler notes.

    Args:
        seed: draws keys, victims and pauses; the same seed does the same, but for timing.
        launch: the worker.
        group: its consumer group, also the stem of the workers' names.
        topic: is made when it is not there.
        faults: these strike, or so many that are drawn from ``only`` (empty: from all).
        dead: reads the dead letters.
        quiet: seconds without a new effect after which what has none is lost. More than any of its retries takes.
    """

    seed: int
    launch: Launch
    servers: Servers
    group: str
    topic: str
    load: Load
    faults: int | Sequence[Fault]
    dead: Callable[[], Iterable[Event]]
    only: tuple[str, ...] = ()
    workers: int = 2
    quiet: float = 90.0
    sent: dict[Event, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._begun = threading.Event()
        self._over = threading.Event()
        brokers, network = self.servers.brokers, self.servers.network is not None
        if isinstance(self.faults, int):
            self.faults = draw(self._random, self.faults, self.only, brokers, network)
        for fault in self.faults:
            if not fault.possible(brokers, network):
                raise UsageError(
                    f"{fault.name} needs {fault.brokers} brokers or a network; there are {brokers} brokers"
                )

    def __call__(self, doomed: Callable[[Event], bool] | None = None) -> Verdict:
        """Run it. Blocks for as long as the faults take and then until everything has settled.

        Args:
            doomed: whether an event must become a dead letter, where that is known.

        Raises:
            NoEffect: the workers ended, or did nothing for three minutes.
        """
        assert not isinstance(self.faults, int)
        verdict = Verdict(self.seed, [fault.name for fault in self.faults])
        effects = self.launch.folder / f"{self.group}.effects"
        effects.unlink(missing_ok=True)
        launch = replace(self.launch, env={**self.launch.env, "HEADWATER_TEST_EFFECTS": str(effects)})
        bootstrap = self.servers.endpoints.bootstrap
        world = World(
            launch,
            self.group,
            self.topic,
            bootstrap=bootstrap,
            rng=self._random,
            verdict=verdict,
            stack=self.servers.stack,
            network=self.servers.network,
        )
        _make_topic(bootstrap, self.topic, min(3, self.servers.brokers))
        sending = threading.Thread(target=self._send, args=(bootstrap,))
        sending.start()
        try:
            world.scale(self.workers)
            self._await_effects(world, effects)
            self._begun.set()
            struck = list(self._strike(world))
            self._over.set()
            sending.join()
            self._settle(effects)
        finally:
            self._begun.set()
            self._over.set()
            sending.join()
            world.stop()
        verdict.behind = _behind(bootstrap, self.group, self.topic)
        expected = None if doomed is None else {event for event in self.sent if doomed(event)}
        known = [effect for effect in read_effects(effects) if effect.event in self.sent]
        return judge(verdict, self.sent, known, self._died(), expected, struck)

    def _strike(self, world: World) -> Iterable[float]:
        assert not isinstance(self.faults, int)
        for fault in self.faults:
            yield time.time()
            fault.strike(world)
            time.sleep(self._random.uniform(1, 3))

    def _died(self) -> set[Event]:
        return self.sent.keys() & set(self.dead())

    def _send(self, bootstrap: str) -> None:
        """Send at a steady pace until the faults are over; only what the broker acknowledged counts."""
        rng = random.Random(self.seed + 1)
        producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
        numbers = dict.fromkeys(self.load.keys, 0)
        sent = 0
        while sent < self.load.events or not self._over.is_set():
            key = rng.choice(self.load.keys)
            event = (key, numbers[key])
            numbers[key] += 1
            producer.produce(
                self.topic,
                self.load.value(event),
                key.encode(),
                headers={CE_ID: event_id(event)},
                on_delivery=self._noting(event),
            )
            producer.poll(0)
            sent += 1
            if sent % _BURST == 0:
                self._begun.wait()  # a first few for the workers to begin with
                time.sleep(_BURST / self.load.rate)
        producer.flush(60)

    def _noting(self, event: Event) -> Callable[[KafkaError | None, Message], None]:
        """A delivery callback that notes what the broker has, and where."""

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                self.sent[event] = message.partition()

        return delivered

    def _await_effects(self, world: World, effects: Path) -> None:
        end = time.monotonic() + _FIRST_EFFECT
        while not read_effects(effects):
            ended = all(worker.process.poll() is not None for worker in world.workers)
            if ended or time.monotonic() > end:
                raise NoEffect(
                    f"{self.group}: {'its workers ended' if ended else f'nothing in {_FIRST_EFFECT:.0f} s'} before any "
                    f"effect: does its handler call note_effect(event.id)? Their logs are in {self.launch.folder}"
                )
            time.sleep(0.1)

    def _settle(self, effects: Path) -> None:
        """Wait until every event has had its effect or is a dead letter, or nothing happens any more."""
        size, changed = -1, time.monotonic()
        while time.monotonic() < changed + self.quiet:
            if effects.stat().st_size != size:
                size, changed = effects.stat().st_size, time.monotonic()
            done = {effect.event for effect in read_effects(effects)}
            if self.sent.keys() <= done:
                return
            if time.monotonic() > changed + _LOOK_AGAIN and self.sent.keys() <= done | self._died():
                return
            time.sleep(0.5)


def _make_topic(bootstrap: str, topic: str, replicas: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if topic not in admin.list_topics(timeout=30).topics:
        admin.create_topics([NewTopic(topic, _PARTITIONS, replicas)])[topic].result(30)


def _behind(bootstrap: str, group: str, topic: str) -> int:
    log = Log(KafkaSettings(bootstrap=bootstrap))
    partitions = log.partitions(topic)
    ends, committed = log.ends(partitions), log.committed(group, partitions)
    return sum(ends[tp] - committed.get(tp, 0) for tp in partitions)
