"""What a worker remembers, through batches, repetitions, crashes and restarts."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

import pytest

from demo.folding import enrich_from
from headwater_ops.demo.boards import legs_by_airport
from headwater_ops.demo.dataset import Dataset
from headwater_ops.demo.events import DemoEvent, References, references, replay
from headwater_ops.demo.oracle import Oracle, differences
from headwater_ops.demo.stores import Boards, Flights, Read
from headwater_ops.demo.topics import FLIGHT_TOPICS, WEATHER

PARTITIONS = 4
LEGS = "flights.legs"
CHANGES = {Flights: "flight.changes", Boards: "airport-board.changes"}

State = dict[str, Any]
Store = Flights | Boards


class Log:
    """Topics with partitions. What is emitted is in flight at first; a crash loses it, from any record on."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.records: dict[tuple[str, int], list[Read]] = defaultdict(list)
        self.in_flight: dict[tuple[str, int], list[tuple[str, Any]]] = defaultdict(list)

    def append(self, topic: str, key: str, value: Any) -> None:
        records = self.records[topic, partition_of(key)]
        records.append(Read(topic, len(records), key, value))

    def emit(self, topic: str, key: str, value: Any) -> None:
        self.in_flight[topic, partition_of(key)].append((key, value))

    def acknowledge(self) -> None:
        for (topic, _), emitted in self.in_flight.items():
            for key, value in emitted:
                self.append(topic, key, value)
        self.in_flight.clear()

    def crash(self) -> None:
        for emitted in self.in_flight.values():
            del emitted[self.chance.randrange(len(emitted) + 1) :]
        self.acknowledge()

    def latest(self, topic: str, partition: int) -> dict[str, Any]:
        return {record.key: record.value for record in self.records[topic, partition]}


def partition_of(key: str) -> int:
    return crc32(key.encode()) % PARTITIONS


def restored(kind: type[Store], log: Log, partition: int) -> Any:
    store: Any = kind()
    store.keep(log.latest(CHANGES[kind], partition))
    return store


def run(kind: type[Store], topics: tuple[str, ...], log: Log, handle: Callable[[Any, str, list[Read]], None]) -> int:
    """Read all partitions of ``topics`` to their ends, committing what is acknowledged; returns how often it crashed.

    A crash loses the memory and what is in flight, and reads again from what was committed.
    """
    crashes = 0
    for partition in range(PARTITIONS):
        read = dict.fromkeys(topics, 0)
        committed = dict(read)
        store = restored(kind, log, partition)
        while waiting := [topic for topic in topics if read[topic] < len(log.records[topic, partition])]:
            topic = log.chance.choice(waiting)
            batch = log.records[topic, partition][read[topic] :][: log.chance.randrange(1, 300)]
            handle(store, f"{topic}-{partition}", batch)
            read[topic] += len(batch)
            event = log.chance.random()
            if event < 0.4:
                log.acknowledge()
                committed = dict(read)
            elif event < 0.5:
                log.crash()
                read = dict(committed)
                store = restored(kind, log, partition)
                crashes += 1
        log.acknowledge()
    return crashes


def flights_and_boards(
    events: list[DemoEvent], entities: References, chance: random.Random
) -> tuple[dict[str, State], dict[str, State], int]:
    """The demo's dataflow; gives the last states on the log and the number of crashes."""
    log = Log(chance)
    for event in events:
        log.append(event.topic, event.key, event.value)
    enrich = partial(enrich_from, entities)

    def track_flights(store: Flights, source: str, batch: list[Read]) -> None:
        changed, facts = store.fold(batch, enrich)
        for airport, record in legs_by_airport(source, facts).items():
            log.emit(LEGS, airport, record)
        for key, state in changed.items():
            log.emit(CHANGES[Flights], key, state)
        store.keep(changed)

    def keep_boards(store: Boards, _: str, batch: list[Read]) -> None:
        changed = store.fold(batch)
        for key, versioned in changed.items():
            log.emit(CHANGES[Boards], key, versioned)
        store.keep(changed)

    crashes = run(Flights, FLIGHT_TOPICS, log, track_flights) + run(Boards, (LEGS, WEATHER), log, keep_boards)
    flights: dict[str, State] = {}
    boards: dict[str, State] = {}
    for partition in range(PARTITIONS):
        flights |= log.latest(CHANGES[Flights], partition)
        boards |= {key: board for key, (_, board) in log.latest(CHANGES[Boards], partition).items()}
    return flights, boards, crashes


@pytest.mark.parametrize("attempt", range(3))
def test_the_pipeline_equals_the_oracle_through_crashes_and_second_events(sample: Dataset, attempt: int) -> None:
    seed = random.randrange(2**32)
    print(f"attempt {attempt}, seed {seed}")
    chance = random.Random(seed)
    events = list(replay(sample))
    for again in chance.sample(events, 500):  # sent twice by an impatient service: another record, the same event
        events.insert(chance.randrange(len(events)), again)

    flights, boards, crashes = flights_and_boards(events, references(sample), chance)

    assert crashes > 10
    oracle = Oracle(sample)
    found = [d for key, state in oracle.flights() for d in differences("flight", key, state, flights[key])]
    for key, state in oracle.airports().items():
        found += differences("airport-board", key, state, boards[key])
    assert found == []


def test_a_fold_that_is_not_kept_changes_nothing(sample: Dataset) -> None:
    enrich = partial(enrich_from, references(sample))
    batch = [Read(e.topic, n, e.key, e.value) for n, e in enumerate(replay(sample)) if e.topic in FLIGHT_TOPICS][:5000]
    store = Flights()
    changed, facts = store.fold(batch, enrich)
    assert store.fold(batch, enrich) == (changed, facts)


def test_a_repeated_record_tells_its_fact_again_and_a_second_event_does_not(sample: Dataset) -> None:
    enrich = partial(enrich_from, references(sample))
    batch = [Read(e.topic, n, e.key, e.value) for n, e in enumerate(replay(sample)) if e.topic in FLIGHT_TOPICS][:5000]
    store = Flights()
    changed, facts = store.fold(batch, enrich)
    store.keep(changed)
    assert facts
    assert store.fold(batch, enrich) == ({}, facts)
    assert store.fold([record._replace(offset=record.offset + 10_000) for record in batch], enrich) == ({}, [])
