"""What a worker remembers, through batches, repetitions and restarts."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial
from typing import Any
from zlib import crc32

import pytest

from demo.folding import enrich_from
from headwater_ops.demo.boards import legs_by_airport
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.events import FLIGHT_TOPICS, WEATHER, References, references, replay
from headwater_ops.demo.oracle import Oracle, differences
from headwater_ops.demo.stores import Boards, Flights, Read

PARTITIONS = 4
State = dict[str, Any]


class Crash(Exception):
    pass


class Pipeline:
    """The demo's dataflow over lists: topics with partitions, two readers that commit, crash and start anew."""

    def __init__(self, data: Dataset, entities: References, chance: random.Random) -> None:
        self.enrich = partial(enrich_from, entities)
        self.chance = chance
        self.logs: dict[tuple[str, int], list[Read]] = defaultdict(list)
        self.flights: dict[str, State] = {}
        self.boards: dict[str, tuple[int, State]] = {}
        self.versions: dict[str, int] = {}
        self.crashes = 0
        for event in replay(data):
            self.append(event.topic, event.key, event.value)

    def append(self, topic: str, key: str, value: State) -> None:
        log = self.logs[topic, partition_of(key)]
        log.append(Read(topic, len(log), key, value))

    def maybe_crash(self) -> None:
        if self.chance.random() < 0.05:
            self.crashes += 1
            raise Crash

    def read_all(self, topics: tuple[str, ...], kind: type[Flights] | type[Boards], states: Any, handle: Any) -> None:
        """Every partition of ``topics``, batch by batch; after a crash from the last commit, memory restored."""
        for partition in range(PARTITIONS):
            committed = dict.fromkeys(topics, 0)
            store = restored(kind, states, partition)
            while waiting := [t for t in topics if committed[t] < len(self.logs[t, partition])]:
                topic = self.chance.choice(waiting)
                batch = self.logs[topic, partition][committed[topic] :][: self.chance.randrange(1, 400)]
                try:
                    handle(store, f"{topic}-{partition}", batch)
                    self.maybe_crash()
                    committed[topic] += len(batch)
                except Crash:
                    store = restored(kind, states, partition)

    def track_flights(self, store: Flights, source: str, batch: list[Read]) -> None:
        changed, facts = store.fold(batch, self.enrich)
        for number, (airport, record) in enumerate(legs_by_airport(source, facts).items()):
            self.append("flights.legs", airport, record)
            if number % 16 == 0:
                self.maybe_crash()
        for key, state in changed.items():
            self.changed(f"flight {key}", Flights.version(state))
            self.flights[key] = state
        store.keep(changed)

    def keep_boards(self, store: Boards, _: str, batch: list[Read]) -> None:
        changed = store.fold(batch)
        self.maybe_crash()
        for key, (version, _state) in changed.items():
            self.changed(f"board {key}", version)
        self.boards.update(changed)
        store.keep(changed)

    def changed(self, key: str, version: int) -> None:
        assert version > self.versions.get(key, 0), f"version of {key} does not grow"
        self.versions[key] = version


def partition_of(key: str) -> int:
    return crc32(key.encode()) % PARTITIONS


def restored(kind: type[Flights] | type[Boards], states: dict[str, Any], partition: int) -> Flights | Boards:
    store = kind()
    store.keep({key: state for key, state in states.items() if partition_of(key) == partition})
    return store


@pytest.mark.parametrize("attempt", range(2))
def test_the_pipeline_equals_the_oracle_through_crashes_at_every_step(sample: Dataset, attempt: int) -> None:
    seed = random.randrange(2**32)
    print(f"attempt {attempt}, seed {seed}")
    pipeline = Pipeline(sample, references(sample), random.Random(seed))

    pipeline.read_all(FLIGHT_TOPICS, Flights, pipeline.flights, pipeline.track_flights)
    pipeline.read_all(("flights.legs", WEATHER), Boards, pipeline.boards, pipeline.keep_boards)

    assert pipeline.crashes > 5
    oracle = Oracle(sample)
    found = [d for key, state in oracle.flights() for d in differences("flight", key, state, pipeline.flights[key])]
    for key, state in oracle.airports().items():
        found += differences("airport-board", key, state, pipeline.boards[key][1])
    assert found == []


def test_a_fold_that_is_not_kept_changes_nothing(sample: Dataset) -> None:
    entities = references(sample)
    batch = [Read(e.topic, n, e.key, e.value) for n, e in enumerate(replay(sample)) if e.topic in FLIGHT_TOPICS][:500]
    store = Flights()
    first = store.fold(batch, partial(enrich_from, entities))
    assert store.fold(batch, partial(enrich_from, entities)) == first
    store.keep(first[0])
    assert store.fold(batch, partial(enrich_from, entities)) == ({}, [])
